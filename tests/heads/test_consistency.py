"""Consistency: what it perturbs, its value from the formula, what it trains, its errors."""

import math

import pytest
import torch

from causalseg.analysis.rings import ring_index
from causalseg.build.consistency import build_consistency
from causalseg.build.model import build_segmenter
from causalseg.config.consistency import ConsistencyConfig
from causalseg.config.load import list_differences
from causalseg.errors import ConfigError
from causalseg.heads.consistency import Consistency
from causalseg.heads.linear import LinearHead
from causalseg.jobs.train import train_run
from causalseg.runs.scores import read_scores
from causalseg.spectral.transforms import dct2
from conftest import SMALL_MASK2FORMER
from toytown import generator, halves

SOURCES = [halves(40, 50), halves(50, 60), halves(48, 64)]


def maps(requires_grad=False):
    return [
        torch.randn(2, 6, 4, 5, generator=generator(i)).requires_grad_(requires_grad)
        for i in range(4)
    ]


def consistency(std, levels=1, **options):
    options = ConsistencyConfig(levels=levels, rings=len(std), std=std, **options)
    return Consistency(options, torch.tensor([std] * levels))


def test_gains_scale_rings_and_have_a_mean_of_1():
    z = torch.randn(1, 20000, 2, 2, generator=generator(), dtype=torch.float64)
    torch.manual_seed(0)
    changed = consistency([0.0, 0.5]).perturb(z, torch.tensor([0.0, 0.5]))
    ratio = (dct2(changed.movedim(1, -1)) / dct2(z.movedim(1, -1)))[0]
    is_high = ring_index((2, 2), 2) == 1
    assert torch.allclose(ratio[~is_high], torch.tensor(1.0).double())
    gains = ratio[is_high]
    assert gains.log().std().item() == pytest.approx(0.5, rel=0.03)
    assert gains.mean().item() == pytest.approx(1.0, abs=0.02)


def test_the_loss_is_the_squared_angle_between_roots_of_probabilities():
    class Given(torch.nn.Module):
        """A head whose logits are the mean of its last map and two constants."""

        def forward(self, features, queries, size):
            first = 20 * features[-1].mean((1, 2, 3))
            scores = torch.stack([first, 0 * first, 0 * first - 1], 1)
            return scores[..., None, None].expand(-1, -1, *size)

        def probabilities(self, scores):
            return scores.softmax(0)

    loss, features = consistency([1.0, 1.0], weight=0.3, ramp=0), maps()
    torch.manual_seed(1)
    value = loss(Given(), features, None, progress=0.0)
    torch.manual_seed(1)
    after = [*features[:3], loss.perturb(features[3], loss.std[0])]
    p, q = (Given()(z, None, (1, 1))[..., 0, 0].softmax(1) for z in (features, after))
    angle = (p * q).sqrt().sum(1).arccos()
    assert value.item() == pytest.approx(0.3 * angle.square().mean().item(), rel=1e-4)


def test_the_weight_rises_from_0():
    loss = consistency([1.0, 1.0], weight=0.2, ramp=0.5)
    assert [loss.weight(done) for done in (0, 0.25, 0.5, 0.9)] == [0, 0.1, 0.2, 0.2]


@pytest.mark.parametrize("levels", [1, 3])
def test_gradients_reach_only_head_and_changed_maps_and_are_finite(levels):
    features, head = maps(requires_grad=True), LinearHead([6] * 4, 3)
    torch.manual_seed(0)
    loss = consistency([0.0, 0.8], levels, ramp=0)(head, features, None, 1.0)
    loss.backward()
    assert loss > 0
    assert torch.isfinite(head.classifier.weight.grad).all()
    assert all(torch.isfinite(z.grad).all() for z in features)
    assert [bool(z.grad.any()) for z in features[4 - levels :]] == [True] * levels


def test_without_a_change_the_loss_is_next_to_0_and_trains_nothing():
    head = LinearHead([6] * 4, 3)
    loss = consistency([0.0, 1e-9], ramp=0)(head, maps(), None, 1.0)
    loss.backward()
    assert 0 <= loss < 1e-6
    assert not head.classifier.weight.grad.any()


@pytest.mark.parametrize("head", ["head=linear", SMALL_MASK2FORMER])
def test_measured_gains_are_those_of_the_sources_and_of_every_level(tiny, head):
    model = build_segmenter(tiny(head))
    options = ConsistencyConfig(levels=2, rings=3, images=2, under=["photometric", "night"])
    std = build_consistency(options, model, SOURCES, (64, 96)).std
    again = build_consistency(options, model, SOURCES, (64, 96)).std
    assert std.shape == (2, 3)
    assert torch.equal(std, again)
    assert (std > 0).all()
    assert (std <= 1).all()
    halved = build_consistency(
        options.model_copy(update={"factor": 0.25}), model, SOURCES, (64, 96)
    ).std
    assert torch.allclose(halved[std < 1], std[std < 1] / 2)


def test_a_run_with_consistency_logs_its_term_and_says_so(tiny):
    config = tiny("consistency={rings: 2, images: 2}", "train.steps=2")
    run = train_run(config)
    events = [event for event in run.read_log() if event["event"] == "train"]
    assert all(math.isfinite(event["consistency"]) for event in events)
    assert read_scores(run).model.adapter == "causal_tune + consistency"
    assert "consistency.rings" in list_differences(config, tiny("consistency={rings: 3}"))


def test_an_unknown_change_is_refused(tiny):
    options = ConsistencyConfig(under=["fogg"])
    with pytest.raises(ConfigError, match="fog"):
        build_consistency(options, build_segmenter(tiny()), SOURCES, (32, 48))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"std": [0.1]}, "one for each of 4 rings"),
        ({"std": [0.0] * 4}, "nothing would change"),
        ({"std": [0.1] * 4, "images": 3}, "images has no effect with std given"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ConsistencyConfig(**options)
