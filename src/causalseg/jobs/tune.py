"""Tune methods alike: each trains at every value of a grid, and keeps the best on a seen domain.

The runs are the cells of a comparison whose methods are called `lora@5e-4`, so what is finished is
kept and a wider grid only adds to it. Chosen is the value with the best mean over seeds, of equal
ones the smaller. The domain that decides must not be one of those that the mean is over: these
stand for domains never seen.
"""

import itertools
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from causalseg.config import Config
from causalseg.config.load import load_config
from causalseg.errors import ConfigError, RunError
from causalseg.jobs.compare.study import Study, plan_study, run_study
from causalseg.jobs.eval import seen_domains
from causalseg.report.comparison import Comparison, Method
from causalseg.report.comparison_page import sources_text
from causalseg.writing import write_json, write_text

Grid = dict[str, list[float]]
_OF_ADAPTERS = "train.adapter_lr"


class Tuning(NamedTuple):
    """What is tried.

    Attributes:
        study: the runs.
        tried: of each method, in their order, the values of the grid and the method that has
            them; none for a method on which the grid has no effect.
        domain: whose mIoU decides.
        grid: values of each option, ascending.
        seeds: of every method and value.
        config: of one of the methods.
    """

    study: Study
    tried: dict[str, list[tuple[dict[str, float], Method]]]
    domain: str
    grid: Grid
    seeds: list[int]
    config: Config


class Trial(NamedTuple):
    """Values of the grid and what a method scored with them, by seed, in percent."""

    values: dict[str, float]
    scores: dict[int, float]

    @property
    def mean(self) -> float:
        """What is compared."""
        return statistics.mean(self.scores.values())


class Choice(NamedTuple):
    """What a method is best at.

    Attributes:
        trials: in the order of the grid.
        best: the one chosen.
        at_edge: options whose best value is the first or last of the grid.
    """

    trials: list[Trial]
    best: Trial
    at_edge: list[str]


def parse_grid(texts: Sequence[str]) -> Grid:
    """Read options and values, such as ``train.adapter_lr=2.5e-4,5e-4``.

    Raises:
        ConfigError: if one is not of that form, has fewer than two values, or comes twice.
    """
    grid: Grid = {}
    for text in texts:
        key, _, listed = text.partition("=")
        try:
            values = sorted(float(value) for value in listed.split(","))
        except ValueError:
            values = []
        if not key or key in grid or len(values) < 2 or len(set(values)) < len(values):
            raise ConfigError(
                f"grid {text!r}: give an option once, with two different numbers or more, such as "
                "train.adapter_lr=2.5e-4,5e-4,1e-3"
            )
        grid[key] = values
    if not grid:
        raise ConfigError(f"nothing to try: give --grid {_OF_ADAPTERS}=2.5e-4,5e-4,1e-3")
    return grid


def plan_tuning(
    config: Path,
    overrides: Sequence[str],
    methods: Sequence[Method],
    grid: Grid,
    metric: str,
    seeds: Sequence[int],
    out: Path,
) -> Tuning:
    """Check all that can be known before anything is trained.

    Args:
        config: YAML file of the shared configuration.
        overrides: of the shared configuration, as key=value.
        methods: to tune; ``train.adapter_lr`` has no effect on one without an adapter.
        grid: as `parse_grid` gives it; of several options all combinations are tried.
        metric: DOMAIN.miou.
        seeds: of every method and value.
        out: folder of the runs.

    Raises:
        CausalsegError: with every mistake in methods, grid and data, or if the domain is not known
            or one of those that the mean is over.
    """
    parsed = [load_config(config, [*overrides, *method.overrides]) for method in methods]
    domain = _seen_domain(metric, parsed[0])
    tried, cells = {}, []
    for method, options in zip(methods, parsed, strict=True):
        keys = [k for k in grid if k != _OF_ADAPTERS or options.adapter.name != "none"]
        combined = itertools.product(*(grid[key] for key in keys)) if keys else ()
        tried[method.name] = [
            _variant(method, dict(zip(keys, values, strict=True))) for values in combined
        ]
        cells += [variant for _, variant in tried[method.name]]
    if not cells:
        raise ConfigError(
            f"{_OF_ADAPTERS} has no effect on any of the methods: none has an adapter"
        )
    study = plan_study(config, overrides, cells, seeds, None, out)
    return Tuning(study, tried, domain, grid, list(seeds), parsed[0])


def run_tuning(tuning: Tuning, jobs: int = 1) -> dict[str, Choice]:
    """Train what is not finished and return what each method is best at.

    Methods on which the grid has no effect are left out.

    Raises:
        RunError: if a run failed or has no score.
    """
    comparison, failures = run_study(tuning.study, jobs)
    if failures or comparison is None:
        raise RunError(
            "\n  ".join([f"{len(failures)} of {len(tuning.study.cells)} runs failed:", *failures])
            + "\nthe same command tries them again; leave a value out with which training fails"
        )
    scores = _scores(comparison, tuning)
    choices = {}
    for name, tried in tuning.tried.items():
        trials = [Trial(values, scores[method.name]) for values, method in tried]
        if trials:
            # The grid ascends, and the first of equals is taken.
            best = max(trials, key=lambda trial: trial.mean)
            ends = {key: (values[0], values[-1]) for key, values in tuning.grid.items()}
            at_edge = [key for key, value in best.values.items() if value in ends[key]]
            choices[name] = Choice(trials, best, at_edge)
    return choices


