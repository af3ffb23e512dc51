"""How far the difference of two methods depends on the images that were scored.

The paired bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993): draw the images
of every domain anew, with replacement, and the same draw for both methods and all seeds. The
counts of the drawn images are summed as those of the domain are,

    IoU_k = sum TP_k / sum (TP_k + FP_k + FN_k),

the mean over classes gives the domain's mIoU, the mean over domains and then over seeds the score,
and the interval is a range of quantiles of the differences. It says nothing about other seeds.

The unit of drawing is an image by its name: domains that show the same names (one street under
several skies) share their draws. Images of a video are not independent, as the bootstrap takes them
to be: there the interval is too narrow.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 1000
LEVEL = 0.95

Counts = Sequence[Int[np.ndarray, "b 3 k"]]
"""One run: for each domain TP, FP and FN of every image and class, in pixels."""


def mean_iou(counts: Float[np.ndarray, "... 3 k"]) -> Float[np.ndarray, "..."]:
    """Return the mean IoU in percent over the classes that occur or are predicted; NaN if none."""
    union = counts.sum(axis=-2)
    is_present = union > 0
    iou = np.divide(counts[..., 0, :], union, out=np.zeros_like(union), where=is_present)
    number = is_present.sum(axis=-1)
    return 100 * iou.sum(axis=-1) / np.where(number, number, np.nan)


def paired_interval(
    ours: Sequence[Counts],
    theirs: Sequence[Counts],
    names: Sequence[Sequence[str]],
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return the bootstrap interval of our score minus theirs, in points of mIoU.

    Args:
        ours: one run a seed, all with the same domains and images.
        theirs: the other method's runs of the same seeds, domains and images.
        names: of the images of every domain; domains whose lists are equal share their draws.
        resamples: number of draws.
        level: share of the differences within the interval.
        seed: of the draws.

    Returns:
        Lower and upper end; None if a domain has fewer than two images, since it then has nothing
        to draw from, or if a draw has no labelled pixels.
    """
    if min(map(len, names)) < 2:
        return None
    generator = np.random.default_rng(seed)
    # How often each image is drawn: the sum over drawn images is then one matrix product.
    shared = {
        images: generator.multinomial(
            len(images), np.full(len(images), 1 / len(images)), resamples
        ).astype(float)
        for images in dict.fromkeys(map(tuple, names))
    }
    draws = [shared[tuple(images)] for images in names]
    differences = np.mean(
        [_scores(a, draws) - _scores(b, draws) for a, b in zip(ours, theirs, strict=True)], axis=0
    )
    if np.isnan(differences).any():
        return None
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _scores(run: Counts, draws: Sequence[np.ndarray]) -> Float[np.ndarray, " resamples"]:
    """Return the mean over domains of the mIoU of every draw."""
    mious = []
    for counts, drawn in zip(run, draws, strict=True):
        summed = drawn @ counts.reshape(len(counts), -1)
        mious.append(mean_iou(summed.reshape(len(drawn), *counts.shape[1:])))
    return np.mean(mious, axis=0)
