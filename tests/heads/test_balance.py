"""Class weights and logit adjustment of both heads: formulas, where they act, what is saved."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from causalseg.config.heads import LinearHeadConfig, LogitAdjustmentConfig, Mask2FormerHeadConfig
from causalseg.errors import ConfigError
from causalseg.heads.balance import ClassBalance
from causalseg.heads.linear import LinearHead
from causalseg.heads.mask2former import Mask2FormerHead

WIDTH, CLASSES = 32, 4
PIXELS = np.array([900, 90, 10, 0])
FRACTIONS = torch.tensor([0.9, 0.09, 0.01, 0])
PRIOR = torch.tensor([0.9, 0.09, 0.01, 0.001])  # the last class counts as one pixel of 1000
SIZE = (20, 28)


SMALL = Mask2FormerHeadConfig(
    hidden=32, num_queries=6, encoder_layers=1, decoder_layers=2, feedforward=64, num_points=64
)


def balanced(options, has_weights=False, tau=0.0, at="loss"):
    """The options of a head with class weights or logit adjustment."""
    changed = {
        "class_weights": "auto" if has_weights else "none",
        "logit_adjustment": LogitAdjustmentConfig(tau=tau, at=at) if tau else None,
    }
    return options.model_copy(update=changed)


def make_balance(*args) -> ClassBalance:
    balance = ClassBalance(CLASSES, balanced(LinearHeadConfig(), *args))
    balance.count(PIXELS)
    return balance


def make_linear(*args) -> LinearHead:
    torch.manual_seed(0)
    return counted(LinearHead([WIDTH] * 4, CLASSES, balanced(LinearHeadConfig(), *args)))


def make_mask2former(*args) -> Mask2FormerHead:
    torch.manual_seed(0)
    return counted(Mask2FormerHead([WIDTH] * 4, CLASSES, balanced(SMALL, *args)))


def counted(head):
    if head.balance.is_used:
        head.balance.count(PIXELS)
    return head


BOTH = pytest.mark.parametrize("make", [make_linear, make_mask2former])


def make_features(batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, WIDTH, 5, 7, generator=generator) for _ in range(4)]


def make_labels() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(0, CLASSES, (2, 5, 7), generator=generator)
    labels[0, :2] = 255
    return labels.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)


def loss_of(head) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return head.loss(make_features(), None, make_labels())


def test_weights_are_those_of_enet_with_a_mean_of_1_over_pixels():
    weights = make_balance(True).weights()
    enet = torch.tensor([1 / math.log(1.02 + f) for f in FRACTIONS.tolist()])
    torch.testing.assert_close(weights / weights[0], enet / enet[0])
    assert (weights * FRACTIONS).sum().item() == pytest.approx(1)
    assert weights[3] / weights[0] == pytest.approx(math.log(1.92) / math.log(1.02))


def test_the_adjustment_is_tau_times_the_log_of_the_fraction_floored_at_one_pixel():
    balance = make_balance(False, 0.5, "loss")
    torch.testing.assert_close(balance.shift("loss"), 0.5 * PRIOR.log())
    assert balance.shift("inference") is None
    assert balance.weights() is None


def test_uncounted_classes_weigh_alike():
    uncounted = ClassBalance(CLASSES, balanced(LinearHeadConfig(), True))
    torch.testing.assert_close(uncounted.weights(), torch.ones(CLASSES))


@BOTH
def test_a_head_without_the_options_has_no_counts(make):
    assert not [name for name in make().state_dict() if "balance" in name]
    assert not [name for name, _ in make(True).named_parameters() if "balance" in name]


@BOTH
@pytest.mark.parametrize("options", [(True,), (False, 0.5, "inference")])
def test_counts_are_saved_with_the_head_and_survive_half_precision(make, options):
    head = make(*options)
    torch.manual_seed(0)
    other = make(*options)
    other.balance.pixels.fill_(7)
    other.load_state_dict(head.state_dict())
    for one in (other, copy.deepcopy(head), copy.deepcopy(head).bfloat16()):
        assert one.balance.pixels.tolist() == PIXELS.tolist()


def test_the_linear_loss_is_the_weighted_mean_over_labelled_pixels():
    head, labels = make_linear(True), make_labels()
    logits = head(make_features(), None, SIZE)
    each = F.cross_entropy(logits, labels, ignore_index=255, reduction="none")[labels != 255]
    w = make_balance(True).weights()[labels[labels != 255]]
    loss = loss_of(head)["cross_entropy"]
    torch.testing.assert_close(loss, (w * each).sum() / w.sum())
    assert abs(loss - loss_of(make_linear())["cross_entropy"]) > 1e-3


@pytest.mark.parametrize("options", [(), (True, 0.5, "loss")])
def test_the_linear_loss_without_labelled_pixels_is_zero(options):
    head = make_linear(*options)
    loss = head.loss(make_features(), None, torch.full((2, *SIZE), 255))["cross_entropy"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_weights_of_the_set_loss_act_on_the_classes_and_not_on_no_object():
    criterion, weights = make_mask2former(True).criterion, make_balance(True).weights()
    criterion.set_class_weights(weights)
    logits = torch.randn(2, 6, CLASSES + 1, generator=torch.Generator().manual_seed(3))
    labels = [torch.tensor([2, 0]), torch.tensor([1])]
    indices = [(torch.tensor([0, 5]), torch.tensor([1, 0])), (torch.tensor([3]), torch.tensor([0]))]
    target = torch.full((2, 6), CLASSES)
    target[0, 0], target[0, 5], target[1, 3] = 0, 2, 1
    w = torch.cat([weights, torch.tensor([0.1])])[target]
    each = F.cross_entropy(logits.transpose(1, 2), target, reduction="none")
    criterion.counts = torch.stack([torch.tensor(2), torch.tensor(3), weights[[2, 0, 1]].sum()])
    loss = criterion.loss_labels(logits, labels, indices)["loss_cross_entropy"]
    torch.testing.assert_close(loss, (w * each).sum() / w.sum())
    criterion.counts *= 3
    loss = criterion.loss_labels(logits, labels, indices)["loss_cross_entropy"]
    torch.testing.assert_close(loss, (w * each).sum() / (3 * w.sum()))


def classifier_bias(head):
    return (head.classifier if isinstance(head, LinearHead) else head.class_predictor).bias


def test_weights_change_the_class_term_of_the_set_loss_alone():
    plain, weighted = make_mask2former(), make_mask2former(True)
    for head in (plain, weighted):
        classifier_bias(head).data = torch.arange(CLASSES + 1.0)
    plain, weighted = loss_of(plain), loss_of(weighted)
    assert torch.equal(plain["mask"], weighted["mask"])
    assert torch.equal(plain["dice"], weighted["dice"])
    assert abs(plain["class"] - weighted["class"]) > 1e-3


@BOTH
def test_an_adjusted_loss_is_that_of_logits_with_the_log_prior_and_predictions_stay(make):
    """Adding it to the bias of the classes is the same; `no object` is behind them."""
    plain, adjusted, shifted = make(), make(False, 0.7, "loss"), make()
    with torch.no_grad():
        classifier_bias(shifted)[:CLASSES] += 0.7 * PRIOR.log()
    expected, loss = loss_of(shifted), loss_of(adjusted)
    for name, value in expected.items():
        torch.testing.assert_close(loss[name], value)
    assert sum(loss.values()) != sum(loss_of(plain).values())
    for mode in (True, False):
        given = make_features(), None, SIZE
        assert torch.equal(adjusted.train(mode)(*given), plain.train(mode)(*given))


@BOTH
@pytest.mark.parametrize("is_training", [True, False])
def test_adjusted_at_inference_a_head_learns_as_before(make, is_training):
    plain, adjusted = make().train(is_training), make(False, 0.7, "inference").train(is_training)
    for one, other in zip(loss_of(plain).values(), loss_of(adjusted).values(), strict=True):
        assert torch.equal(one, other)


def test_linear_logits_lose_the_log_prior_and_probabilities_are_divided_by_the_prior():
    plain, adjusted = make_linear().eval(), make_linear(False, 0.7, "inference").eval()
    logits = plain(make_features(1), None, SIZE)
    scores = adjusted(make_features(1), None, SIZE)
    torch.testing.assert_close(scores, logits - 0.7 * PRIOR.log()[:, None, None])
    divided = logits[0].softmax(0) / PRIOR[:, None, None] ** 0.7
    torch.testing.assert_close(adjusted.probabilities(scores[0]), divided / divided.sum(0))


def test_class_probabilities_of_queries_are_divided_by_the_prior():
    plain, adjusted = make_mask2former().eval(), make_mask2former(False, 0.7, "inference").eval()
    classes, masks = plain._predict(make_features(1), None)[-1]
    divided = classes.softmax(-1)[..., :CLASSES] / PRIOR**0.7
    expected = torch.einsum("bqk,bqhw->bkhw", divided, masks.sigmoid())
    scores = adjusted(make_features(1), None, masks.shape[-2:])
    torch.testing.assert_close(scores, expected)
    before = plain(make_features(1), None, masks.shape[-2:])
    torch.testing.assert_close(scores, before / PRIOR[:, None, None] ** 0.7)
    shares = adjusted.probabilities(scores[0])
    torch.testing.assert_close(shares, scores[0] / scores[0].sum(0))


@BOTH
def test_adjusted_at_inference_an_exported_head_gives_the_same_scores(make):
    head, given = make(False, 0.5, "inference").eval(), (make_features(), None, SIZE)
    with torch.no_grad():
        exported = torch.export.export(head, given).module()
        torch.testing.assert_close(exported(*given), head(*given), rtol=0, atol=1e-6)


@BOTH
def test_in_bfloat16_autocast_scores_and_loss_stay_float32_and_finite(make):
    for at in ("loss", "inference"):
        head = make(True, 0.5, at)
        with torch.autocast("cpu", torch.bfloat16):
            values = [head(make_features(), None, SIZE), *loss_of(head).values()]
        assert all(value.dtype == torch.float32 and value.isfinite().all() for value in values)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("head={name: linear, logit_adjustment: {tau: 0}}", r"logit_adjustment\.tau.*0"),
        ("head={name: linear, logit_adjustment: {tau: 4}}", r"logit_adjustment\.tau.*3"),
        ("head={name: linear, class_weights: automatic}", "class_weights.*auto"),
        (
            "head={name: mask2former, class_weight: 0, class_weights: auto}",
            "class_weights has no eff",
        ),
        ("head={name: mask2former, class_weight: 0, logit_adjustment: {}}", "at = loss has no eff"),
    ],
)
def test_options_without_effect_or_out_of_range_are_refused(tiny, override, message):
    with pytest.raises(ConfigError, match=message):
        tiny(override)
