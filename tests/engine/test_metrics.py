"""Scores: equal to torchmetrics and to cases worked by hand, honest about missing classes."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.classification import (
    MulticlassCalibrationError,
    MulticlassJaccardIndex,
    MulticlassPrecision,
    MulticlassRecall,
)

import evaluation
from causalseg.engine.metrics import (
    FINE_BINS,
    boundary_counts,
    calibration,
    confusion_matrix,
    count_pixels,
    false_positives,
    mean_iou,
    read_counts,
    reliability_counts,
    score,
    score_boundary,
    unknown_counts,
    write_counts,
)


def random_pair(seed, k=5):
    generator = torch.Generator().manual_seed(seed)
    prediction, label = torch.randint(0, k, (2, 40, 30), generator=generator)
    label[:4] = 255
    return prediction, label


@pytest.mark.parametrize(
    ("key", "metric"),
    [
        ("iou", MulticlassJaccardIndex),
        ("precision", MulticlassPrecision),
        ("recall", MulticlassRecall),
    ],
)
def test_scores_of_classes_equal_torchmetrics(key, metric):
    theirs = metric(5, average="none", ignore_index=255)
    confusion = torch.zeros(5, 6, dtype=torch.int64)
    for seed in range(3):
        prediction, label = random_pair(seed)
        theirs.update(prediction[None], label[None])
        confusion += confusion_matrix(prediction, label, 5)
    ours = score(confusion, "abcde")
    assert list(ours[key].values()) == pytest.approx((100 * theirs.compute()).tolist())
    if key == "iou":
        assert ours["miou"] == pytest.approx(float(100 * theirs.compute().mean()))


def test_ignored_pixels_do_not_count():
    prediction, label = random_pair(0)
    assert confusion_matrix(prediction, label, 5).sum() == 36 * 30
    confidence = torch.full((40, 30), 0.5)
    assert reliability_counts(confidence, prediction, label)[0].sum() == 36 * 30
    assert boundary_counts(prediction, label.fill_(255), 5).sum() == 0


def test_a_class_that_never_occurs_has_no_iou_and_counts_0_only_in_the_mean_over_all():
    label = torch.tensor([[0, 0, 1, 1]])
    result = score(confusion_matrix(torch.tensor([[0, 0, 1, 2]]), label, 4), "abcd")
    assert result["iou"] == {"a": 100, "b": 50, "c": None, "d": None}
    assert result["precision"] == {"a": 100, "b": 100, "c": 0, "d": None}
    assert result["recall"] == {"a": 100, "b": 50, "c": None, "d": None}
    assert result["miou"] == 75
    assert result["miou_all"] == 50
    assert result["classes_scored"] == 2
    assert result["pixels"] == {"a": 2, "b": 2, "c": 0, "d": 0}
    assert result["accuracy"] == 75
    assert result["confusion"] == ["2 0 0 0", "0 1 1 0", "0 0 0 0", "0 0 0 0"]


def test_the_weighted_iou_weighs_classes_by_their_pixels():
    confusion = torch.tensor([[80, 0, 0], [10, 10, 0]])
    result = score(confusion, "ab")
    assert result["iou"]["a"] == pytest.approx(100 * 80 / 90)
    assert result["fwiou"] == pytest.approx(0.8 * 100 * 80 / 90 + 0.2 * 50)


def test_a_domain_without_labelled_pixels_has_no_score():
    result = score(torch.zeros(3, 4, dtype=torch.int64), "abc")
    assert result["miou"] is result["accuracy"] is result["fwiou"] is None
    assert calibration(torch.zeros(3, 15, dtype=torch.float64)) is None


def test_the_iou_of_contours_sees_what_the_iou_of_areas_does_not():
    label = torch.zeros(100, 100, dtype=torch.int64)
    label[20:80, 20:80] = 1
    prediction = torch.zeros_like(label)
    prediction[22:82, 20:80] = 1  # two pixels too low
    near = 3  # 2 % of the diagonal
    inner = 60**2 - (60 - 2 * near) ** 2
    hits, false, missed = boundary_counts(prediction, label, 2)[:, 1].tolist()
    assert (hits + missed, hits + false) == (inner, inner)
    # Two of three rows at the bottom and at the top are shared by one, the columns but for two.
    by_hand = sum(
        _ring(20, row, column) and _ring(22, row, column)
        for row in range(100)
        for column in range(100)
    )
    assert hits == by_hand
    scores = score_boundary(boundary_counts(prediction, label, 2), torch.tensor([True, True]), "ab")
    areas = score(confusion_matrix(prediction, label, 2), "ab")
    assert scores["boundary_iou"]["b"] == pytest.approx(100 * hits / (hits + false + missed))
    assert scores["boundary_iou"]["b"] < 60 < 90 < areas["iou"]["b"]


def _ring(top, row, column):
    """Whether a pixel is in a square of 60 at (top, 20), at most 3 pixels from its edge."""
    depth = min(row - top, top + 59 - row, column - 20, 79 - column)
    return 0 <= depth < 3


def test_a_perfect_prediction_has_perfect_contours_and_an_absent_class_none():
    label = torch.randint(0, 3, (12, 15)).repeat_interleave(8, 0).repeat_interleave(8, 1)
    occurs = torch.tensor([True, True, True, False])
    scores = score_boundary(boundary_counts(label, label, 4), occurs, "abcd")
    assert scores["boundary_iou"] == {"a": 100, "b": 100, "c": 100, "d": None}
    assert scores["boundary_miou"] == 100


def test_contours_do_not_depend_on_what_is_predicted_in_ignored_pixels():
    label = torch.zeros(120, 120, dtype=torch.int64)
    label[40:80, 40:80] = 1
    label[90:] = 255
    for fill in (0, 1):
        prediction = label.masked_fill(label == 255, fill)
        hits, false, missed = boundary_counts(prediction, label, 2)
        assert hits.sum() > 0
        assert (false.sum(), missed.sum()) == (0, 0)


def test_contours_of_255_classes_are_counted():
    label = torch.full((60, 60), 254)
    assert boundary_counts(label, label, 255)[0, 254] > 0


def test_the_calibration_error_equals_torchmetrics():
    theirs = MulticlassCalibrationError(4, n_bins=15, norm="l1", ignore_index=255)
    counts = torch.zeros(3, FINE_BINS, dtype=torch.float64)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        probabilities = torch.randn(4, 40, 30, generator=generator).mul(2).softmax(0)
        confidence, prediction = probabilities.max(0)
        _, label = random_pair(seed, 4)
        theirs.update(probabilities[None], label[None])
        counts += reliability_counts(confidence, prediction, label)
    found = calibration(counts)
    assert found["ece"] == pytest.approx(100 * float(theirs.compute()), abs=1e-4)
    assert sum(found["pixels"]) == 3 * 36 * 30
    assert found["confidence"][0] is None  # of four classes the likeliest has 25 % at least


def test_the_calibration_error_of_a_worked_case():
    confidence = torch.tensor([[0.9, 0.9, 0.9, 0.9, 0.5, 0.5]])
    label = torch.zeros(1, 6, dtype=torch.int64)
    prediction = torch.tensor([[0, 0, 1, 1, 0, 1]])
    found = calibration(reliability_counts(confidence, prediction, label))
    assert found["ece"] == pytest.approx(100 * 4 / 6 * 0.4, abs=1e-4)
    assert found["pixels"] == [0] * 7 + [2] + [0] * 5 + [4, 0]
    assert found["accuracy"][13] == 50


@pytest.mark.parametrize("size", [(90, 61), (64, 128), (3, 40), (1, 1)])
@pytest.mark.parametrize("num_classes", [1, 3, 19])
def test_counts_equal_their_plain_forms(size, num_classes):
    generator = torch.Generator().manual_seed(num_classes)
    for cell in (1, 7, 40):  # pixels
        cells = [-(-side // cell) for side in size]
        ids = torch.randint(0, num_classes + 1, (2, *cells), generator=generator)
        ids = ids.repeat_interleave(cell, 1).repeat_interleave(cell, 2)[:, : size[0], : size[1]]
        prediction, label = ids[0], ids[1].masked_fill(ids[1] == num_classes, 255)
        confidence = torch.rand(size, generator=generator)
        confidence.flatten()[::3].mul_(64).round_().div_(64)  # at the edges of bins
        pair = (prediction, label.byte())
        for ours, plain, inputs in (
            (confusion_matrix, evaluation.plain_confusion, (*pair, num_classes)),
            (boundary_counts, evaluation.plain_boundary, (*pair, num_classes)),
            (reliability_counts, evaluation.plain_reliability, (confidence, *pair)),
        ):
            assert torch.equal(ours(*inputs), plain(*inputs))


def test_counts_of_images_come_back_from_their_text_and_give_each_images_miou():
    pairs = [random_pair(seed) for seed in range(4)]
    confusions = torch.stack([confusion_matrix(*pair, 5) for pair in pairs])
    counts = read_counts(write_counts(count_pixels(confusions)))
    assert counts.shape == (4, 3, 5)
    for image, (hits, false, missed) in zip(confusions.numpy(), counts, strict=True):
        assert hits.tolist() == image.diagonal().tolist()
        assert (hits + false).tolist() == image.sum(0)[:-1].tolist()  # predicted
        assert (hits + missed).tolist() == image.sum(1).tolist()  # true
    expected = [score(confusion, "abcde")["miou"] for confusion in confusions]
    assert mean_iou(counts).tolist() == pytest.approx(expected)
    total = score(confusions.sum(0), "abcde")["miou"]
    assert float(mean_iou(counts.sum(0))) == pytest.approx(total)


def test_the_miou_is_over_classes_that_occur_and_nan_without_any():
    counts = np.array([[3, 0, 0, 0], [1, 0, 7, 0], [0, 4, 0, 0]], dtype=float)
    assert float(mean_iou(counts)) == pytest.approx(100 * (3 / 4 + 0) / 2)
    assert math.isnan(float(mean_iou(np.zeros((3, 4)))))


def test_false_positives_at_95_percent_of_the_unknown():
    def fpr95(known, unknown):
        confidence = torch.tensor([*known, *unknown])
        label = torch.tensor([0] * len(known) + [1] * len(unknown))
        apart = torch.tensor([1.0]), torch.tensor([255])  # of neither kind
        both = (torch.cat(pair)[None] for pair in zip((confidence, label), apart, strict=True))
        return false_positives(unknown_counts(*both))

    assert fpr95([0.9] * 10, [0.3] * 20) == 0
    assert fpr95([0.1] * 5 + [0.9] * 5, [0.3] * 20) == 50
    # One unknown pixel of 20 may be missed, not two.
    assert fpr95([0.5] * 10, [0.3] * 19 + [0.8]) == 0
    assert fpr95([0.5] * 10, [0.3] * 18 + [0.8] * 2) == 100
    assert fpr95([0.5], []) is None
    assert fpr95([], [0.5]) is None
    generator = torch.Generator().manual_seed(0)
    same = torch.rand(2, 4000, generator=generator).tolist()
    assert fpr95(*same) == pytest.approx(95, abs=2)  # the confidence knows nothing


def test_risk_over_coverage_of_worked_cases_and_of_every_order():
    def aurc(confidence, right):
        prediction = torch.tensor([right]).logical_not().long()  # class 0 is right
        counts = reliability_counts(
            torch.tensor([confidence]), prediction, torch.zeros(1, len(right)).long()
        )
        return calibration(counts)["aurc"]

    sure, unsure = [0.9] * 3, [0.2]
    # Kept: 1/4, 2/4, 3/4 of the pixels without an error, all with one in four.
    assert aurc(sure + unsure, [True] * 3 + [False]) == pytest.approx(100 * (0 + 0.25) / 2 * 0.25)
    assert aurc([0.5] * 4, [True] * 3 + [False]) == pytest.approx(25)  # confidence says nothing
    assert aurc(sure, [True] * 3) == 0
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(4000, generator=generator)
    right = torch.rand(4000, generator=generator) < confidence
    order = confidence.argsort(descending=True)
    wrong = (~right[order]).double().cumsum(0)
    exact = 100 * float((wrong / torch.arange(1, 4001)).mean())
    assert aurc(confidence.tolist(), right.tolist()) == pytest.approx(exact, abs=0.1)
