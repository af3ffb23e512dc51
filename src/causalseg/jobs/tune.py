"""Tune methods alike: train each at every value of a grid and choose the best.

The runs are the cells of a comparison whose methods are called `lora@5e-4`, so finished runs are
kept and a wider grid only adds to them. The value with the best mean over seeds is chosen, of equal
ones the smaller. The metric is on an in-distribution domain: those that `data.mean_over` names
stand for unseen domains.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from causalseg.config import Config
from causalseg.config.load import load_config
from causalseg.errors import ConfigError, RunError
from causalseg.jobs.compare.grid import Grid, combine
from causalseg.jobs.compare.study import Study, check_failures, plan_study, run_study
from causalseg.jobs.eval import seen_domains
from causalseg.report.comparison import Row
from causalseg.report.comparison_notes import describe_sources
from causalseg.report.format import OptionValue, value_text
from causalseg.report.result import Method
from causalseg.writing import write_json, write_text

_OF_ADAPTERS = "train.adapter_lr"


class Tuning(NamedTuple):
    """A search that can be run; the mIoU of ``domain`` decides.

    ``tried`` has by method the values of the grid and the method with them; none without effect.
    """

    study: Study
    tried: dict[str, list[tuple[dict[str, OptionValue], Method]]]
    domain: str
    grid: Grid
    seeds: list[int]


class Trial(NamedTuple):
    """Values of the grid and the mIoU of a method with them, by seed, in percent."""

    values: dict[str, OptionValue]
    scores: dict[int, float]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.mean(self.scores.values())


class Choice(NamedTuple):
    """All trials of a method, the best, and options whose best value is at the edge of the grid."""

    trials: list[Trial]
    best: Trial
    at_edge: list[str]


def plan_tuning(
    config: Path,
    overrides: Sequence[str],
    methods: Sequence[Method],
    grid: Grid,
    metric: str,
    seeds: Sequence[int],
    out: Path,
) -> Tuning:
    """Plan a search; raise CausalsegError for what is known to be wrong before it runs.

    ``metric`` is DOMAIN.miou of a domain that ``data.mean_over`` does not name. All combinations of
    several options of the grid are tried; ``train.adapter_lr`` has no effect on a method without an
    adapter. The other arguments are as in `plan_study`.
    """
    parsed = [load_config(config, [*overrides, *method.overrides]) for method in methods]
    domain = seen_domain(metric, parsed[0])
    tried, cells = {}, []
    for method, options in zip(methods, parsed, strict=True):
        keys = [k for k in grid if k != _OF_ADAPTERS or options.adapter.name != "none"]
        chosen = combine({key: grid[key] for key in keys})
        tried[method.name] = [(values, _variant(method, values)) for values in chosen]
        cells += [variant for _, variant in tried[method.name]]
    if not cells:
        raise ConfigError(
            f"{_OF_ADAPTERS} has no effect on any of the methods: none has an adapter"
        )
    study = plan_study(config, overrides, cells, seeds, None, out)
    return Tuning(study, tried, domain, grid, list(seeds))


def run_tuning(tuning: Tuning, jobs: int = 1) -> dict[str, Choice] | None:
    """Train unfinished runs; return the best values of each method that the grid affects.

    None if other workers still run some of them. Raises RunError if a run failed or has no score.
    """
    comparison, failures = run_study(tuning.study, jobs)
    check_failures(tuning.study, failures)
    rows = {row.method.name: row for row in comparison.rows} if comparison else {}
    finished = {(name, seed) for name, row in rows.items() for seed in row.results}
    if any(cell.key not in finished for cell in tuning.study.cells):
        return None
    choices = {}
    for name, tried in tuning.tried.items():
        trials = [Trial(values, _scores(rows[method.name], tuning)) for values, method in tried]
        if trials:
            best = max(trials, key=lambda trial: trial.mean)  # of equal ones the first
            ends = {key: (values[0], values[-1]) for key, values in tuning.grid.items()}
            at_edge = [key for key, value in best.values.items() if value in ends[key]]
            choices[name] = Choice(trials, best, at_edge)
    return choices


def describe_choice(name: str, choice: Choice | None, domain: str) -> str:
    """Return what was chosen for a method, None if the grid has no effect on it, in words."""
    if choice is None:
        return f"{name}: unchanged, the grid has no effect on it"
    values = ", ".join(f"{key}={value_text(value)}" for key, value in choice.best.values.items())
    text = f"{name}: {values}, {domain} {choice.best.mean:.1f}"
    if choice.at_edge:
        text += f"; {', '.join(choice.at_edge)} is at the edge of the grid: try a wider one"
    return text


def write_methods(
    tuning: Tuning, choices: Mapping[str, Choice], methods: Sequence[Method], file: Path
) -> None:
    """Write a methods file with the chosen values, under a comment with all scores."""
    seeds = ", ".join(map(str, tuning.seeds))
    grid = "; ".join(f"{key} {', '.join(map(value_text, v))}" for key, v in tuning.grid.items())
    data = tuning.study.cells[0].config.data
    lines = [
        f"# Tuned by `causalseg tune`: mIoU in percent on {tuning.domain}, mean over seeds {seeds}",
        f"# Trained on {describe_sources(data.model_dump(mode='json'))}",
        f"# Grid: {grid}",
    ]
    for name, choice in choices.items():
        means = ", ".join(f"{_label(trial.values)} {trial.mean:.2f}" for trial in choice.trials)
        lines.append(f"# {name}: {means}")
    for method in methods:
        pairs = (override.split("=", 1) for override in method.overrides)
        options = {key: yaml.safe_load(text) for key, text in pairs}
        if method.name in choices:
            options |= choices[method.name].best.values
        if method.reported:
            options |= {"reported": method.reported, "reported_source": method.source}
        entry = {method.name: options}
        text = yaml.safe_dump(entry, default_flow_style=None, sort_keys=False, width=float("inf"))
        lines.append(text.rstrip())
    write_text(file, "\n".join(lines) + "\n")


def write_record(tuning: Tuning, choices: Mapping[str, Choice], out: Path) -> None:
    """Write OUT/tune.json: every score by method, values and seed."""
    methods = {}
    for name, choice in choices.items():
        trials = [{"values": t.values, "mean": t.mean, "seeds": t.scores} for t in choice.trials]
        chosen = {"chosen": choice.best.values, "at_edge": choice.at_edge}
        methods[name] = {**chosen, "trials": trials}
    search = {"metric": f"{tuning.domain}.miou", "seeds": tuning.seeds, "grid": tuning.grid}
    write_json(out / "tune.json", {**search, "methods": methods})


def _variant(method: Method, values: dict[str, OptionValue]) -> Method:
    kept = [o for o in method.overrides if o.partition("=")[0] not in values]
    new = [f"{key}={value_text(value)}" for key, value in values.items()]
    return Method(f"{method.name}@{_label(values)}", kept + new, {}, "")


def seen_domain(metric: str, config: Config) -> str:
    """Return the domain of a metric, which must be in-distribution."""
    domain, _, score = metric.rpartition(".")
    scored = config.data.domains if config.data.only is None else config.data.only
    allowed = [name for name in seen_domains(config, config) if name in scored]
    if score == "miou" and domain in allowed:
        return domain
    is_unseen = score == "miou" and domain in config.data.domains
    why = "is on an unseen domain, so it must not decide" if is_unseen else "is not known"
    offered = ", ".join(f"{name}.miou" for name in allowed)
    if not allowed:
        offered = "none: name the unseen domains in data.mean_over, the others may decide"
    raise ConfigError(f"metric {metric!r} {why}; allowed are {offered}")


def _scores(row: Row, tuning: Tuning) -> dict[int, float]:
    """Return the metric of a row by seed; the folder may have results of more seeds."""
    mious = dict(zip(row.results, row.scores(tuning.domain), strict=True))
    scores = {seed: miou for seed in tuning.seeds if (miou := mious[seed]) is not None}
    if len(scores) < len(tuning.seeds):
        reason = f"{tuning.domain} has no labelled pixels, so it cannot decide"
        raise RunError(f"{reason}: choose another domain for --metric")
    return scores


def _label(values: Mapping[str, OptionValue]) -> str:
    return ",".join(map(value_text, values.values()))
