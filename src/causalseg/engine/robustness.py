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

Value = float | None
Domains = Mapping[str, Mapping[str, Any]]


def summarise_robustness(
    domains: Domains, over: Sequence[str], sources: Sequence[str]
) -> dict[str, Any]:
    """Return the `robustness` entry of eval.json.

    The mean is over the domains ``over``; ``sources`` are in-distribution and not corrupted.
    """
    source, target = _mean(domains, sources), _mean(domains, over)
    known = [name for name in over if domains[name]["miou"] is not None]
    return {
        "source": {"miou": source, "domains": list(sources)} if sources else None,
        "target": {"miou": target, "domains": list(over)},
        "worst": min(known, key=lambda name: domains[name]["miou"], default=None),
        "retention": None if target is None or not source else 100 * target / source,
        "corruptions": [
            _degradation(domains, key, names) for key, names in _corrupted(domains).items()
        ],
    }


def corruption_degradation(
    ours: Domains, reference: Domains
) -> dict[tuple[str, str | None], tuple[Value, Value]]:
    """Return (CD, rCD) by corruption and clean domain, over the domains both were scored on.

    A value is None if a score is missing or the reference loses nothing.
    """
    degradations = {}
    for (corruption, clean), members in _corrupted(ours).items():
        shared = [
            name
            for name in members
            if reference.get(name, {}).get("corruption") == ours[name]["corruption"]
        ]
        if shared:
            mious = [[scores[name]["miou"] for name in shared] for scores in (ours, reference)]
            starts = [scores.get(clean or "", {}).get("miou") for scores in (ours, reference)]
            cd = _ratio([_losses(100.0, values) for values in mious])
            rcd = _ratio([_losses(*pair) for pair in zip(starts, mious, strict=True)])
            degradations[corruption, clean] = (cd, rcd)
    return degradations


def _losses(start: Value, mious: Sequence[Value]) -> Value:
    """The summed loss; None if a score is missing."""
    if start is None or None in mious:
        return None
    return sum(start - miou for miou in mious if miou is not None)


def _ratio(losses: Sequence[Value]) -> Value:
    ours, theirs = losses
    return None if ours is None or theirs is None or theirs <= 0 else ours / theirs


def _corrupted(domains: Domains) -> dict[tuple[str, str | None], list[str]]:
    """The corrupted domains by corruption and clean domain, the mildest first."""
    groups: dict[tuple[str, str | None], list[str]] = {}
    for name, scores in domains.items():
        if corruption := scores.get("corruption"):
            groups.setdefault((corruption["name"], corruption["clean"]), []).append(name)
    for names in groups.values():
        names.sort(key=lambda name: domains[name]["corruption"]["severity"])
    return groups


def _degradation(
    domains: Domains, key: tuple[str, str | None], names: Sequence[str]
) -> dict[str, Any]:
    corruption, clean = key
    miou = _mean(domains, names)
    start = domains[clean]["miou"] if clean is not None else None
    return {
        "corruption": corruption,
        "clean": clean,
        "severities": [domains[name]["corruption"]["severity"] for name in names],
        "miou": miou,
        "relative": None if miou is None or not start else 100 * (start - miou) / start,
    }


def _mean(domains: Domains, names: Sequence[str]) -> Value:
    """The mean mIoU; None if one is missing."""
    values = [domains[name]["miou"] for name in names]
    return None if None in values or not values else statistics.mean(values)
