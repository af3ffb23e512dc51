"""The band that the data suggest: rings that hold little of the classes and much of the shift.

Means over blocks, with J(k) and the probes of `classes` and S(k) of `shift`:

    (1) j(k) = mean of J(k) / J,               J that of the richest ring
    (2) m(k) = mean of 1 - A(k) / A,           A the mIoU of a probe, A(k) of one without ring k
    (3) s(k) = mean of S(k) / S,               S that of all rings together
    (4) ring k is non-causal if j(k) < 0.05, m(k) < 0.05 and s(k) > 1, each beyond its interval

R_L is the upper edge of the non-causal rings from the lowest on, R_H the lower edge of those up to
the highest. Intervals are 95 % of a delete-a-group jackknife over groups of images.

Random gains of a band get the variance G of `shift` over the band, at most 1/3: then the range
begins at 0. A gain uniform in [1 - a, 1 + a] has variance a^2 / 3.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from causalseg.analysis.rings import ring_edge

_POOR = 0.05  # of the class information of the richest ring, and of the probe's mIoU
_T = 2.776  # 97.5 % quantile of Student's t with 4 degrees of freedom
GROUPS = 5
Range = tuple[float, float]


class Estimate(NamedTuple):
    """A value and its interval."""

    value: float
    low: float
    high: float


class RingVerdict(NamedTuple):
    """j(k), m(k) and s(k) of a ring, and whether it is non-causal."""

    classes: Estimate
    missed: Estimate
    shift: Estimate
    is_non_causal: bool


class Verdict(NamedTuple):
    """What a method may take: radii R_L and R_H, and ranges of gains below and above them."""

    rings: list[RingVerdict]
    low: float | None
    high: float | None
    low_gain: Range | None
    high_gain: Range | None

    def describe(self) -> str:
        """Return the verdict in one sentence."""
        if self.low is None and self.high is None:
            return (
                "No ring at either end of the spectrum is both class-poor and shift-rich: the data "
                "suggest no band, so nothing should be removed."
            )
        parts = []
        if self.low is not None:
            parts.append(f"below R_L = {self.low:.2f}")
        if self.high is not None:
            parts.append(f"above R_H = {self.high:.2f}")
        return f"Frequencies {' and '.join(parts)} are class-poor and shift-rich."


def judge_rings(
    classes: Float[Tensor, "groups1 blocks rings"],
    missed: Float[Tensor, "groups1 blocks rings"],
    moved: Float[Tensor, "groups1 blocks rings"],
    varied: Float[Tensor, "groups1 blocks rings"],
    power: Float[Tensor, "blocks rings"],
) -> Verdict:
    """Return the verdict.

    Args:
        classes: J(k); first of all images, then without each of the groups.
        missed: 1 - A(k) / A, likewise.
        moved: energy of the change of each ring, likewise.
        varied: energy of what differs between images in each ring, likewise.
        power: energy of each ring; 0 where the grid is too small for it.
    """
    j = classes / classes.amax(2, keepdim=True)
    s = (moved / varied) / (moved.sum(2) / varied.sum(2))[..., None]
    known = [each.where(power > 0, torch.nan).nanmean(1) for each in (j, missed, s)]
    rings = []
    for own, loss, change in zip(*map(_estimate, known), strict=True):
        is_poor = own.high < _POOR and loss.high < _POOR
        rings.append(RingVerdict(own, loss, change, is_poor and change.low > 1))
    return _suggest(rings, moved[0].sum(0), power.sum(0))


def _suggest(rings: list[RingVerdict], moved: Tensor, power: Tensor) -> Verdict:
    number = len(rings)
    # A ring without coefficients is passed over.
    flags = [ring.is_non_causal or not p for ring, p in zip(rings, power.tolist(), strict=True)]
    if not any(ring.is_non_causal for ring in rings):
        flags = [False] * number
    below = flags.index(False) if False in flags else number
    above = flags[::-1].index(False) if below < number else 0
    low = ring_edge(below, number) if 0 < below < number else None
    high = ring_edge(number - above, number) if above else None
    return Verdict(
        rings,
        low,
        high,
        _gains(moved[:below], power[:below]) if low else None,
        _gains(moved[number - above :], power[number - above :]) if high else None,
    )


def _gains(moved: Tensor, power: Tensor) -> Range:
    variance = min(1 / 3, float(moved.sum() / power.sum()))
    a = math.sqrt(3 * variance)
    return round(1 - a, 3), round(1 + a, 3)


def _estimate(values: Float[Tensor, "groups1 rings"]) -> list[Estimate]:
    """Return the first values with intervals, from those that leave out one group each."""
    left_out = values[1:]
    error = ((len(left_out) - 1) * left_out.var(0, correction=0)).sqrt()
    ends = torch.stack([values[0], values[0] - _T * error, values[0] + _T * error])
    return [Estimate(*column) for column in ends.T.tolist()]
