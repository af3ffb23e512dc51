"""What counting an image for the scores costs, against the same counts in plain form.

    python benchmarks/evaluation.py [--rounds 5] [--json FILE]

A synthetic scene of 2048 x 1024 pixels with 19 classes and a prediction of it, one thread. The
plain forms are the definitions line by line; `causalseg.engine.metrics` gives equal counts.
"""

import math

import numpy as np
import torch
from scipy.ndimage import maximum_filter, minimum_filter
from torch import Tensor

import measure
from causalseg.data.classes import IGNORE
from causalseg.engine import metrics
from causalseg.scenes import render
from measure import Row, Target

ABOUT = "Counting an image of 2048 × 1024 for the scores, one thread."
CLASSES = 19
TARGETS = (Target("contours", "/plain", 0.5), Target("calibration", "/plain", 0.5))


def plain_confusion(prediction: Tensor, label: Tensor, k: int) -> Tensor:
    """Count the labelled pixels by true and predicted class."""
    kept = label != IGNORE
    pairs = label[kept].long() * (k + 1) + prediction[kept].long()
    return torch.bincount(pairs, minlength=k * (k + 1)).reshape(k, k + 1)


def plain_boundary(prediction: Tensor, label: Tensor, k: int) -> Tensor:
    """Count TP, FP and FN near contours, which a filter of minimum and maximum finds."""
    around = 2 * max(1, round(0.02 * math.hypot(*label.shape))) + 1
    is_ignored, ids, beyond = label == IGNORE, [], {"mode": "constant", "cval": 1001}
    for each in (label, prediction):
        classes = each.long().masked_fill(is_ignored, 1000)
        pixels = classes.numpy().astype(np.int16)
        highest, lowest = (f(pixels, around, **beyond) for f in (maximum_filter, minimum_filter))
        ids.append(each.long().masked_fill(torch.from_numpy(highest == lowest), k))
    truth, predicted = ids[0].masked_fill(is_ignored, IGNORE), ids[1]
    return metrics.count_pixels(plain_confusion(predicted, truth, k + 1))[:, :k]


def plain_reliability(confidence: Tensor, prediction: Tensor, label: Tensor) -> Tensor:
    """Sum pixels, confidence and correct pixels by bin, in multiples of 2^-20."""
    kept = label != IGNORE
    rounded = (confidence[kept].double() * 2**20).round() / 2**20
    edges = torch.linspace(0, 1, metrics.FINE_BINS + 1, dtype=torch.float64)[1:-1]
    bins = torch.bucketize(rounded, edges)
    correct = (prediction[kept] == label[kept]).double()
    sums = (torch.ones_like(rounded), rounded, correct)
    return torch.stack([torch.bincount(bins, x, metrics.FINE_BINS) for x in sums])


def make_image() -> tuple[Tensor, Tensor, Tensor]:
    """Return confidence, a prediction that is shifted and has speckles, and label."""
    generator = torch.Generator().manual_seed(0)
    small = torch.from_numpy(render(0, (256, 512)).label).long()
    label = small.repeat_interleave(4, 0).repeat_interleave(4, 1)
    prediction = label.roll(5, 0) % CLASSES
    is_speckle = torch.rand(label.shape, generator=generator) < 0.02
    speckles = torch.randint(0, CLASSES, label.shape, generator=generator)
    prediction = prediction.where(~is_speckle, speckles)
    return torch.rand(label.shape, generator=generator), prediction, label


def measure_counts(rounds: int) -> list[Row]:
    """Time every count in both forms; a row for each."""
    torch.set_num_threads(1)
    confidence, *pair = make_image()
    forms = {
        "confusion": (metrics.confusion_matrix, plain_confusion, (*pair, CLASSES)),
        "contours": (metrics.boundary_counts, plain_boundary, (*pair, CLASSES)),
        "calibration": (metrics.reliability_counts, plain_reliability, (confidence, *pair)),
    }
    rows = []
    for name, (ours, plain, inputs) in forms.items():
        assert torch.equal(ours(*inputs), plain(*inputs)), name
        runs = {"ours": lambda: ours(*inputs), "plain": lambda: plain(*inputs)}  # noqa: B023
        times = measure.interleave(runs, rounds)
        row: Row = {"case": name, "ms": round(1e3 * measure.median(times, "ours"), 1)}
        rows.append(row | {"/plain": round(measure.ratio(times, "ours", "plain"), 3)})
    return rows


def main() -> None:
    options = measure.make_parser(__doc__).parse_args()
    measure.tell(ABOUT, measure_counts(options.rounds), TARGETS, options.json)


if __name__ == "__main__":
    main()
