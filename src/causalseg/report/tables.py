"""The numbers of a report, taken from the runs once for the page, Markdown and LaTeX.

All are percent, or points of percent where two are subtracted. Computed here, and not read from
eval.json, are differences to the reference with their paired bootstrap interval, the mean of a run
that was averaged over other domains than the first, and what needs the reference's scores.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from causalseg.engine.bootstrap import paired_interval
from causalseg.engine.robustness import corruption_degradation
from causalseg.report.read import Run, Value, read_runs
from causalseg.runs.folder import RunFolder
from causalseg.runs.scores import (
    CHOSEN_ON_TARGET,
    describe_domains,
    describe_inference,
    is_chosen_on_target,
)

Interval = tuple[float, float]
MEASURES = {
    "iou": "IoU",
    "precision": "Precision",
    "recall": "Recall",
    "boundary_iou": "Boundary IoU",
}
OTHERS = {
    "miou_all": "mIoU of all classes",
    "accuracy": "pixel accuracy",
    "fwiou": "frequency weighted IoU",
    "boundary_miou": "boundary mIoU",
    "ece": "calibration error",
    "classes_scored": "classes scored",
}


NONE = "none of these"  # what is predicted as no class of the domain


class DomainTable(NamedTuple):
    """mIoU in percent of every run in every domain; None where there is no number.

    Attributes:
        domains: names, in the order of the first run.
        over: the domains that the mean is over.
        rows: run label -> one value for each domain, and last the mean.
        difference: with exactly two runs, second minus first, in the order of a row.
        made_of: what the domains are made of, in words.
    """

    domains: list[str]
    over: list[str]
    rows: dict[str, list[Value]]
    difference: list[Value] | None
    made_of: list[str]


class Cell(NamedTuple):
    """A run's mIoU, and what it gains on the reference; each with its 95 % interval."""

    value: Value
    interval: Interval | None
    change: Value
    change_interval: Interval | None


class Headline(NamedTuple):
    """mIoU: a cell for each run, in their order.

    Attributes:
        over: the domains that the mean is over.
        mean: the mean over them.
        rows: by domain, in the order of the first run.
    """

    over: list[str]
    mean: list[Cell]
    rows: dict[str, list[Cell]]


class Loss(NamedTuple):
    """What one corruption costs a run; CD and rCD are relative to the reference, in percent."""

    clean: Value
    corrupted: Value
    relative: Value
    cd: Value
    rcd: Value


class Confusion(NamedTuple):
    """A class that is taken for another: pixels in percent of the class's, and of all."""

    true: str
    predicted: str
    share: float
    of_all: float


def domain_table(runs: Sequence[RunFolder]) -> DomainTable:
    """Return the mIoU of every run in every domain, to print or to compare.

    Raises:
        MissingFileError: if config.yaml or eval.json of a run is missing.
        RunError: if one of them is broken, or the runs have different classes.
    """
    read = read_runs(runs)
    domains, over = _all_domains(read), read[0].scores["mean"]["over"]
    rows = {
        run.label: [*(_miou(run, name) for name in domains), _mean_miou(run, over)] for run in read
    }
    columns = zip(*rows.values(), strict=True)
    changes = [minus(second, first) for first, second in columns] if len(read) == 2 else None
    made_of = [*describe_domains(all_about(read)), *chosen_on_target(read)]
    return DomainTable(domains, over, rows, changes, made_of)


def headline(runs: Sequence[Run], reference: Run | None) -> Headline:
    """Return mIoU with intervals, and the differences to the reference."""
    over = runs[0].scores["mean"]["over"]
    mean = []
    for run in runs:
        about = run.scores["mean"]
        spread = about["interval"] if about["over"] == over else None
        mean.append(_cell(run, reference, over, _mean_miou(run, over), spread))
    rows = {}
    for name in _all_domains(runs):
        spreads = [run.domains.get(name, {}).get("miou_interval") for run in runs]
        rows[name] = [
            _cell(run, reference, [name], _miou(run, name), spread)
            for run, spread in zip(runs, spreads, strict=True)
        ]
    return Headline(over, mean, rows)


def best_of(cells: Sequence[Cell]) -> set[int]:
    """The places of the highest mIoU as it is printed; none where only one run has a number."""
    known = [cell.value for cell in cells if cell.value is not None]
    if len(known) < 2:
        return set()
    return {i for i, cell in enumerate(cells) if percent(cell.value) == percent(max(known))}


def has_robustness(runs: Sequence[Run]) -> bool:
    """Whether any run has more to say of robustness than its mean."""
    held = [run.scores["robustness"] for run in runs]
    return any(x["source"] or x["corruptions"] or len(x["target"]["domains"]) > 1 for x in held)


def losses(runs: Sequence[Run], reference: Run | None) -> dict[tuple[str, str], list[Loss | None]]:
    """What corruptions cost every run, by corruption and what it is made of."""
    rows: dict[tuple[str, str], list[Loss | None]] = {}
    for i, run in enumerate(runs):
        degradation = corruption_degradation(run.domains, reference.domains) if reference else {}
        for part in run.scores["robustness"]["corruptions"]:
            name, clean = part["corruption"], part["clean"]
            origin = f"of {clean}" if clean is not None else "clean not scored"
            key = (name, f"severity {_steps(part['severities'])}, {origin}")
            cd, rcd = degradation.get((name, clean), (None, None))
            start = _miou(run, clean) if clean is not None else None
            loss = Loss(start, part["miou"], part["relative"], _times_100(cd), _times_100(rcd))
            rows.setdefault(key, [None] * len(runs))[i] = loss
    return rows


