"""The numbers of a report, for the page, Markdown and LaTeX: percent, or points for differences.

Not read from eval.json but computed here: differences to the reference with their paired bootstrap
interval, CD and rCD, and the mean of a run whose own mean is over other domains than the first's.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from causalseg.engine.bootstrap import paired_interval
from causalseg.engine.robustness import corruption_degradation
from causalseg.errors import list_some
from causalseg.report.format import Interval, describe_domains, format_percent, mean_of, subtract
from causalseg.report.read import Run, counts_of, read_runs
from causalseg.runs.folder import RunFolder
from causalseg.runs.scores import DomainScores, Value

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
    "aurc": "risk over coverage",
    "fpr95": "false positives at 95 % of the unknown",
    "classes_scored": "classes scored",
}
NONE = "none of these"  # stands for predictions that map to no class of the domain
_NAMED = 5  # domains that a caveat names


class DomainTable(NamedTuple):
    """mIoU in percent by run label: one value for each domain, then the mean over ``over``.

    The difference, of exactly two runs, is second minus first; ``made_of`` describes the domains.
    """

    domains: list[str]
    over: list[str]
    rows: dict[str, list[Value]]
    difference: list[Value] | None
    made_of: list[str]


class Score(NamedTuple):
    """A run's mIoU and its difference to the reference, each with its 95 % interval.

    ``note`` says why it cannot be set beside those of the other runs: it is of other images.
    """

    value: Value
    interval: Interval | None
    change: Value = None
    change_interval: Interval | None = None
    note: str = ""


class Headline(NamedTuple):
    """mIoU with one score for each run: the mean over the domains ``over``, and by domain."""

    over: list[str]
    mean: list[Score]
    rows: dict[str, list[Score]]


class Loss(NamedTuple):
    """The loss of a run by one corruption; CD and rCD are in percent of the reference."""

    clean: Value = None
    corrupted: Value = None
    relative: Value = None
    cd: Value = None
    rcd: Value = None


class Confusion(NamedTuple):
    """A class predicted as another: pixels in percent of the class's, and of all."""

    true: str
    predicted: str
    share: float
    of_all: float


def domain_table(runs: Sequence[RunFolder]) -> DomainTable:
    """Return the mIoU of every run in every domain; raises what `read_runs` does."""
    read = read_runs(runs)
    domains, over = collect_domains(read), read[0].scores.mean.over
    rows = {run.label: [*map(run.scores.miou_of, domains), _mean_miou(run, over)] for run in read}
    changes = None
    if len(read) == 2:
        columns = zip([*([name] for name in domains), over], *rows.values(), strict=True)
        changes = [
            None if note_images(read[1], read[0], names) else subtract(second, first)
            for names, first, second in columns
        ]
    made_of = [*describe_domains(domains), *_list_marks(read)]
    return DomainTable(list(domains), over, rows, changes, made_of)


def build_headline(runs: Sequence[Run], reference: Run | None) -> Headline:
    """Return mIoU with intervals, and the differences to the reference on the same images."""
    over = runs[0].scores.mean.over

    def score(run: Run, domains: Sequence[str], interval: Interval | None) -> Score:
        value, note = _mean_miou(run, domains), note_images(run, reference or runs[0], domains)
        if reference is None or run is reference or value is None or note:
            return Score(value, interval, note=note)
        change = subtract(value, _mean_miou(reference, domains))
        return Score(value, interval, change, _paired_interval(run, reference, domains))

    rows = {
        name: [
            score(run, [name], run.domains[name].miou_interval if name in run.domains else None)
            for run in runs
        ]
        for name in collect_domains(runs)
    }
    means = [run.scores.mean for run in runs]
    intervals = [mean.interval if mean.over == over else None for mean in means]
    mean = [score(run, over, interval) for run, interval in zip(runs, intervals, strict=True)]
    return Headline(over, mean, rows)


def find_best(scores: Sequence[Score]) -> set[int]:
    """Return the indices of the highest mIoU as printed.

    None if only one run has a number, or one was scored on other images.
    """
    known = [score.value for score in scores if score.value is not None]
    if len(known) < 2 or any(score.note for score in scores):
        return set()
    best = format_percent(max(known))
    return {i for i, score in enumerate(scores) if format_percent(score.value) == best}


def has_robustness(runs: Sequence[Run]) -> bool:
    """Whether any run's robustness says more than its mean."""
    parts = [run.scores.robustness for run in runs]
    return any(x.source or x.corruptions or len(x.target.domains) > 1 for x in parts)


def list_robustness(runs: Sequence[Run]) -> list[tuple[str, str, list[tuple[Value, str]]]]:
    """Return the rows of robustness: title, explanation, and each run's value and its domains.

    Source and retention only exist if a run was scored on a domain outside its mean.
    """
    parts = [run.scores.robustness for run in runs]
    sources = [part.source for part in parts]
    source = [(group.miou, _name(group.domains)) if group else (None, "") for group in sources]
    target = [(part.target.miou, _name(part.target.domains)) for part in parts]
    worst = [
        (run.domains[part.worst].miou, part.worst) if part.worst is not None else (None, "")
        for run, part in zip(runs, parts, strict=True)
    ]
    retention = [(part.retention, "") for part in parts]
    rows = [
        ("target", "domains that the mean is over", target),
        ("worst target", "", worst),
    ]
    if any(sources):
        rows.insert(0, ("source", "in-distribution domains", source))
        rows.append(("retention", "target in % of source", retention))
    return rows


