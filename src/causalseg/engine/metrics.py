"""From predicted and true classes to counts, and from counts to scores.

Counts are summed over images and processes; scores are computed from sums only:

    IoU_k       = TP_k / (TP_k + FP_k + FN_k)
    precision_k = TP_k / (TP_k + FP_k)         recall_k = TP_k / (TP_k + FN_k)
    mIoU        = mean of IoU_k over the classes that occur, TP_k + FN_k > 0
    FWIoU       = sum over k of IoU_k (TP_k + FN_k) / sum over k of (TP_k + FN_k)

Boundary IoU (Cheng et al., CVPR 2021) is the IoU of the parts of both masks that are at most d
pixels from their contour, d = 2 % of the image's diagonal; the image's edge is contour too.

The expected calibration error (Guo et al., ICML 2017) is, over 15 bins of equal width,

    ECE = sum over bins of  fraction of pixels * |accuracy - mean confidence|.

The area under the risk-coverage curve (Geifman and El-Yaniv, NeurIPS 2017) is the mean error rate
of the most confident pixels, over all fractions of pixels that are kept:

    AURC = mean over c in (0, 1] of  errors among the fraction c of most confident pixels / c

0 where every error is less confident than every hit; the error rate where confidence says nothing.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from causalseg.data.classes import IGNORE
from causalseg.spectral.transforms import widen

BINS = 15
FINE_BINS = 64 * BINS  # for the order of pixels by confidence
_CONTOUR = 0.02  # of the diagonal
_UNIT_BITS = 20  # confidence is counted in multiples of 2^-20: sums are exact, in any order
_IGNORED = 1000  # id of no class

Ids = Int[Tensor, "H W"]  # of classes


def confusion_matrix(prediction: Ids, label: Ids, num_classes: int) -> Int[Tensor, "k k+1"]:
    """Count pixels by true and predicted class (last: none of the k); label 255 is left out."""
    ignored = num_classes * (num_classes + 1)  # one more bin is faster than a selection of pixels
    pairs = label.int() * (num_classes + 1) + prediction.int()
    pairs = pairs.masked_fill_(label == IGNORE, ignored).flatten()
    counts = torch.bincount(pairs, minlength=ignored + 1)
    return counts[:-1].reshape(num_classes, num_classes + 1)


def boundary_counts(prediction: Ids, label: Ids, num_classes: int) -> Int[Tensor, "3 k"]:
    """Count TP, FP and FN of every class among the pixels near a contour.

    Pixels ignored in the label are ignored in the prediction: their edge is a contour of both.
    """
    elsewhere = num_classes  # of pixels away from contours
    is_ignored = label == IGNORE
    truth, predicted = (
        ids.masked_fill(~_near_contour(ids.masked_fill(is_ignored, _IGNORED)), elsewhere)
        for ids in (label.short(), prediction.short())
    )
    truth = truth.masked_fill(is_ignored, IGNORE)
    return count_pixels(confusion_matrix(predicted, truth, num_classes + 1))[:, :num_classes]


def count_pixels(confusions: Int[Tensor, "*b k k+1"]) -> Int[Tensor, "*b 3 k"]:
    """Return TP, FP and FN of every class."""
    square = confusions[..., :-1]
    hits = square.diagonal(dim1=-2, dim2=-1)
    return torch.stack([hits, square.sum(-2) - hits, confusions.sum(-1) - hits], dim=-2)


def reliability_counts(
    confidence: Float[Tensor, "H W"], prediction: Ids, label: Ids
) -> Float[Tensor, "3 fine"]:
    """Sum pixels, confidence and correct pixels by fine bins of confidence; 255 is ignored."""
    units = (widen(confidence) * 2**_UNIT_BITS).round().int()
    bins = (units * FINE_BINS - 1) >> _UNIT_BITS  # i < FINE_BINS * confidence <= i + 1
    bins = bins.clamp_(0, FINE_BINS - 1).masked_fill_(label == IGNORE, FINE_BINS).flatten()
    is_correct = (prediction == label).flatten()
    pixels = torch.bincount(2 * bins + is_correct, minlength=2 * FINE_BINS + 2).reshape(-1, 2)
    summed = torch.bincount(bins, units.flatten().double(), FINE_BINS + 1) / 2**_UNIT_BITS
    return torch.stack([pixels.sum(1), summed, pixels[:, 1]])[:, :FINE_BINS]


def unknown_counts(confidence: Float[Tensor, "H W"], unknown: Ids) -> Int[Tensor, "2 fine"]:
    """Count known (0) and unknown pixels (1) by fine bins of confidence; 255 is ignored."""
    bins = (confidence.double() * FINE_BINS).long().clamp(0, FINE_BINS - 1)
    return torch.stack([torch.bincount(bins[unknown == i], minlength=FINE_BINS) for i in (0, 1)])


def false_positives(counts: Int[Tensor, "2 fine"]) -> float | None:
    """Return FPR95 in percent, from `unknown_counts`; None unless both kinds are there.

    The share of known pixels that are at most as confident as the threshold below which 95 % of
    the unknown ones are (Chan et al., SegmentMeIfYouCan, NeurIPS 2021).
    """
    known, unknown = counts.cumsum(1).double()
    if not known[-1] or not unknown[-1]:
        return None
    threshold = int((unknown >= 0.95 * unknown[-1]).int().argmax())
    return float(100 * known[threshold] / known[-1])


def score(confusion: Int[Tensor, "k k+1"], names: Sequence[str]) -> dict[str, Any]:
    """Return the scores in percent of a domain's confusion matrix, as eval.json has them."""
    hits, false, missed = count_pixels(confusion).double()
    true, predicted, union = hits + missed, hits + false, hits + false + missed
    occurs = true > 0
    iou = 100 * hits / union  # NaN of a class that neither occurs nor is predicted
    rows = confusion if confusion[:, -1].any() else confusion[:, :-1]
    return {
        "miou": _mean(iou[occurs]),
        "miou_all": _mean(iou[union > 0]),
        "classes_scored": int(occurs.sum()),
        "accuracy": _number(100 * hits.sum() / true.sum()),
        "fwiou": _number((iou[occurs] * true[occurs]).sum() / true.sum()),
        "iou": _by_class(names, iou.where(occurs, math.nan)),
        "precision": _by_class(names, 100 * hits / predicted),
        "recall": _by_class(names, 100 * hits / true),
        "pixels": dict(zip(names, true.long().tolist(), strict=True)),
        "confusion": [_line(row) for row in rows.tolist()],
    }


