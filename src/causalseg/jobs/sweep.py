"""Sweep options: train one configuration at every combination of their values, and show scores.

A cell is a method of a comparison, called `low=0.1,high=0.5`, so finished runs are kept and a wider
grid only adds to them. Nothing is chosen: that is what `tune` does, on source validation.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from causalseg.config import Config
from causalseg.config.load import apply_override, flatten
from causalseg.config.stages import Stage, stage_of
from causalseg.errors import ConfigError
from causalseg.jobs.compare.grid import Grid, combine
from causalseg.jobs.compare.methods import check_changes
from causalseg.jobs.compare.study import Study, plan_study, run_study
from causalseg.report.comparison import Comparison
from causalseg.report.format import OptionValue, value_text
from causalseg.report.result import Method
from causalseg.report.sweep import Cell, Sweep
from causalseg.report.sweep_page import write_sweep
from causalseg.writing import write_json


class SweepPlan(NamedTuple):
    """A sweep that can be run: the values of each cell, and its method in the study."""

    study: Study
    title: str
    grid: Grid
    seeds: list[int]
    methods: list[tuple[dict[str, OptionValue], Method]]


def plan_sweep(
    config: Path, overrides: Sequence[str], grid: Grid, seeds: Sequence[int], out: Path
) -> SweepPlan:
    """Plan a sweep; raise CausalsegError for what is known to be wrong before it runs.

    The other arguments are as in `plan_study`.
    """
    _check_options(grid, overrides)
    names = {key: _short_name(key, grid) for key in grid}
    methods = []
    for values in combine(grid):
        texts = {key: value_text(value) for key, value in values.items()}
        name = ",".join(f"{names[key]}={text}" for key, text in texts.items())
        method = Method(name, [f"{key}={text}" for key, text in texts.items()], {}, "")
        methods.append((values, method))
    study = plan_study(config, overrides, [method for _, method in methods], seeds, None, out)
    return SweepPlan(study, f"Sweep: {config.stem}", grid, list(seeds), methods)


def run_sweep(plan: SweepPlan, jobs: int = 1) -> tuple[Sweep | None, list[str]]:
    """Train unfinished cells; write sweep.json and sweep.html beside the comparison after each.

    Returns the sweep, None without any finished run, and which runs failed and why.
    """

    def publish(comparison: Comparison) -> None:
        if sweep := _gather(plan, comparison):
            write_json(plan.study.out / "sweep.json", sweep.to_json())
            write_sweep(sweep, plan.study.out / "sweep.html")

    comparison, failures = run_study(plan.study, jobs, publish)
    return _gather(plan, comparison) if comparison else None, failures


def _gather(plan: SweepPlan, comparison: Comparison) -> Sweep | None:
    """Return the cells of a comparison, which may have rows of other commands, too."""
    results = {row.method.name: row.results for row in comparison.rows}
    cells = [Cell(values, results[method.name]) for values, method in plan.methods]
    if not any(cell.results for cell in cells):
        return None
    return Sweep(plan.title, plan.grid, plan.seeds, cells)


def _check_options(grid: Grid, overrides: Sequence[str]) -> None:
    """Refuse options that a sweep cannot change, that change no score, or are set beside it."""
    set_beside = {key: o for o in overrides for key, _ in flatten(apply_override({}, o))}
    for key, values in grid.items():
        check_changes([f"{key}={value_text(values[0])}"])
        if Stage.COMPARE in stage_of(Config, key):
            raise ConfigError(f"grid {key}: scores do not depend on it; sweep another option")
        if key in set_beside:
            raise ConfigError(
                f"override {set_beside[key]!r} would have no effect: the grid has values of {key}; "
                "leave out one of them"
            )


def _short_name(key: str, keys: Sequence[str] | Grid) -> str:
    """Return the end of an option's name that no other has: `low` for `adapter.band.low`."""
    parts = key.split(".")
    ends = [".".join(parts[i:]) for i in reversed(range(len(parts)))]
    return next((e for e in ends if sum(f".{k}".endswith(f".{e}") for k in keys) == 1), key)
