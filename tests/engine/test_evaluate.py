"""Scoring: one matrix per domain, independent of processes and workers, with mapped classes."""

import pytest
import torch
from torch.utils.data import Dataset, Subset

from causalseg.build.model import build_segmenter
from causalseg.config.inference import InferenceConfig
from causalseg.data.classes import ClassList
from causalseg.data.dataset import Sample
from causalseg.engine.evaluate import Domain, Scored, _counted, evaluate, evaluate_domain, summarise
from causalseg.engine.metrics import confusion_matrix, mean_iou, read_counts, score
from causalseg.errors import TrainingError


class Constant(Dataset):
    def __init__(self, label, count):
        self.label, self.count = label, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return Sample(torch.rand(3, 32, 48), torch.full((32, 48), self.label), f"{index}")


WHOLE = InferenceConfig(mode="whole")
TINY = ClassList(("flat", "thing", "sky"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))


def domain(data, **options):
    return Domain(data, **{"inference": WHOLE, "classes": TINY} | options)


@pytest.fixture
def model(tiny):
    return build_segmenter(tiny())


def test_domains_are_scored_apart(model):
    domains, kept = {"a": domain(Constant(0, 5)), "b": domain(Constant(1, 3))}, []
    results, _ = evaluate(model, domains, keep=lambda *scored: kept.append(scored))
    assert [(name, sample.name) for name, sample, _ in kept] == [
        (name, str(i)) for name, count in (("a", 5), ("b", 3)) for i in range(count)
    ]
    assert all(prediction.shape == (32, 48) for *_, prediction in kept)
    assert [results[name]["images"] for name in "ab"] == [5, 3]
    assert results["a"]["pixels"]["flat"] == 5 * 32 * 48
    assert results["b"]["pixels"]["thing"] == 3 * 32 * 48
    assert results["a"]["size"] == [32, 48]
    assert model.training


def test_what_is_unknown_has_a_score_of_its_own(model):
    odd = torch.zeros(32, 48, dtype=torch.long)
    odd[:, 24:] = 1

    class Odd(Constant):
        def __getitem__(self, index):
            return super().__getitem__(index)._replace(label=odd)

    class Half(Constant):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return sample._replace(label=sample.label.where(odd == 0, 255))

    domains = {"odd": domain(Half(0, 4), unknown=Odd(0, 4)), "plain": domain(Half(0, 4))}
    results, _ = evaluate(model, domains, num_examples=1, workers=1)
    assert results["plain"]["fpr95"] is None
    assert 50 < results["odd"]["fpr95"] <= 100  # of an untrained model on noise
    assert results["odd"]["pixels"] == results["plain"]["pixels"]


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
    parts = [evaluate_domain(model, data, process=(i, count)) for i in range(count)]
    assert parts[0].names == [str(i) for i in range(0, 5, count)]
    model.train()
    (together, _) = evaluate(model, {"a": data}, process=(1, count), gather=lambda _: parts)
    assert together == alone


def test_the_images_shown_are_spread_and_have_the_best_the_median_and_the_lowest_miou(model):
    data = domain(Distinct(0, 9))
    (results, pictures) = evaluate(model, {"a": data}, num_examples=2)
    mious = mean_iou(read_counts(results["a"]["per_image"]["counts"]))
    ranked = [str(i) for i in mious.argsort(kind="stable")]
    shown = [picture.name for picture in pictures["a"]]
    assert set(shown) == {"2", "6", ranked[0], ranked[4], ranked[-1]}
    assert shown == sorted(shown)
    assert evaluate(model, {"a": data}, num_examples=0)[1] == {"a": []}


@pytest.mark.parametrize(("at_once", "tolerance"), [(1, 0.0), (3, 1e-3)])
def test_scores_depend_neither_on_order_nor_on_workers_nor_on_the_batch(model, at_once, tolerance):
    """In a batch, features and so confidences may differ in their last bits."""
    data = Distinct(0, 5)
    how = InferenceConfig(window=(16, 32), stride=(16, 16), windows_at_once=1)
    first = evaluate(model, {"a": domain(data, inference=how)})[0]["a"]
    how = how.model_copy(update={"windows_at_once": at_once})
    other = domain(Subset(data, [3, 1, 4, 0, 2]), inference=how)
    again = evaluate(model, {"a": other}, workers=2)[0]["a"]
    errors = [results.pop("calibration")["ece"] for results in (first, again)]
    assert errors[0] == pytest.approx(errors[1], abs=tolerance, rel=0)
    assert sorted(first.pop("per_image")["counts"]) == sorted(again.pop("per_image")["counts"])
    assert again == first


def test_threads_count_the_same_in_the_same_order_and_hold_few_images():
    def scored(taken):
        for sample in map(Distinct(0, 9).__getitem__, range(9)):
            taken.append(sample.name)
            yield Scored(sample, sample.label.roll(1), torch.rand(sample.label.shape))

    def run(threads, taken):
        torch.manual_seed(0)
        for one, counts in _counted(scored(taken), 3, threads):
            ahead.append(len(taken) - 1 - int(one.sample.name))
            yield one.sample.name, torch.cat([x.flatten() for x in counts]).tolist()

    ahead: list[int] = []
    alone = list(run(0, []))
    assert set(ahead) == {0}
    assert list(run(3, [])) == alone
    assert max(ahead) == 3


