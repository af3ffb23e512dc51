"""Methods side by side: scores by seed, differences to a reference, intervals.

Reads results (`cards.collect_result` and the method they belong to) and nothing else, so a
comparison can be made again from committed JSON files.

    difference = mean mIoU - mean mIoU of the reference, of one seed: both have the same data order

Of several seeds its mean, its standard deviation, and a paired bootstrap interval over images
(`bootstrap`) are told.
"""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from causalseg.config import Config
from causalseg.config.load import CHECKSUM
from causalseg.config.stages import Stage, stage_of
from causalseg.engine.bootstrap import RunCounts, paired_interval
from causalseg.engine.metrics import read_counts
from causalseg.errors import RunError

Value = float | None
Result = dict[str, Any]

_NAMED = 6  # missing runs that are named
MEAN = "mean"  # of the domains that data.mean_over names


class Method(NamedTuple):
    """What a row is about.

    Attributes:
        name: of the method.
        overrides: what it changes in the shared configuration, as key=value.
        reported: mIoU in percent that others published, by domain or for the mean.
        source: where they published it.
    """

    name: str
    overrides: list[str]
    reported: dict[str, float]
    source: str


class Row(NamedTuple):
    """A method and its finished runs.

    Attributes:
        method: what it is.
        seeds: that it should have.
        results: by seed, in the order of seeds.
        differences: of the mean to the reference's, in points, one for each seed that both have;
            none for the reference itself, or if a mean is missing.
        interval: the bootstrap interval of their mean.
    """

    method: Method
    seeds: list[int]
    results: dict[int, Result]
    differences: list[float]
    interval: tuple[float, float] | None

    def scores(self, domain: str) -> list[Value]:
        """The mIoU in percent of a domain, or of their mean, one for each seed."""
        return [_miou(result, domain) for result in self.results.values()]

    def curve(self, domains: Sequence[str]) -> dict[int, float]:
        """The mIoU in percent by training step, mean over domains and seeds.

        Of the steps at which every seed has a score; nothing if a run was scored only at its end.
        """
        curves = [dict(result.get("curve") or ()) for result in self.results.values()]
        shared = set.intersection(*map(set, curves)) if curves else set()
        found = {}
        for step in sorted(shared):
            values = known_values([curve[step].get(name) for curve in curves for name in domains])
            if values:
                found[step] = statistics.mean(values)
        return found


class Change(NamedTuple):
    """How far a method is from the reference in one domain, in points, as in `Row`."""

    differences: list[float]
    interval: tuple[float, float] | None


class Comparison(NamedTuple):
    """Methods side by side.

    Attributes:
        rows: in the order in which the methods were named.
        reference: name of the method that the others are held against.
    """

    rows: list[Row]
    reference: str

    @property
    def first(self) -> Result:
        """What all results share can be read from any: the reference's if it has one."""
        rows = sorted(self.rows, key=lambda row: row.method.name != self.reference)
        return next(result for row in rows for result in row.results.values())

    def changes(self, row: Row) -> dict[str, Change]:
        """The difference to the reference in every domain, then that of the mean.

        The intervals are computed with each call.
        """
        (theirs,) = (each for each in self.rows if each.method.name == self.reference)
        pairs = [(row.results[s], theirs.results[s]) for s in row.results if s in theirs.results]
        changes = {}
        for domain in self.first["eval"]["domains"]:
            differences = _differences(pairs, domain)
            interval = _interval(pairs, [domain]) if differences else None
            changes[domain] = Change(differences, interval)
        return changes | {MEAN: Change(row.differences, row.interval)}

    @property
    def missing(self) -> list[str]:
        """The runs that there should be and that are not finished."""
        pairs = [(row, seed) for row in self.rows for seed in row.seeds]
        return [f"{row.method.name} seed {s}" for row, s in pairs if s not in row.results]

    @property
    def missing_text(self) -> str:
        """The first of them, and how many more."""
        missing = self.missing
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        return ", ".join(missing[:_NAMED]) + more


def compare_results(
    methods: Sequence[Method],
    seeds: Mapping[str, Sequence[int]],
    reference: str,
    results: dict[tuple[str, int], Result],
) -> Comparison:
    """Put results side by side.

    Args:
        methods: the rows, in their order.
        seeds: that each method should have, by its name.
        reference: name of one of the methods.
        results: by name of the method and seed, at least one; what is not there is missing.

    Raises:
        RunError: if results differ in the data scored or in what methods share.
    """
    overrides = {method.name: method.overrides for method in methods}
    check_shared({key: (overrides[key[0]], result["config"]) for key, result in results.items()})
    _check_images(results)
    by_method = {
        name: {seed: results[name, seed] for seed in seeds[name] if (name, seed) in results}
        for name in overrides
    }
    rows = []
    for method in methods:
        ours, theirs = by_method[method.name], by_method[reference]
        pairs = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
        is_other = method.name != reference
        differences = _differences(pairs, MEAN) if is_other else []
        interval = None
        if differences:
            interval = _interval(pairs, pairs[0][0]["eval"]["mean"]["over"])
        rows.append(Row(method, list(seeds[method.name]), ours, differences, interval))
    return Comparison(rows, reference)


def label_result(
    result: Result, method: Method, place: int, reference: str, seeds: Sequence[int]
) -> Result:
    """Return a result that also says which method of which comparison it is."""
    about = {"place": place, "reference": reference, "seeds": list(seeds)}
    rest = {key: value for key, value in result.items() if key != "method"}
    return {"method": {**method._asdict(), **about}, **rest}


