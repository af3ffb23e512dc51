"""Methods side by side: scores by seed, differences to a reference, intervals.

Reads results (`cards.collect_result` and the method they belong to) and nothing else, so a
comparison can be made again from committed JSON files.

    difference = mean over seeds that both have of (mean mIoU - mean mIoU of the reference)

with its paired bootstrap interval over images (`bootstrap`).
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from causalseg.analysis.bootstrap import Counts, paired_interval
from causalseg.engine.evaluate import read_counts
from causalseg.errors import RunError

Value = float | None
Result = dict[str, Any]

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
        results: by seed, in the order of seeds.
        difference: of the mean to the reference's, in points, over the seeds that both have.
        interval: the bootstrap interval of the difference.
    """

    method: Method
    results: dict[int, Result]
    difference: Value
    interval: tuple[float, float] | None

    def scores(self, domain: str) -> list[Value]:
        """The mIoU in percent of a domain, or of their mean, one for each seed."""
        scores = [result["eval"] for result in self.results.values()]
        if domain == MEAN:
            return [score["mean"]["miou"] for score in scores]
        return [score["domains"][domain]["miou"] for score in scores]


class Comparison(NamedTuple):
    """Methods side by side.

    Attributes:
        rows: in the order in which the methods were named.
        seeds: that every method should have.
        reference: name of the method that the others are held against.
    """

    rows: list[Row]
    seeds: list[int]
    reference: str

    @property
    def first(self) -> Result:
        """What all results share can be read from any: the reference's if it has one."""
        rows = sorted(self.rows, key=lambda row: row.method.name != self.reference)
        return next(result for row in rows for result in row.results.values())

    @property
    def missing(self) -> list[str]:
        """The runs that there should be and that are not finished."""
        pairs = [(row, seed) for row in self.rows for seed in self.seeds]
        return [f"{row.method.name} seed {s}" for row, s in pairs if s not in row.results]


def compare_results(
    methods: Sequence[Method],
    seeds: Sequence[int],
    reference: str,
    results: dict[tuple[str, int], Result],
) -> Comparison:
    """Put results side by side.

    Args:
        methods: the rows, in their order.
        seeds: that every method should have.
        reference: name of one of the methods.
        results: by name of the method and seed, at least one; what is not there is missing.

    Raises:
        RunError: if results are of other data, classes or domains than the first.
    """
    _check_alike(results)
    by_method = {
        method.name: {s: results[method.name, s] for s in seeds if (method.name, s) in results}
        for method in methods
    }
    rows = []
    for method in methods:
        ours, theirs = by_method[method.name], by_method[reference]
        pairs = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
        is_other = method.name != reference
        difference = _difference(pairs) if pairs and is_other else None
        interval = _interval(pairs) if difference is not None else None
        rows.append(Row(method, ours, difference, interval))
    return Comparison(rows, list(seeds), reference)


def label_result(
    result: Result, method: Method, place: int, reference: str, seeds: Sequence[int]
) -> Result:
    """Return a result that also says which method of which comparison it is."""
    about = {"place": place, "reference": reference, "seeds": list(seeds)}
    return {"method": {**method._asdict(), **about}, **result}


def read_study(folder: Path) -> Comparison:
    """Read the results that a comparison left in a folder.

    Raises:
        RunError: if a file is broken, two are of the same method and seed, or they name different
            references.
    """
    results: dict[tuple[str, int], Result] = {}
    abouts: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*.json")):
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
            about, seed = result["method"], result["config"]["run"]["seed"]
            key = about["name"], seed
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{file} is no result of a comparison ({error!r}): take those that "
                "`causalseg compare` wrote"
            ) from error
        if key in results:
            raise RunError(f"{file}: {key[0]} seed {seed} is there twice, keep one")
        results[key] = result
        abouts[about["name"]] = about
    references = {about["reference"] for about in abouts.values()}
    if len(references) != 1 or not references <= abouts.keys():
        raise RunError(
            f"{folder} needs results of one comparison with its reference; they name "
            f"{', '.join(sorted(references)) or 'none'}"
        )
    ordered = sorted(abouts.values(), key=lambda about: about["place"])
    methods = [Method(*(about[key] for key in Method._fields)) for about in ordered]
    seeds = sorted({seed for about in ordered for seed in about["seeds"]})
    return compare_results(methods, seeds, references.pop(), results)


def known_values(values: Sequence[Value]) -> list[float]:
    """All values, or none if one is missing."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _difference(pairs: Sequence[tuple[Result, Result]]) -> Value:
    """The mean over seeds of our mean mIoU minus theirs."""
    changes = []
    for pair in pairs:
        ours, theirs = (result["eval"]["mean"]["miou"] for result in pair)
        if ours is None or theirs is None:
            return None
        changes.append(ours - theirs)
    return statistics.mean(changes)


def _interval(pairs: Sequence[tuple[Result, Result]]) -> tuple[float, float] | None:
    """The bootstrap interval; None if the images are not known or not the same."""
    results = [result for pair in pairs for result in pair]
    over = results[0]["eval"]["mean"]["over"]
    images = [
        [result["eval"]["domains"][name].get("per_image") for name in over] for result in results
    ]
    if any(None in known for known in images):
        return None
    names = [[about["names"] for about in known] for known in images]
    if any(own != names[0] for own in names):
        return None
    counts: list[Counts] = [[read_counts(about["counts"]) for about in known] for known in images]
    return paired_interval(counts[::2], counts[1::2])


def _check_alike(results: dict[tuple[str, int], Result]) -> None:
    def shared(result: Result) -> dict[str, Any]:
        domains = result["eval"]["domains"].items()
        images = {name: [about["images"], about["size"]] for name, about in domains}
        return {**result["config"]["data"], "images": images}

    (first, reference), *others = results.items()
    wanted = shared(reference)
    for key, result in others:
        found = shared(result)
        differing = [part for part in wanted if found.get(part) != wanted[part]]
        if differing:
            raise RunError(
                f"{key[0]} seed {key[1]} and {first[0]} seed {first[1]} differ in data: "
                f"{', '.join(differing)}; only runs on the same data can be compared"
            )
