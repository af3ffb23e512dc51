"""Robustness from domain to domain, from the scores in eval.json.

    retention   = target mIoU / source mIoU
    relative loss of a corruption = (clean - corrupted) / clean

Target domains are those in the mean, source domains the in-distribution ones. The score of a
corruption is its mean over severities. Compared with another model, as by Kamann and Rother for
Cityscapes-C ("Benchmarking the Robustness of Semantic Segmentation Models", CVPR 2020),

    CD  = sum over severities of (100 - mIoU)     / the same sum of the reference
    rCD = sum over severities of (clean - mIoU)   / the same sum of the reference

below 1 if the model is more robust than the reference.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from causalseg.runs.scores import Degradation, DomainScores, Value

Domains = Mapping[str, Mapping[str, Any]]


def summarise_robustness(
    domains: Domains, over: Sequence[str], sources: Sequence[str]
) -> dict[str, Any]:
    """Return the `robustness` entry of eval.json; the target domains are ``over``."""
    source, target = _mean(domains, sources), _mean(domains, over)
    known = [name for name in over if domains[name]["miou"] is not None]
    return {
        "source": {"miou": source, "domains": list(sources)} if sources else None,
        "target": {"miou": target, "domains": list(over)},
        "worst": min(known, key=lambda name: domains[name]["miou"], default=None),
        "retention": None if target is None or not source else 100 * target / source,
        "corruptions": _list_degradations(domains),
    }


def corruption_degradation(
    ours: Mapping[str, DomainScores], reference: Mapping[str, DomainScores], part: Degradation
) -> tuple[Value, Value]:
    """Return CD and rCD of a corruption in percent, over domains both were scored on, same images.

    A value is None if a score is missing or the reference loses nothing.
    """
    shared = [
        name
        for name, domain in ours.items()
        if (applied := domain.corruption)
        and (applied.name, applied.clean) == (part.corruption, part.clean)
        and name in reference
        and reference[name].corruption == applied
        and reference[name].per_image.names == domain.per_image.names
    ]
    if not shared:
        return None, None
    losses = []
    for scores in (ours, reference):
        mious = [scores[name].miou for name in shared]
        clean = scores[part.clean].miou if part.clean and part.clean in scores else None
        losses.append((_losses(100.0, mious), _losses(clean, mious)))
    (cd, rcd), (reference_cd, reference_rcd) = losses
    return _ratio(cd, reference_cd), _ratio(rcd, reference_rcd)


def _losses(start: Value, mious: Sequence[Value]) -> Value:
    """The summed loss; None if a score is missing."""
    if start is None or None in mious:
        return None
    return sum(start - miou for miou in mious if miou is not None)


def _ratio(ours: Value, theirs: Value) -> Value:
    return None if ours is None or theirs is None or theirs <= 0 else 100 * (ours / theirs)


def _list_degradations(domains: Domains) -> list[dict[str, Any]]:
    """Summarise the corrupted domains by corruption and clean domain, the mildest first."""
    groups: dict[tuple[str, str | None], list[str]] = {}
    for name, scores in domains.items():
        if corruption := scores.get("corruption"):
            groups.setdefault((corruption["name"], corruption["clean"]), []).append(name)
    entries = []
    for (kind, clean), names in groups.items():
        names.sort(key=lambda name: domains[name]["corruption"]["severity"])
        severities = [domains[name]["corruption"]["severity"] for name in names]
        miou = _mean(domains, names)
        start = domains[clean]["miou"] if clean is not None else None
        relative = None if miou is None or not start else 100 * (start - miou) / start
        entry = {"corruption": kind, "clean": clean, "severities": severities}
        entries.append({**entry, "miou": miou, "relative": relative})
    return entries


def _mean(domains: Domains, names: Sequence[str]) -> Value:
    """The mean mIoU; None if one is missing."""
    values = [domains[name]["miou"] for name in names]
    return None if None in values or not values else statistics.mean(values)