def mean_losses(rows: Iterable[Sequence[Loss | None]]) -> list[Loss]:
    """The plain mean of every column over corruptions; None where one is missing."""
    return [Loss(*(_mean(column) for column in _columns(run))) for run in zip(*rows, strict=True)]


def largest_confusions(run: Run, domain: str, number: int = 6) -> list[Confusion]:
    """The largest shares of a class that are taken for another, from one percent on."""
    names = [*run.classes(domain)["names"], NONE]
    counts = confusion_counts(run, domain)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    order = np.argsort(-shares, axis=None, kind="stable")[:number]
    places = [divmod(int(place), counts.shape[1]) for place in order]
    return [
        Confusion(names[i], names[j], shares[i, j], 100 * counts[i, j] / counts.sum())
        for i, j in places
        if shares[i, j] >= 1
    ]


def confusion_counts(run: Run, domain: str) -> np.ndarray:
    """Pixels by true and predicted class (k k), and in a further column, if any, by `NONE`."""
    return np.array([row.split() for row in run.domains[domain]["confusion"]], dtype=np.int64)


def chosen_on_target(runs: Sequence[Run]) -> list[str]:
    """What must be said of runs whose weights owe something to a target domain."""
    return [f"{run.label}: {CHOSEN_ON_TARGET}" for run in runs if is_chosen_on_target(run.scores)]


def caveats(runs: Sequence[Run], over: Sequence[str]) -> list[str]:
    """Reasons why numbers that stand side by side are not alike."""
    found = [f"{text}." for text in chosen_on_target(runs)]
    if len({describe_inference(run.scores["inference"]) for run in runs}) > 1:
        found.append("The runs were not predicted in the same way (see the last section).")
    if any(run.scores["mean"]["over"] != over for run in runs):
        found.append(
            "The runs name different domains for the mean. Here all have the first's, but under "
            "robustness each has its own."
        )
    missing, unlike = [], []
    for name in _all_domains(runs):
        abouts = [run.domains[name] for run in runs if name in run.domains]
        if len(abouts) < len(runs):
            missing.append(name)
        if any(_made_of(about) != _made_of(abouts[0]) for about in abouts):
            unlike.append(name)
    if missing:
        found.append(f"Not every run was scored in {_some(missing)}.")
    if unlike:
        found.append(f"The runs were scored on different images in {_some(unlike)}.")
    return found


def _made_of(about: Mapping[str, Any]) -> list[Any]:
    """What two runs must share in a domain for their scores to be alike."""
    keys = ("size", "pixels", "split", "resized_to", "fit_inside", "corruption")
    return [about["per_image"]["names"], *map(about.get, keys)]


def minus(value: Value, other: Value) -> Value:
    """Return the difference, or None if a value is missing."""
    return None if value is None or other is None else value - other


def percent(value: Value) -> str:
    """One decimal; a dash for no number."""
    return "–" if value is None else f"{value:.1f}"


def signed(value: Value) -> str:
    """One decimal with its sign; what rounds to zero has none."""
    if value is None or round(value, 1) == 0:
        return "–" if value is None else "0.0"
    return f"{value:+.1f}".replace("-", "−")


def other_score(run: Run, domain: str, measure: str) -> Value:
    """One of `OTHERS` of a domain."""
    about = run.domains[domain]
    return (about["calibration"] or {}).get("ece") if measure == "ece" else about[measure]


def _some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + rest


def _all_domains(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.domains))


def all_about(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """What eval.json says of every domain, of the first run that has it."""
    first = {name: about for run in runs[::-1] for name, about in run.domains.items()}
    return {name: first[name] for name in _all_domains(runs)}


def _miou(run: Run, domain: str) -> Value:
    return run.domains.get(domain, {}).get("miou")


def _mean_miou(run: Run, over: Sequence[str]) -> Value:
    return _mean([_miou(run, name) for name in over])


def _cell(
    run: Run, reference: Run | None, domains: Sequence[str], value: Value, spread: Interval | None
) -> Cell:
    if reference is None or run is reference or value is None:
        return Cell(value, spread, None, None)
    change = minus(value, _mean_miou(reference, domains))
    return Cell(value, spread, change, _paired(run, reference, domains))


def _paired(run: Run, reference: Run, domains: Sequence[str]) -> Interval | None:
    """The interval of a difference; None where the images or classes are not the same."""
    both = (run, reference)
    for name in domains:
        if any(name not in one.domains for one in both):
            return None
        images, classes = zip(
            *(
                (one.domains[name]["per_image"]["names"], one.classes(name)["names"])
                for one in both
            ),
            strict=True,
        )
        if images[0] != images[1] or classes[0] != classes[1]:
            return None
    ours, theirs = ([one.counts(name) for name in domains] for one in both)
    names = [run.domains[name]["per_image"]["names"] for name in domains]
    return paired_interval([ours], [theirs], names)


def _columns(parts: Sequence[Loss | None]) -> list[list[Value]]:
    """Of one run the clean scores of all corruptions, then the corrupted ones, and so on."""
    return [[part[i] if part else None for part in parts] for i in range(len(Loss._fields))]


def _steps(severities: Sequence[int]) -> str:
    low, high = min(severities), max(severities)
    is_run = len(severities) > 1 and list(severities) == list(range(low, high + 1))
    return f"{low} to {high}" if is_run else ", ".join(map(str, severities))


def _mean(values: Sequence[Value]) -> Value:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def _times_100(value: Value) -> Value:
    return None if value is None else 100 * value