def read_study(folder: Path) -> Comparison:
    """Read the comparison whose results lie in a folder.

    Raises:
        RunError: if a file is broken, two are of the same method and seed, they name different
            references, or they cannot be compared.
    """
    results = read_results(folder)
    planned = list_methods(results)
    references = {result["method"]["reference"] for result in results.values()}
    if len(references) != 1 or not references <= {method.name for method, _ in planned}:
        raise RunError(
            f"{folder} needs results of one comparison with its reference; they name "
            f"{', '.join(sorted(references)) or 'none'}"
        )
    seeds = {method.name: seeds for method, seeds in planned}
    return compare_results([method for method, _ in planned], seeds, references.pop(), results)


def read_results(folder: Path) -> dict[tuple[str, int], Result]:
    """Read what comparisons left in a folder, by name of the method and seed.

    Raises:
        RunError: if a file is broken, or two are of the same method and seed.
    """
    results: dict[tuple[str, int], Result] = {}
    for file in sorted(folder.glob("*.json")):
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
            key = result["method"]["name"], result["config"]["run"]["seed"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{file} is no result of a comparison ({error!r}): take those that "
                "`causalseg compare` wrote"
            ) from error
        if key in results:
            raise RunError(f"{file}: {key[0]} seed {key[1]} is there twice, keep one")
        results[key] = result
    return results


def list_methods(results: Mapping[tuple[str, int], Result]) -> list[tuple[Method, list[int]]]:
    """Return the methods of labelled results in their order, each with the seeds it should have."""
    abouts: dict[str, dict[str, Any]] = {}
    seeds: dict[str, set[int]] = {}
    for (name, _), result in results.items():
        abouts[name] = result["method"]
        seeds.setdefault(name, set()).update(abouts[name]["seeds"])
    ordered = sorted(abouts.values(), key=lambda about: (about["place"], about["name"]))
    return [
        (Method(*(about[key] for key in Method._fields)), sorted(seeds[about["name"]]))
        for about in ordered
    ]


def check_shared(
    runs: Mapping[tuple[str, int], tuple[Sequence[str], Mapping[str, Any]]],
) -> None:
    """Raise RunError if runs differ in what none of their methods changes.

    Args:
        runs: by name of the method and seed, the method's overrides and the whole configuration.
            An option that one of them does not have is not compared.
    """
    seen: dict[tuple[str, str], tuple[str, Any]] = {}
    for (name, seed), (overrides, config) in runs.items():
        own = tuple(map(_changed_by, overrides))
        differing = []
        for key, value in _flat(config):
            is_free = Stage.COMPARE in stage_of(Config, key)
            if is_free or key.startswith("run.") or (key == CHECKSUM and value is None):
                continue
            is_own = any(f"{key}.".startswith(f"{changed}.") for changed in own)
            place = (name if is_own else "", key)  # what a method changes is alike in its seeds
            other, wanted = seen.setdefault(place, (f"{name} seed {seed}", value))
            if value != wanted:
                differing.append(f"  {key}: {value} in {name} seed {seed}, {wanted} in {other}")
        if differing:
            raise RunError(
                "only runs that share everything but what their methods change can be compared; "
                "these options differ:\n" + "\n".join(differing)
            )


def known_values(values: Sequence[Value]) -> list[float]:
    """All values, or none if one is missing."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _miou(result: Result, domain: str) -> Value:
    scores = result["eval"]
    return (scores["mean"] if domain == MEAN else scores["domains"][domain])["miou"]


def _differences(pairs: Sequence[tuple[Result, Result]], domain: str) -> list[float]:
    """Our mIoU of a domain, or of their mean, minus theirs by seed; nothing if one is missing."""
    ours, theirs = ([_miou(pair[side], domain) for pair in pairs] for side in (0, 1))
    known = known_values(ours), known_values(theirs)
    if not all(known):
        return []
    return [ours - theirs for ours, theirs in zip(*known, strict=True)]


def _interval(
    pairs: Sequence[tuple[Result, Result]], over: Sequence[str]
) -> tuple[float, float] | None:
    """The bootstrap interval of the mean difference; None where there is nothing to draw from."""
    results = [result for pair in pairs for result in pair]
    images = [[result["eval"]["domains"][name]["per_image"] for name in over] for result in results]
    counts: list[RunCounts] = [
        [read_counts(about["counts"]) for about in known] for known in images
    ]
    return paired_interval(counts[::2], counts[1::2], [about["names"] for about in images[0]])


def _changed_by(override: str) -> str:
    """The option that an override changes; an adapter's recipe and name change the whole block."""
    key = override.partition("=")[0]
    block, _, option = key.rpartition(".")
    return block if option in ("name", "kind", "recipe") else key


def _flat(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every option by its path; of a list of blocks, each block's and how many there are."""
    for key, value in options.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{prefix}{key}.length", len(value)
            yield from _flat(dict(enumerate(value)), f"{prefix}{key}.")  # type: ignore[arg-type]
        else:
            yield f"{prefix}{key}", value


def _check_images(results: dict[tuple[str, int], Result]) -> None:
    def images(result: Result) -> dict[str, list[Any]]:
        domains = result["eval"]["domains"].items()
        return {name: [about["size"], about["per_image"]["names"]] for name, about in domains}

    (first, reference), *others = results.items()
    wanted = images(reference)
    for key, result in others:
        found = images(result)
        names = sorted(n for n in {*wanted, *found} if wanted.get(n) != found.get(n))
        if names:
            raise RunError(
                f"{key[0]} seed {key[1]} and {first[0]} seed {first[1]} differ in the images of "
                f"{', '.join(names)}: only runs scored on the same images can be compared"
            )
