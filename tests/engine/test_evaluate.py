"""Scores: equal to torchmetrics, one matrix a domain, honest about missing classes."""

import pytest
import torch
from torch.utils.data import Dataset
from torchmetrics.classification import MulticlassJaccardIndex

from causalseg.build import build_segmenter
from causalseg.data.classes import ClassList
from causalseg.data.dataset import Sample
from causalseg.engine.evaluate import (
    Domain,
    confusion_matrix,
    evaluate,
    evaluate_domain,
    read_counts,
    score,
    summarise,
)
from causalseg.engine.infer import Inference


def random_pair(seed, k=5):
    generator = torch.Generator().manual_seed(seed)
    prediction, label = torch.randint(0, k, (2, 40, 30), generator=generator)
    label[:4] = 255
    return prediction, label


def test_iou_equals_torchmetrics():
    metric = MulticlassJaccardIndex(5, average="none", ignore_index=255)
    confusion = torch.zeros(5, 5, dtype=torch.int64)
    for seed in range(3):
        prediction, label = random_pair(seed)
        metric.update(prediction[None], label[None])
        confusion += confusion_matrix(prediction, label, 5)
    ours = score(confusion, "abcde")
    assert list(ours["iou"].values()) == pytest.approx((100 * metric.compute()).tolist())
    assert ours["miou"] == pytest.approx(float(100 * metric.compute().mean()))


def test_ignored_pixels_do_not_count():
    prediction, label = random_pair(0)
    assert confusion_matrix(prediction, label, 5).sum() == 36 * 30


def test_a_class_that_never_shows_is_left_out_and_one_predicted_wrongly_counts_zero():
    label = torch.tensor([[0, 0, 1, 1]])
    result = score(confusion_matrix(torch.tensor([[0, 0, 1, 2]]), label, 4), "abcd")
    assert result["iou"] == {"a": 100, "b": 50, "c": 0, "d": None}
    assert result["miou"] == 50
    assert result["classes_scored"] == 3
    assert result["pixels"] == {"a": 2, "b": 2, "c": 0, "d": 0}
    assert result["accuracy"] == 75


def test_a_domain_without_labelled_pixels_has_no_score():
    result = score(torch.zeros(3, 3, dtype=torch.int64), "abc")
    assert result["miou"] is None


class Constant(Dataset):
    def __init__(self, label, count):
        self.label, self.count = label, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return Sample(torch.rand(3, 32, 48), torch.full((32, 48), self.label), f"{index}")


TINY = ClassList(("flat", "thing", "sky"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))


def domain(data, **options):
    return Domain(data, **{"inference": Inference("whole"), "classes": TINY} | options)


@pytest.fixture
def model(tiny):
    return build_segmenter(tiny())


def test_domains_are_scored_apart_and_pictures_are_spread(model):
    domains = {"a": domain(Constant(0, 5)), "b": domain(Constant(1, 3))}
    results, pictures = evaluate(model, domains, num_pictures=2)
    assert [results[name]["images"] for name in "ab"] == [5, 3]
    assert results["a"]["pixels"]["flat"] == 5 * 32 * 48
    assert results["b"]["pixels"]["thing"] == 3 * 32 * 48
    assert [picture.sample.name for picture in pictures["a"]] == ["1", "3"]
    assert results["a"]["size"] == [32, 48]
    assert model.training


class Distinct(Constant):
    """Images and labels that follow from the index: each counts differently."""

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        label = torch.randint(0, 3, (32, 48), generator=generator)
        return Sample(torch.rand(3, 32, 48, generator=generator), label, f"{index}")


@pytest.mark.parametrize("count", [2, 3, 7])
def test_any_number_of_processes_gives_the_same_result(model, count):
    data = domain(Distinct(0, 5))
    (alone, _) = evaluate(model, {"a": data})
    model.eval()
    shares = [evaluate_domain(model, data, process=(i, count))[0] for i in range(count)]
    assert shares[0].names == [str(i) for i in range(0, 5, count)]
    model.train()
    (together, _) = evaluate(model, {"a": data}, process=(1, count), gather=lambda _: shares)
    assert together == alone


def test_the_counts_of_images_sum_to_the_confusion_matrix(model):
    data = domain(Distinct(0, 4))
    (results, _) = evaluate(model, {"a": data})
    per_image = results["a"]["per_image"]
    assert per_image["names"] == ["0", "1", "2", "3"]
    counts = read_counts(per_image["counts"])
    assert counts.shape == (4, 3, 3)
    model.eval()
    confusions = evaluate_domain(model, data)[0].confusions
    for image, (hits, false, missed) in zip(confusions.numpy(), counts, strict=True):
        assert hits.tolist() == image.diagonal().tolist()
        assert (hits + false).tolist() == image.sum(0).tolist()  # predicted
        assert (hits + missed).tolist() == image.sum(1).tolist()  # true
    hits, false, missed = counts.sum(0)
    iou = 100 * hits / (hits + false + missed)
    assert list(results["a"]["iou"].values()) == pytest.approx(iou.tolist())


class Scores(torch.nn.Module):
    """Stands in for a model and its inference: the scores are given."""

    def __init__(self, scores):
        super().__init__()
        self.scores = torch.tensor(scores)[:, None]  # k classes of a row of pixels

    def __call__(self, model, image, size):
        return self.scores


def test_predictions_are_folded_to_the_best_of_the_classes_that_count_as_one():
    #                 pixel 0, 1, 2, 3
    scores = Scores([[0.9, 0.1, 0.2, 0.0], [0.5, 0.6, 0.1, 0.0], [0.6, 0.5, 0.3, 0.9]])
    coarse = ClassList(("ground", "other"), ((0, 0, 0), (1, 1, 1)))
    folded = domain(None, inference=scores, classes=coarse, fold=(0, 1, 1))
    assert folded.predict(None, None, (1, 4)).tolist() == [[0, 1, 1, 1]]
    without = folded._replace(fold=(0, 1, 255))  # what counts as nothing is never predicted
    assert without.predict(None, None, (1, 4)).tolist() == [[0, 1, 0, 0]]
    never = folded._replace(fold=(0, 0, 0))
    assert never.predict(None, None, (1, 4)).tolist() == [[0, 0, 0, 0]]


def test_a_coarser_domain_is_scored_by_its_own_classes(model):
    coarse = ClassList(("ground", "other"), ((0, 0, 0), (1, 1, 1)))
    data = domain(Constant(1, 2), classes=coarse, fold=(0, 1, 1), about={"split": "val"})
    (results, pictures) = evaluate(model, {"a": data}, num_pictures=1)
    assert list(results["a"]["iou"]) == ["ground", "other"]
    assert results["a"]["pixels"] == {"ground": 0, "other": 2 * 32 * 48}
    assert results["a"]["split"] == "val"
    assert pictures["a"][0].prediction.max() <= 1


def test_the_mean_is_over_the_domains_named():
    results = {"day": {"miou": 60.0}, "fog": {"miou": 40.0}, "night": {"miou": 20.0}}
    summary = summarise(results, Inference("whole"), ["fog", "night"])
    assert summary["mean"] == {"miou": 30, "over": ["fog", "night"]}
    assert summarise(results, Inference("whole"), None)["mean"]["miou"] == 40
    slide = summarise(results, Inference("slide", window=(32, 32), stride=(8, 8)), None)
    assert slide["inference"]["window"] == [32, 32]
    assert "one confusion matrix" in slide["made_of"]
