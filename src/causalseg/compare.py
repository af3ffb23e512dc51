"""The fair comparison of methods: every method x seed under one configuration.

A cell is a method and a seed: a run folder OUT/METHOD/seedN that `causalseg train` fills in a
process of its own. Cells run seed by seed, so that an early table has all methods, and the table is
written anew after each. What is finished is kept, what was interrupted goes on from its checkpoint,
and all mistakes that can be known are found before the first cell starts.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from causalseg.analysis.comparison import (
    MEAN,
    Comparison,
    Method,
    Result,
    compare_results,
    label_result,
)
from causalseg.build import build_domains, build_inference, build_sources, with_classes_inside
from causalseg.cards import collect_result
from causalseg.cells import Cell, open_log, run_cells
from causalseg.comparison_page import to_markdown, write_html
from causalseg.config import Config
from causalseg.configfile import list_differences, load_config
from causalseg.engine.log import logger
from causalseg.errors import CausalsegError, ConfigError, RunError, did_you_mean
from causalseg.methods import folder_name
from causalseg.runfolder import write_json, write_text

_OWN = ("run.out=", "run.seed=", "run.resume=")  # what the comparison sets itself
# What may differ between a cell's folder and now: places, speed, what is kept on the way.
_FREE = {
    *("run.out", "run.resume", "run.accelerator", "run.threads", "run.log_every"),
    *("run.save_every", "run.keep", "train.workers", "data.root", "backbone.checkpointing"),
    *("eval.every", "eval.limit", "eval.pictures"),
}


class Study(NamedTuple):
    """A comparison that can be run.

    Attributes:
        title: of its table.
        methods: the rows.
        seeds: of every method.
        reference: name of the method that the others are held against.
        out: folder of everything.
        cells: in the order in which they run.
    """

    title: str
    methods: list[Method]
    seeds: list[int]
    reference: str
    out: Path
    cells: list[Cell]


def plan_study(
    config: Path,
    overrides: Sequence[str],
    methods: Sequence[Method],
    seeds: Sequence[int],
    reference: str | None = None,
    out: Path | None = None,
) -> Study:
    """Check all that can be known about a comparison before it runs.

    Args:
        config: YAML file of the shared configuration.
        overrides: of the shared configuration, as key=value.
        methods: the rows.
        seeds: of every method.
        reference: name of one of the methods; None takes the first.
        out: folder of everything; None takes runs/compare_NAME.

    Raises:
        CausalsegError: with every mistake: in a method's configuration, in the data, and every
            cell whose folder holds another run or is in use.
    """
    names = [method.name for method in methods]
    reference = reference or names[0]
    if reference not in names:
        hint = did_you_mean(reference, names)
        raise ConfigError(f"reference {reference!r} is none of the methods compared; {hint}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds {list(seeds)}: name at least one, and each once")
    _check_overrides(overrides, methods)
    out = out or Path("runs") / f"compare_{config.stem}"
    cells = [
        Cell(method, seed, parsed)
        for seed in seeds
        for method, parsed in _parse(config, overrides, methods, seed, out)
    ]
    shared = cells[0].config
    build_inference(shared)
    for dataset in (build_sources(shared), *build_domains(shared).values()):
        dataset[0]  # what is wrong everywhere shows now
    mistakes = []
    for cell in cells:
        try:
            _check_cell(cell)
        except CausalsegError as error:
            mistakes.append(str(error))
    if mistakes:
        raise RunError("\n".join(mistakes))
    return Study(f"Comparison: {config.stem}", list(methods), list(seeds), reference, out, cells)


def run_study(study: Study, jobs: int = 1) -> tuple[Comparison | None, list[str]]:
    """Run what is not finished and write the table after each cell.

    Writes OUT/results/METHOD_seedN.json, OUT/compare.md and OUT/compare.html.

    Args:
        study: what is compared.
        jobs: cells at work side by side.

    Returns:
        The comparison, None without any finished cell, and what failed and why.

    Raises:
        KeyboardInterrupt: if stopped by hand or by a signal; the cells at work are stopped too.
    """
    results: dict[tuple[str, int], Result] = {}
    failures: list[str] = []
    for cell in study.cells:
        if cell.is_finished:
            results[cell.method.name, cell.seed] = _collect(study, cell)
    waiting = [cell for cell in study.cells if (cell.method.name, cell.seed) not in results]
    comparison = _publish(study, results) if results else None

    def ended(cell: Cell, failure: str | None) -> None:
        nonlocal comparison
        if failure is not None:
            failures.append(f"{cell.label}: {failure}")
            return
        results[cell.method.name, cell.seed] = _collect(study, cell)
        comparison = _publish(study, results)

    logger.info("%d runs, %d of them finished before", len(study.cells), len(results))
    run_cells(waiting, jobs, ended)
    return comparison, failures


def _check_overrides(overrides: Sequence[str], methods: Sequence[Method]) -> None:
    """Raise ConfigError for overrides of the shared configuration that would have no effect."""
    has_own = all(any(o.startswith("adapter=") for o in m.overrides) for m in methods)
    for override in overrides:
        if override.startswith(_OWN):
            raise ConfigError(
                f"override {override!r} would have no effect: folder, seeds and resuming are set "
                "by the comparison, see --out and --seeds"
            )
        if has_own and re.match(r"adapter\b", override):
            raise ConfigError(
                f"override {override!r} would have no effect: every method names its own adapter; "
                "give a method's options in a methods file"
            )


def _parse(
    config: Path, overrides: Sequence[str], methods: Sequence[Method], seed: int, out: Path
) -> list[tuple[Method, Config]]:
    """Return the configuration of every method, or raise ConfigError with all mistakes."""
    found, mistakes = [], []
    contents: dict[str, str] = {}
    for method in methods:
        folder = out / folder_name(method) / f"seed{seed}"
        own = [f"run.seed={seed}", f"run.out={folder}", "run.resume=false"]
        try:
            parsed = load_config(config, [*overrides, *method.overrides, *own])
        except ConfigError as error:
            mistakes.append(f"{method.name}: {error}")
            continue
        unknown = method.reported.keys() - {*parsed.data.domains, MEAN}
        for name in sorted(unknown):
            hint = did_you_mean(name, {*parsed.data.domains, MEAN})
            mistakes.append(f"{method.name}: reported names a domain {name!r}; {hint}")
        if parsed.run.nodes > 1:
            mistakes.append(f"run.nodes = {parsed.run.nodes}: a comparison runs on one machine")
        same = contents.setdefault(parsed.model_dump_json(exclude={"run"}), method.name)
        if same != method.name:
            mistakes.append(f"{method.name}: the same configuration as {same}, drop one")
        found.append((method, parsed))
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return found


def _check_cell(cell: Cell) -> None:
    """Raise RunError unless a cell's folder is empty, broken, or of the same configuration."""
    run = cell.run
    if (run.path / "train.log").is_file():
        open_log(run).close()
    if not (cell.is_finished or run.checkpoint.is_file()):
        return
    there = load_config(run.need(run.config))
    changed = list_differences(there, with_classes_inside(cell.config))
    rows = [
        f"  {key}: {theirs} there, {ours} now"
        for key, (theirs, ours) in changed.items()
        if key not in _FREE
    ]
    if cell.is_finished:
        scored = run.read_json(run.eval).get("overrides", [])
        rows += [f"  scored with {o}" for o in scored if o.partition("=")[0] not in _FREE]
    if rows:
        raise RunError(
            f"{run.path} holds another run:\n"
            + "\n".join(rows)
            + "\nchoose another folder with --out, or delete this one"
        )


def _collect(study: Study, cell: Cell) -> Result:
    place = study.methods.index(cell.method)
    result = label_result(
        collect_result(cell.run), cell.method, place, study.reference, study.seeds
    )
    name = f"{folder_name(cell.method)}_seed{cell.seed}.json"
    write_json(study.out / "results" / name, result)
    return result


def _publish(study: Study, results: dict[tuple[str, int], Result]) -> Comparison:
    comparison = compare_results(study.methods, study.seeds, study.reference, results)
    write_text(study.out / "compare.md", f"# {study.title}\n\n{to_markdown(comparison)}")
    write_html(comparison, study.title, study.out / "compare.html")
    return comparison