def test_an_image_that_cannot_be_counted_stops_the_threads():
    sample = Sample(torch.rand(3, 4, 4), torch.zeros(4, 4, dtype=torch.long), "0")
    broken = Scored(sample, torch.zeros(3, 3, dtype=torch.long), torch.zeros(4, 4))
    with pytest.raises(RuntimeError, match="must match the size"):
        list(_counted([broken] * 5, 3, 2))


class Given(torch.nn.Module):
    """A model with the given scores."""

    class backbone:  # noqa: N801
        patch = 1

    def __init__(self, scores):
        super().__init__()
        self.scores = torch.tensor(scores)[:, None]  # k classes of a row of pixels

    def logits(self, images):
        return self.scores[None].clone()

    def probabilities(self, scores):
        return scores / scores.sum(0)


def decide(domain, given):
    size = tuple(given.scores.shape[1:])
    return domain.predict(given, torch.zeros(3, *size), size)


COARSE = ClassList(("ground", "other"), ((0, 0, 0), (1, 1, 1)))


@pytest.mark.parametrize(
    ("mapping", "predicted", "confidences"),
    [
        (None, [0, 1, 2], [0.5, 0.6, 0.6]),
        ((0, 1, 1), [0, 1, 1], [0.5, 0.9, 0.8]),
        ((0, 0, 0), [0, 0, 0], [1, 1, 1]),
        ((0, 1, 255), [0, 1, 2], [0.5, 0.6, 0.6]),  # 2 is none of the two
    ],
)
def test_a_pixel_takes_the_mapped_class_of_its_argmax(mapping, predicted, confidences):
    given = Given([[0.5, 0.1, 0.2], [0.1, 0.6, 0.2], [0.4, 0.3, 0.6]])
    classes = TINY if mapping is None else COARSE
    prediction, confidence = decide(domain(None, classes=classes, mapping=mapping), given)
    assert prediction.tolist() == [predicted]
    assert confidence[0].tolist() == pytest.approx(confidences)


def test_what_counts_as_none_is_missed_and_falsely_nothing():
    """A class of the model without a partner must not become another class that has one."""
    given = Given([[0.5, 0.2, 0.6], [0.1, 0.1, 0.3], [0.4, 0.7, 0.1]])
    prediction, _ = decide(domain(None, classes=COARSE, mapping=(0, 1, 255)), given)
    result = score(confusion_matrix(prediction, torch.zeros(1, 3, dtype=int), 2), COARSE.names)
    assert result["confusion"] == ["2 0 1", "0 0 0"]
    assert result["recall"]["ground"] == result["iou"]["ground"] == pytest.approx(200 / 3)
    assert result["precision"] == {"ground": 100, "other": None}


def test_scores_that_are_not_finite_are_refused():
    given = Given([[0.5, float("nan")], [0.1, 0.1], [0.4, 0.7]])
    with pytest.raises(TrainingError, match="not finite"):
        decide(domain(None), given)


def test_pictures_are_kept_small(model):
    class Wide(Constant):
        def __getitem__(self, index):
            return Sample(torch.rand(3, 16, 2048), torch.zeros(16, 2048, dtype=int), "wide")

    (_, pictures) = evaluate(model, {"a": domain(Wide(0, 1))}, num_examples=1)
    assert {x.size for x in pictures["a"][0][1:]} == {(1024, 8)}


def test_a_large_image_is_decided_in_parts():
    scores = torch.rand(3, 600, 4)
    given = Given([0.0])
    given.scores = scores
    prediction, confidence = decide(domain(None), given)
    assert torch.equal(prediction, scores.argmax(0))
    assert torch.allclose(confidence, (scores / scores.sum(0)).amax(0))


def test_a_coarser_domain_is_scored_by_its_own_classes(model):
    data = domain(Constant(1, 2), classes=COARSE, mapping=(0, 1, 1), entries={"split": "val"})
    (results, pictures) = evaluate(model, {"a": data}, num_examples=1)
    assert list(results["a"]["iou"]) == ["ground", "other"]
    assert results["a"]["pixels"] == {"ground": 0, "other": 2 * 32 * 48}
    assert results["a"]["split"] == "val"
    assert pictures["a"][0].prediction.getextrema()[1] <= 1


def test_the_mean_is_over_the_domains_named():
    results = {"day": {"miou": 60.0}, "fog": {"miou": 40.0}, "night": {"miou": 20.0}}
    summary = summarise(results, WHOLE, ["fog", "night"])
    assert summary["mean"] == {"miou": 30, "over": ["fog", "night"]}
    assert summarise(results, WHOLE, None)["mean"]["miou"] == 40
    slide = summarise(results, InferenceConfig(window=(32, 32), stride=(8, 8)), None)
    assert slide["inference"]["window"] == [32, 32]
    assert "one confusion matrix" in slide["made_of"]
