"""Methods side by side: scores by seed, and differences to a reference with the same seed.

Differences have a paired bootstrap interval over images (`causalseg.engine.bootstrap`).
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from causalseg.config import Config
from causalseg.config.load import CHECKSUM, flatten
from causalseg.config.stages import Stage, stage_of
from causalseg.engine.bootstrap import paired_interval
from causalseg.errors import RunError
from causalseg.report.format import Interval, Value, known_values, subtract
from causalseg.report.read import counts_of
from causalseg.report.result import Method, MethodLabel, Result, read_result
from causalseg.runs.scores import MEAN

Results = Mapping[tuple[str, int], Result]
"""By name of the method and seed."""


class Change(NamedTuple):
    """The difference to the reference, in points, with the bootstrap interval of its mean."""

    differences: list[float]  # one for each seed that both have; none if a score is missing
    interval: Interval | None


class Row(NamedTuple):
    """A method, its planned seeds, results by seed, and change (of the reference: empty)."""

    method: Method
    seeds: list[int]
    results: dict[int, Result]
    change: Change

    def scores(self, domain: str) -> list[Value]:
        """Return the mIoU in percent of a domain, or of `MEAN`, for each seed."""
        return [result.eval.miou_of(domain) for result in self.results.values()]

    def curve(self, domains: Sequence[str]) -> dict[int, float]:
        """Return mIoU in percent by step, mean over domains and seeds, where every seed has one."""
        curves = [dict(result.curve or ()) for result in self.results.values()]
        shared = set.intersection(*map(set, curves)) if curves else set()
        means = {}
        for step in sorted(shared):
            values = known_values(curve[step].get(name) for curve in curves for name in domains)
            if values:
                means[step] = statistics.mean(values)
        return means


class Comparison(NamedTuple):
    """Methods side by side; the others are compared to the one named ``reference``."""

    rows: list[Row]
    reference: str

    @property
    def first(self) -> Result:
        """A result, of the reference if it has one; for what all results share."""
        rows = sorted(self.rows, key=lambda row: row.method.name != self.reference)
        return next(result for row in rows for result in row.results.values())

    @property
    def over(self) -> list[str]:
        """The domains that the mean is over."""
        return self.first.eval.mean.over

    def changes(self, row: Row) -> dict[str, Change]:
        """Return the difference to the reference in every domain, and that of the mean."""
        (theirs,) = (each for each in self.rows if each.method.name == self.reference)
        domains = self.first.eval.domains
        changes = {name: _compare(row.results, theirs.results, name, [name]) for name in domains}
        return changes | {MEAN: row.change}

    @property
    def missing(self) -> list[str]:
        """The planned runs that are not finished."""
        pairs = [(row, seed) for row in self.rows for seed in row.seeds]
        return [f"{row.method.name} seed {s}" for row, s in pairs if s not in row.results]


def compare_results(
    methods: Sequence[Method], seeds: Mapping[str, Sequence[int]], reference: str, results: Results
) -> Comparison:
    """Compare results. Raises RunError if images or options that no method changes differ."""
    overrides = {method.name: method.overrides for method in methods}
    check_shared({key: (overrides[key[0]], result.config) for key, result in results.items()})
    _check_images(results)
    by_method = {
        name: {seed: results[name, seed] for seed in seeds[name] if (name, seed) in results}
        for name in overrides
    }
    over = next(iter(results.values())).eval.mean.over
    rows = []
    for method in methods:
        ours, change = by_method[method.name], Change([], None)
        if method.name != reference:
            change = _compare(ours, by_method[reference], MEAN, over)
        rows.append(Row(method, list(seeds[method.name]), ours, change))
    return Comparison(rows, reference)


def label_result(
    result: Result, method: Method, place: int, reference: str, seeds: Sequence[int]
) -> Result:
    """Return a result that says which method of which comparison it belongs to."""
    label = MethodLabel(place=place, reference=reference, seeds=list(seeds), **method._asdict())
    return result.model_copy(update={"method": label})


def read_study(folder: Path) -> Comparison:
    """Read the comparison in a folder. Raises RunError if files are broken or of several."""
    results = read_results(folder)
    planned = list_methods(results)
    references = {result.label.reference for result in results.values()}
    if len(references) != 1 or not references <= {method.name for method, _ in planned}:
        named = ", ".join(sorted(references)) or "none"
        text = "needs results of one comparison with its reference; they name"
        raise RunError(f"{folder} {text} {named}")
    seeds = {method.name: seeds for method, seeds in planned}
    return compare_results([method for method, _ in planned], seeds, references.pop(), results)


def read_results(folder: Path) -> dict[tuple[str, int], Result]:
    """Read all results in a folder. Raises RunError if one is broken or there twice."""
    results: dict[tuple[str, int], Result] = {}
    for file in sorted(folder.glob("*.json")):
        result = read_result(file)
        try:
            key = result.label.name, result.seed
        except RunError as error:
            raise RunError(f"{file} is {error}") from error
        if key in results:
            raise RunError(f"{file}: {key[0]} seed {key[1]} is there twice, keep one")
        results[key] = result
    return results


def list_methods(results: Results) -> list[tuple[Method, list[int]]]:
    """Return the methods of labelled results in their order, each with its planned seeds."""
    labels = {name: result.label for (name, _), result in results.items()}
    seeds: dict[str, set[int]] = {}
    for (name, _), result in results.items():
        seeds.setdefault(name, set()).update(result.label.seeds)
    ordered = sorted(labels.values(), key=lambda label: (label.place, label.name))
    return [(label.method, sorted(seeds[label.name])) for label in ordered]


def check_shared(runs: Mapping[tuple[str, int], tuple[Sequence[str], Mapping[str, Any]]]) -> None:
    """Raise RunError if runs differ in options that none of their methods changes.

    Runs are given by method and seed, as overrides and configuration. An option that one of them
    lacks is not compared.
    """
    seen: dict[tuple[str, str], tuple[str, Any]] = {}
    for (name, seed), (overrides, config) in runs.items():
        own = tuple(map(_changed_by, overrides))
        differing = []
        for key, value in flatten(config, in_lists=True):
            is_free = Stage.COMPARE in stage_of(Config, key)
            if is_free or key.startswith("run.") or (key == CHECKSUM and value is None):
                continue
            is_own = any(f"{key}.".startswith(f"{changed}.") for changed in own)
            group = (name if is_own else "", key)  # seeds of a method share what it changes
            other, wanted = seen.setdefault(group, (f"{name} seed {seed}", value))
            if value != wanted:
                differing.append(f"  {key}: {value} in {name} seed {seed}, {wanted} in {other}")
        if differing:
            raise RunError(
                "only runs that share everything but what their methods change can be compared; "
                "these options differ:\n" + "\n".join(differing)
            )


def _compare(
    ours: Mapping[int, Result], theirs: Mapping[int, Result], name: str, domains: Sequence[str]
) -> Change:
    """Subtract the mIoU of a domain, or of `MEAN`, which is computed from ``domains``."""
    pairs = [(ours[seed].eval, theirs[seed].eval) for seed in ours if seed in theirs]
    differences = [subtract(a.miou_of(name), b.miou_of(name)) for a, b in pairs]
    if not known_values(differences):
        return Change([], None)
    interval = paired_interval(
        [counts_of(scores, domains) for scores, _ in pairs],
        [counts_of(scores, domains) for _, scores in pairs],
        pairs[0][0].names_of(domains),
    )
    return Change(known_values(differences), interval)


def _changed_by(override: str) -> str:
    """The option that an override changes; an adapter's recipe and name change the whole block."""
    key = override.partition("=")[0]
    block, _, option = key.rpartition(".")
    return block if option in ("name", "kind", "recipe") else key


def _check_images(results: Results) -> None:
    scored = {}
    for (method, seed), result in results.items():
        domains = result.eval.domains.items()
        scored[f"{method} seed {seed}"] = {k: (d.size, d.per_image.names) for k, d in domains}
    first, expected = next(iter(scored.items()))
    for name, images in scored.items():
        keys = sorted({*expected, *images})
        if differing := [key for key in keys if expected.get(key) != images.get(key)]:
            raise RunError(
                f"{name} and {first} differ in the images of {', '.join(differing)}: only runs "
                "scored on the same images can be compared"
            )