def list_losses(runs: Sequence[Run], reference: Run | None) -> dict[tuple[str, str], list[Loss]]:
    """Return the loss of every run by corruption and what it is made of; empty if not scored."""
    rows: dict[tuple[str, str], list[Loss]] = {}
    for i, run in enumerate(runs):
        for part in run.scores.robustness.corruptions:
            origin = "clean not scored" if part.clean is None else f"of {part.clean}"
            key = (part.corruption, f"severity {_list_steps(part.severities)}, {origin}")
            cd = rcd = None
            if reference:
                cd, rcd = corruption_degradation(run.domains, reference.domains, part)
            clean = None if part.clean is None else run.scores.miou_of(part.clean)
            loss = Loss(clean, part.miou, part.relative, cd, rcd)
            rows.setdefault(key, [Loss()] * len(runs))[i] = loss
    return rows


def average_losses(rows: Iterable[Sequence[Loss]]) -> list[Loss]:
    """Return for each run the plain mean over corruptions; None where one is missing."""
    return [Loss(*map(mean_of, zip(*run, strict=True))) for run in zip(*rows, strict=True)]


def find_largest_confusions(run: Run, domain: str, number: int = 6) -> list[Confusion]:
    """Return the classes most often predicted as another, from one percent of a class's pixels."""
    names = [*run.scores.classes_of(domain).names, NONE]
    counts = read_confusion(run, domain)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    order = np.argsort(-shares, axis=None, kind="stable")[:number]
    pairs = [divmod(int(index), counts.shape[1]) for index in order]
    return [
        Confusion(names[i], names[j], shares[i, j], 100 * counts[i, j] / counts.sum())
        for i, j in pairs
        if shares[i, j] >= 1
    ]


def read_confusion(run: Run, domain: str) -> Int[np.ndarray, "k k_predicted"]:
    """Return pixels by true and predicted class; a last extra column, if any, stands for `NONE`."""
    return np.array([row.split() for row in run.domains[domain].confusion or []], dtype=np.int64)


def list_caveats(runs: Sequence[Run], over: Sequence[str]) -> list[str]:
    """Return reasons why the numbers of the runs are not comparable."""
    caveats = [f"{text}." for text in _list_marks(runs)]
    if len({run.scores.describe_prediction() for run in runs}) > 1:
        caveats.append("The runs were not predicted in the same way (see the last section).")
    if any(run.scores.mean.over != over for run in runs):
        caveats.append(
            "The runs name different domains for the mean. The first run's are used for all, but "
            "under robustness each has its own."
        )
    scored = {
        name: [_list_parts(run.domains[name]) for run in runs if name in run.domains]
        for name in collect_domains(runs)
    }
    if missing := [name for name, parts in scored.items() if len(parts) < len(runs)]:
        caveats.append(f"Not every run was scored in {list_some(missing, _NAMED)}.")
    if differing := [
        name for name, (first, *rest) in scored.items() if any(x != first for x in rest)
    ]:
        names = list_some(differing, _NAMED)
        caveats.append(
            f"The runs were scored on different images in {names}: no best and no difference there."
        )
    return caveats


def describe_metric(runs: Sequence[Run]) -> str:
    """Say how mIoU is computed."""
    made_of = runs[0].scores.made_of
    return f"{made_of[:1].upper()}{made_of[1:]}."


def describe_inference(runs: Iterable[Run]) -> list[str]:
    """Say for each run how it was predicted and with which overrides."""
    notes = []
    for run in runs:
        note = f"{run.label}: predicted from {run.scores.describe_prediction()}."
        if overrides := run.scores.overrides:
            note += f" Scored with {', '.join(overrides)} on top of its configuration."
        notes.append(note)
    return notes


def collect_domains(runs: Sequence[Run]) -> dict[str, DomainScores]:
    """Return the scores of every domain, from the first run that has it."""
    domains: dict[str, DomainScores] = {}
    for run in runs:
        for name, scores in run.domains.items():
            domains.setdefault(name, scores)
    return domains


def note_images(run: Run, other: Run, domains: Sequence[str]) -> str:
    """Return what differs in the images of domains that both runs were scored on, or nothing."""
    for name in domains:
        ours, theirs = run.domains.get(name), other.domains.get(name)
        if ours and theirs and _list_parts(ours) != _list_parts(theirs):
            same = ours.images == theirs.images
            return "other images" if same else f"other images: {ours.images}, not {theirs.images}"
    return ""


def _list_marks(runs: Sequence[Run]) -> list[str]:
    return [f"{run.label}: {run.scores.mark}" for run in runs if run.scores.mark]


def _list_parts(domain: DomainScores) -> dict[str, Any]:
    """What must be the same in two runs for the scores of a domain to be comparable."""
    parts = {"size", "pixels", "split", "resized_to", "fit_inside", "corruption"}
    return {"names": domain.per_image.names, **domain.model_dump(include=parts)}


def _name(domains: Sequence[str]) -> str:
    return ", ".join(domains) if len(domains) < 4 else f"{len(domains)} domains"


def _mean_miou(run: Run, domains: Sequence[str]) -> Value:
    return mean_of(map(run.scores.miou_of, domains))


def _paired_interval(run: Run, reference: Run, domains: Sequence[str]) -> Interval | None:
    """Return the interval of a difference; None where images or classes differ."""
    ours, theirs = run.scores, reference.scores
    if not ours.domains.keys() & theirs.domains.keys() >= set(domains):
        return None
    names = ours.names_of(domains)
    classes = [[scores.classes_of(name).names for name in domains] for scores in (ours, theirs)]
    if names != theirs.names_of(domains) or classes[0] != classes[1]:
        return None
    return paired_interval([counts_of(ours, domains)], [counts_of(theirs, domains)], names)


def _list_steps(severities: Sequence[int]) -> str:
    low, high = min(severities), max(severities)
    is_range = len(severities) > 1 and list(severities) == list(range(low, high + 1))
    return f"{low} to {high}" if is_range else ", ".join(map(str, severities))
