"""Bootstrap intervals over images, of a score or of the difference of two methods.

The bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993) resamples the images of
every domain with replacement; a comparison uses the same draws for both methods and all seeds. The
counts of the drawn images are summed, IoU_k = sum TP_k / sum (TP_k + FP_k + FN_k); the score is the
mean over classes, domains and seeds, and the interval a range of quantiles. It does not cover the
choice of seeds. Domains with the same image names (a street in several conditions) share their
draws. Images of a video are not independent: there the interval is too narrow.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from causalseg.engine.metrics import mean_iou

RESAMPLES = 1000
LEVEL = 0.95
_SEED = 0

RunCounts = Sequence[Int[np.ndarray, "b 3 k"]]
"""One run: for each domain TP, FP and FN of every image and class, in pixels."""


def interval(counts: RunCounts, names: Sequence[Sequence[str]]) -> tuple[float, float] | None:
    """Return the bootstrap interval of a run's mean mIoU in percent; see `paired_interval`."""
    return _quantiles(_scores(counts, _draw(names))) if min(map(len, names)) > 1 else None


def paired_interval(
    ours: Sequence[RunCounts], theirs: Sequence[RunCounts], names: Sequence[Sequence[str]]
) -> tuple[float, float] | None:
    """Return the bootstrap interval of our score minus theirs, in points of mIoU.

    Both methods have one run per seed, all with the same images, whose ``names`` are given by
    domain. None if a domain has fewer than two images or a draw has no labelled pixels.
    """
    if min(map(len, names)) < 2:
        return None
    draws = _draw(names)
    pairs = zip(ours, theirs, strict=True)
    differences = [_scores(a, draws) - _scores(b, draws) for a, b in pairs]
    return _quantiles(np.mean(differences, axis=0))


def _draw(names: Sequence[Sequence[str]]) -> list[Float[np.ndarray, "resamples b"]]:
    """Return how often each image is drawn: sums over drawn images are then matrix products."""
    generator, shared = np.random.default_rng(_SEED), {}
    for images in dict.fromkeys(map(tuple, names)):
        evenly = np.full(len(images), 1 / len(images))
        shared[images] = generator.multinomial(len(images), evenly, RESAMPLES).astype(float)
    return [shared[tuple(images)] for images in names]


def _scores(run: RunCounts, draws: Sequence[np.ndarray]) -> Float[np.ndarray, " resamples"]:
    """The mean over domains of the mIoU of every draw."""
    mious = []
    for counts, drawn in zip(run, draws, strict=True):
        summed = drawn @ counts.reshape(len(counts), -1)
        mious.append(mean_iou(summed.reshape(len(drawn), *counts.shape[1:])))
    return np.mean(mious, axis=0)


def _quantiles(values: Float[np.ndarray, " resamples"]) -> tuple[float, float] | None:
    if np.isnan(values).any():
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