def write_methods(
    tuning: Tuning,
    choices: Mapping[str, Choice],
    methods: Sequence[Method],
    entries: Mapping[str, Any],
    file: Path,
) -> None:
    """Write a methods file that has the chosen values, below what they scored.

    Args:
        tuning: what was tried.
        choices: as `run_tuning` gives them.
        methods: all that the file has, in their order.
        entries: of the methods file they came from; the others are written as they were named.
        file: to write.
    """
    parts = [f"# {line}".rstrip() for line in [*_about(tuning), *_score_table(choices)]]
    for method in methods:
        entry = dict(entries.get(method.name) or {})
        changed = dict(override.split("=", 1) for override in method.overrides)
        for key, text in changed.items():
            if not (key == _OF_ADAPTERS and text == "null"):  # of a head alone, added when read
                entry = _with_option(entry, key, yaml.safe_load(text))
        if method.name in choices:
            for key, value in choices[method.name].best.values.items():
                entry = _with_option(entry, key, value)
        parts.append(_dumped({method.name: entry}))
    write_text(file, "\n".join(parts) + "\n")


def write_record(tuning: Tuning, choices: Mapping[str, Choice], out: Path) -> None:
    """Write OUT/tune.json: every score by method, values and seed."""
    methods = {
        name: {
            "chosen": choice.best.values,
            "at_edge": choice.at_edge,
            "trials": [
                {"values": trial.values, "mean": trial.mean, "seeds": trial.scores}
                for trial in choice.trials
            ],
        }
        for name, choice in choices.items()
    }
    about = {
        "metric": f"{tuning.domain}.miou",
        "seeds": tuning.seeds,
        "grid": tuning.grid,
    }
    write_json(out / "tune.json", {**about, "methods": methods})


def value_text(value: float) -> str:
    """Return a number in the shortest form: 5e-4 for 0.0005."""
    if value == 0 or 0.01 <= abs(value) < 1e4:
        return f"{value:g}"
    digits, _, power = f"{value:e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"


def _variant(method: Method, values: dict[str, float]) -> tuple[dict[str, float], Method]:
    """A method with values of the grid in the place of its own."""
    kept = [o for o in method.overrides if o.partition("=")[0] not in values]
    name = f"{method.name}@{_label(values)}"
    new = [f"{key}={value_text(value)}" for key, value in values.items()]
    return values, Method(name, [*kept, *new], {}, "")


def _seen_domain(metric: str, config: Config) -> str:
    """The domain of a metric, after checking that it may decide."""
    domain, _, score = metric.rpartition(".")
    known = seen_domains(config, config)
    allowed = [n for n in known if config.data.only is None or n in config.data.only]
    if score == "miou" and domain in allowed:
        return domain
    offered = ", ".join(f"{name}.miou" for name in allowed)
    if not allowed:
        offered = "none: name the unseen domains in data.mean_over, the others may decide"
    is_unseen = score == "miou" and domain in config.data.domains
    why = "stands for what was never seen, so it must not decide" if is_unseen else "is not known"
    raise ConfigError(f"metric {metric!r} {why}; allowed are {offered}")


def _scores(comparison: Comparison, tuning: Tuning) -> dict[str, dict[int, float]]:
    """The mIoU that decides, by method and seed."""
    results = {row.method.name: row.results for row in comparison.rows}
    found: dict[str, dict[int, float]] = {}
    for cell in tuning.study.cells:
        domains = results[cell.method.name][cell.seed]["eval"]["domains"]
        score = domains[tuning.domain]["miou"]
        if score is None:
            raise RunError(
                f"{tuning.domain} has no labelled pixels, so it cannot decide: take another domain "
                "for --metric"
            )
        found.setdefault(cell.method.name, {})[cell.seed] = score
    return found


def _about(tuning: Tuning) -> Iterator[str]:
    grid = [f"{key} {', '.join(map(value_text, v))}" for key, v in tuning.grid.items()]
    yield "Methods with the values that `causalseg tune` chose (*)."
    yield f"Trained on {sources_text(tuning.config.model_dump(mode='json')['data'])}."
    yield (
        f"Metric: mIoU in percent on {tuning.domain}, mean over seeds "
        f"{', '.join(map(str, tuning.seeds))}."
    )
    yield f"Grid: {'; '.join(grid)}."


def _score_table(choices: Mapping[str, Choice]) -> Iterator[str]:
    """Method x value in columns of equal width; a star at what was chosen."""
    scores = {
        name: {
            _label(trial.values): f"{trial.mean:.2f}{'*' if trial is choice.best else ' '}"
            for trial in choice.trials
        }
        for name, choice in choices.items()
    }
    columns = list(dict.fromkeys(label for row in scores.values() for label in row))
    first = max(map(len, ["method", *scores]))
    widths = [max(len(column), 6) for column in columns]

    def line(name: str, cells: Iterable[str]) -> str:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        return "  ".join([name.ljust(first), *padded]).rstrip()

    yield line("method", columns)
    for name, row in scores.items():
        yield line(name, [row.get(column, "- ") for column in columns])


def _label(values: Mapping[str, float]) -> str:
    return ",".join(map(value_text, values.values()))


def _dumped(content: dict[str, Any]) -> str:
    """YAML with the innermost mappings and lists on one line."""
    text = yaml.safe_dump(content, default_flow_style=None, sort_keys=False, width=float("inf"))
    return text.rstrip()


def _with_option(entry: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """An entry of a methods file with an option where it stands, or else at the end."""
    for name, inner in entry.items():
        if name == key:
            return {**entry, name: value}
        if key.startswith(f"{name}.") and isinstance(inner, dict):
            rest = key.removeprefix(f"{name}.")
            changed = _with_option(inner, rest, value)
            if changed.keys() == inner.keys():
                return {**entry, name: changed}
    return {**entry, key: value}
