"""The comparison of methods: every method with every seed under one configuration.

A cell is a method with a seed: a run folder OUT/METHOD/seedN that `causalseg train` fills in a
process of its own. Cells run seed by seed, so that an early table has all methods. Results of
earlier comparisons in the folder stay in the table if they share the configuration.

Workers know of each other by the folder alone: locks, run folders and results. Whoever finishes a
cell writes its result and the table of all that is finished.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from causalseg.build.data import build_data, with_classes_inside, with_steps
from causalseg.build.model import check_method
from causalseg.config import Config
from causalseg.config.load import apply_override, flatten, load_config
from causalseg.config.stages import Stage, keys_of, stage_of
from causalseg.errors import CausalsegError, ConfigError, RunError, did_you_mean, list_some
from causalseg.jobs.compare.methods import folder_name
from causalseg.jobs.compare.workers import WRITING_TIME, StudyCell, join_workers, run_cells
from causalseg.jobs.train import list_changes
from causalseg.report import comparison
from causalseg.report.comparison_page import comparison_to_markdown, write_comparison
from causalseg.report.result import Method, Result, collect_result, read_result
from causalseg.runs.folder import locked
from causalseg.runs.log import logger
from causalseg.runs.scores import MEAN
from causalseg.writing import write_json, write_text

_OWN = {key.removeprefix("run.") for key in keys_of(Config, Stage.OWN)}  # options of `run`


class Study(NamedTuple):
    """A comparison that can be run.

    ``methods`` are the rows and ``seeds`` those of each: from earlier comparisons in the folder,
    whose results are ``earlier``, and from ``cells``, in the order in which they run.
    """

    title: str
    methods: list[Method]
    seeds: dict[str, list[int]]
    reference: str
    out: Path
    cells: list[StudyCell]
    earlier: comparison.Results


def plan_study(
    config: Path,
    overrides: Sequence[str],
    methods: Sequence[Method],
    seeds: Sequence[int],
    reference: str | None = None,
    out: Path | None = None,
) -> Study:
    """Plan a comparison; raise CausalsegError with all that is known to be wrong before it runs.

    ``config`` and ``overrides`` are shared by all methods. The default of ``reference`` is that of
    earlier comparisons in the folder, or the first method; that of ``out`` is runs/compare_NAME.
    """
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ConfigError(f"seeds {list(seeds)}: name at least one, each once, 0 or more")
    _check_overrides(overrides, methods)
    out = out or Path("runs") / f"compare_{config.stem}"
    results = comparison.read_results(out / "results")
    rows, planned = _join_methods(results, methods, seeds)
    reference = _choose_reference(reference, results, rows, methods[0])
    cells = _parse(config, overrides, methods, seeds, out)
    keys = {cell.key for cell in cells}
    earlier = {key: result for key, result in results.items() if key not in keys}
    shared = cells[0].config
    data = shared.data.model_copy(update={"cache": "none"})
    sources, _ = build_data(data, shared.inference)
    cells = [cell._replace(config=with_steps(cell.config, len(sources))) for cell in cells]
    mistakes = []
    for cell in cells:
        try:
            _check_cell(cell)
        except CausalsegError as error:
            mistakes.append(str(error))
    if mistakes:
        raise RunError("\n".join(mistakes))
    _check_earlier(out, rows, cells, earlier)
    return Study(f"Comparison: {config.stem}", rows, planned, reference, out, cells, earlier)


def run_study(
    study: Study,
    jobs: int = 1,
    publish: Callable[[comparison.Comparison], None] = lambda compared: None,
) -> tuple[comparison.Comparison | None, list[str]]:
    """Run free cells, ``jobs`` side by side; write results and tables after each.

    ``publish`` is called after each, too, with the comparison so far, by one worker at a time.

    Returns the comparison, None without any finished cell, and which cells failed and why. Raises
    RunError if another comparison runs in the folder.
    """
    results: dict[tuple[str, int], Result] = {}
    failures: dict[tuple[str, int], str] = {}
    latest: comparison.Comparison | None = None

    def gather() -> None:
        """Take up what is finished, by any worker; write what is new, and the tables."""
        nonlocal latest
        with locked(study.out, timeout=WRITING_TIME):
            found = {} if results else dict(study.earlier)
            for cell in study.cells:
                if cell.key not in results and cell.is_finished:
                    found[cell.key] = collect_result(cell.run)
            for key, result in found.items():
                results[key] = _label(study, *key, result)
            if found:
                latest = _write_tables(study, results)
                publish(latest)

    def ended(cell: StudyCell, failure: str | None) -> None:
        if failure is None:
            gather()
        else:
            failures[cell.key] = f"{cell.label}: {failure}"

    with join_workers(study.out, study.cells, study.reference) as number:
        gather()
        unfinished = [cell for cell in study.cells if cell.key not in results]
        count = len(study.cells)
        logger.info("%d runs, %d of them finished before", count, count - len(unfinished))
        run_cells(unfinished, range(number * jobs, (number + 1) * jobs), ended)
        gather()
    if others := [c.label for c in unfinished if c.key not in {*results, *failures}]:
        logger.info("run by other workers: %s", list_some(others, 9))
    return latest, list(failures.values())


def check_failures(study: Study, failures: Sequence[str]) -> None:
    """Raise RunError with all failed runs, if there are any."""
    if failures:
        heading = f"{len(failures)} of {len(study.cells)} runs failed:"
        raise RunError("\n  ".join([heading, *failures]) + "\nthe same command tries them again")


def _join_methods(
    results: comparison.Results, methods: Sequence[Method], seeds: Sequence[int]
) -> tuple[list[Method], dict[str, list[int]]]:
    """Return the rows, earlier ones first, and the seeds that each should have.

    An earlier one keeps its place, so a worker that comes later has the order of the first.
    """
    listed = comparison.list_methods(results)
    rows = {method.name: method for method, _ in listed}
    places = {name: result.label.place for (name, _), result in results.items()}
    free = (place for place in itertools.count() if place not in places.values())
    planned = {method.name: set(theirs) for method, theirs in listed}
    folders = {folder_name(method): method.name for method in rows.values()}
    for method in methods:
        other = folders.setdefault(folder_name(method), method.name)
        if other != method.name:
            raise ConfigError(f"{method.name} would share the folder of {other}")
        rows[method.name] = method
        if method.name not in places:
            places[method.name] = next(free)
        planned.setdefault(method.name, set()).update(seeds)
    ordered = sorted(rows.values(), key=lambda method: places[method.name])
    return ordered, {name: sorted(theirs) for name, theirs in planned.items()}


def _choose_reference(
    name: str | None, results: comparison.Results, rows: Sequence[Method], first: Method
) -> str:
    names = [method.name for method in rows]
    earlier = {result.label.reference for result in results.values()}.intersection(names)
    if name is None:
        return earlier.pop() if len(earlier) == 1 else first.name
    if name not in names:
        raise ConfigError(f"reference {name!r} is none of the methods; {did_you_mean(name, names)}")
    return name


def _check_overrides(overrides: Sequence[str], methods: Sequence[Method]) -> None:
    """Raise ConfigError for overrides of the shared configuration that would have no effect."""
    for override in overrides:
        keys = [key for key, _ in flatten(apply_override({}, override))]
        if any(Stage.OWN in stage_of(Config, key) for key in keys):
            raise ConfigError(
                f"override {override!r} would have no effect: folder, seeds and resuming are set "
                "by the comparison, see --out and --seeds"
            )
        masking = [method.name for method in methods if _sets_any(method, keys)]
        if masking:
            raise ConfigError(
                f"override {override!r} would have no effect on methods that set this themselves: "
                f"{', '.join(masking)}; set it in a methods file, or leave these methods out"
            )


def _sets_any(method: Method, keys: Sequence[str]) -> bool:
    # Without an adapter there is no rate for one, whatever is shared.
    own = [o.partition("=")[0] for o in method.overrides if o != "train.adapter_lr=null"]
    return any(f"{key}.".startswith(f"{changed}.") for key in keys for changed in own)


def _parse(
    config: Path,
    overrides: Sequence[str],
    methods: Sequence[Method],
    seeds: Sequence[int],
    out: Path,
) -> list[StudyCell]:
    """Return every method with every seed; the error has the mistakes of all methods."""
    configs: list[Config] = []
    mistakes: list[str] = []
    unusable: dict[str, list[str]] = {}  # methods by their mistake
    contents: dict[str, str] = {}
    for method in methods:
        try:
            parsed = load_config(config, [*overrides, *method.overrides, "run.resume=false"])
            check_method(parsed)
        except CausalsegError as error:
            unusable.setdefault(str(error), []).append(method.name)
            continue
        known = {*parsed.data.domains, MEAN}
        for name in sorted(method.reported.keys() - known):
            hint = did_you_mean(name, known)
            mistakes.append(f"{method.name}: reported names a domain {name!r}; {hint}")
        if parsed.run.nodes > 1:
            mistakes.append(f"run.nodes = {parsed.run.nodes}: a comparison runs on one machine")
        same = contents.setdefault(parsed.model_dump_json(exclude={"run": _OWN}), method.name)
        if same != method.name:
            mistakes.append(f"{method.name}: the same configuration as {same}, drop one")
        configs.append(parsed)
    mistakes = [f"{list_some(names, 3)}: {text}" for text, names in unusable.items()] + mistakes
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    cells = []
    for seed in seeds:
        for method, parsed in zip(methods, configs, strict=True):
            folder = out / folder_name(method) / f"seed{seed}"
            own = parsed.with_options("run", seed=seed, out=str(folder))
            cells.append(StudyCell(method, seed, own))
    return cells


def _check_cell(cell: StudyCell) -> None:
    """Refuse a folder with a run of another configuration."""
    run = cell.run
    if not (cell.is_finished or run.checkpoint.is_file()):
        return
    rows = list_changes(run, with_classes_inside(cell.config), Stage.COMPARE)
    if cell.is_finished:
        scored = run.read_json(run.eval).get("overrides", [])
        rows += [
            f"  scored with {override}"
            for override in scored
            if Stage.COMPARE not in stage_of(Config, override.partition("=")[0])
        ]
    if rows:
        heading = f"{run.path} contains another run:"
        hint = "choose another folder with --out, or delete this one"
        raise RunError("\n".join([heading, *rows, hint]))


def _check_earlier(
    out: Path, rows: Sequence[Method], cells: Sequence[StudyCell], earlier: comparison.Results
) -> None:
    """Refuse cells that do not share the configuration of earlier results."""
    overrides = {method.name: method.overrides for method in rows}
    configs = {cell.key: with_classes_inside(cell.config).model_dump(mode="json") for cell in cells}
    configs |= {key: result.config for key, result in earlier.items()}
    changed = {key: (overrides[key[0]], config) for key, config in configs.items()}
    try:
        comparison.check_shared(changed)
    except RunError as error:
        if not earlier:
            raise
        raise RunError(
            f"{error}\n{out / 'results'} has results of another comparison: choose another folder "
            "with --out"
        ) from error


def _label(study: Study, name: str, seed: int, result: Result) -> Result:
    """Write a result with its method and comparison; return it."""
    row = [method.name for method in study.methods].index(name)
    method = study.methods[row]
    labelled = comparison.label_result(result, method, row, study.reference, study.seeds[name])
    file = study.out / "results" / f"{folder_name(method)}_seed{seed}.json"
    if not file.is_file() or labelled != read_result(file):
        write_json(file, labelled.to_json())
    return labelled


def _write_tables(study: Study, results: dict[tuple[str, int], Result]) -> comparison.Comparison:
    compared = comparison.compare_results(study.methods, study.seeds, study.reference, results)
    write_text(study.out / "compare.md", f"# {study.title}\n\n{comparison_to_markdown(compared)}")
    write_comparison(compared, study.title, study.out / "compare.html")
    return compared