def score_boundary(
    counts: Int[Tensor, "3 k"], occurs: Bool[Tensor, " k"], names: Sequence[str]
) -> dict[str, Any]:
    """Return boundary scores, as eval.json has them; a class that does not occur has none."""
    iou = 100 * counts[0] / counts.sum(0).double()
    iou = iou.where(occurs, math.nan)
    return {"boundary_miou": _mean(iou[~iou.isnan()]), "boundary_iou": _by_class(names, iou)}


def calibration(counts: Float[Tensor, "3 fine"]) -> dict[str, Any] | None:
    """Return the calibration, as eval.json has it; None without labelled pixels.

    ``counts`` are of bins of equal width, a multiple of 15.
    """
    pixels, confidence, correct = counts.reshape(3, BINS, -1).sum(-1)
    if not pixels.sum():
        return None
    return {
        "ece": float(100 * (confidence - correct).abs().sum() / pixels.sum()),
        "pixels": pixels.long().tolist(),
        "confidence": [_number(x) for x in 100 * confidence / pixels],
        "accuracy": [_number(x) for x in 100 * correct / pixels],
        "aurc": 100 * risk_over_coverage(counts),
    }


def risk_over_coverage(counts: Float[Tensor, "3 fine"]) -> float:
    """Return the AURC, 0 to 1; within a bin of confidence the order is taken as random."""
    pixels, _, correct = counts.flip(-1)
    kept, hits = pixels.cumsum(0), correct.cumsum(0)
    risks = (kept - hits)[pixels > 0] / kept[pixels > 0]
    before = torch.cat([risks[:1], risks[:-1]])
    shares = pixels[pixels > 0] / pixels.sum()
    return float((shares * (before + risks) / 2).sum())


def mean_iou(counts: Float[np.ndarray, "... 3 k"]) -> Float[np.ndarray, "..."]:
    """Return the mIoU in percent of TP, FP and FN; NaN where no class occurs."""
    hits, union = counts[..., 0, :], counts.sum(axis=-2)
    occurs = hits + counts[..., 2, :] > 0
    iou = np.divide(hits, union, out=np.zeros(union.shape), where=occurs)
    num_classes = occurs.sum(axis=-1)
    return 100 * iou.sum(axis=-1) / np.where(num_classes, num_classes, np.nan)


def write_counts(counts: Int[Tensor, "b 3 k"]) -> list[str]:
    """Return a line for each image: TP_1 .. TP_k FP_1 .. FP_k FN_1 .. FN_k, in pixels."""
    return [_line(image) for image in counts.flatten(1).tolist()]


def read_counts(lines: Sequence[str]) -> Int[np.ndarray, "b 3 k"]:
    """Return the counts that `write_counts` wrote."""
    return np.array([line.split() for line in lines], dtype=np.int64).reshape(len(lines), 3, -1)


def _near_contour(ids: Ids) -> Bool[Tensor, "H W"]:
    """Whether another class, or the image's edge, is within d pixels along either axis."""
    H, W = ids.shape
    d = max(1, round(_CONTOUR * math.hypot(H, W)))
    near = torch.ones(H, W, dtype=torch.bool)
    if min(H, W) > 2 * d:
        # A window is of one class if each square of four pixels in it is.
        first = ids[:-1, :-1]
        mixed = (first != ids[1:, :-1]) | (first != ids[:-1, 1:]) | (first != ids[1:, 1:])
        near[d:-d, d:-d] = _any_within(_any_within(mixed, 2 * d, 0), 2 * d, 1)
    return near


def _any_within(marks: Bool[Tensor, "_ _"], size: int, axis: int) -> Bool[Tensor, "_ _"]:
    """Whether any of ``size`` neighbours along an axis is marked, for every place they fit."""
    reach = 1
    while reach < size:  # doubled by each turn
        shift = min(reach, size - reach)
        length = marks.shape[axis] - shift
        marks = marks.narrow(axis, 0, length) | marks.narrow(axis, shift, length)
        reach += shift
    return marks


def _by_class(names: Sequence[str], values: Float[Tensor, " k"]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in zip(names, values, strict=True)}


def _mean(values: Float[Tensor, " _"]) -> float | None:
    return float(values.mean()) if len(values) else None


def _number(value: Float[Tensor, ""]) -> float | None:
    return None if value.isnan() else min(100.0, float(value))  # sums may round up


def _line(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))
