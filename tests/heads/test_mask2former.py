import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation
from transformers.models.mask2former import modeling_mask2former

from causalseg.config.heads import Mask2FormerHeadConfig
from causalseg.errors import ConfigError, DataError
from causalseg.heads import base, mask2former, set_loss
from causalseg.heads.mask2former import Mask2FormerHead
from causalseg.heads.pyramid import build_pyramid

WIDTH, CLASSES, QUERIES, HIDDEN = 48, 5, 12, 64
OPTIONS = Mask2FormerHeadConfig(
    hidden=HIDDEN,
    num_queries=QUERIES,
    encoder_layers=2,
    decoder_layers=3,
    feedforward=192,
    num_points=256,
    ignore_points=False,  # as the stock model
)
STOCK_NAMES = {  # the stock model's prefix: ours
    "model.pixel_level_module.decoder.": "pixel_decoder.",
    "model.transformer_module.decoder.": "decoder.",
    "model.transformer_module.level_embed.": "level_embed.",
    "model.transformer_module.queries_embedder.": "query_position.",
    "model.transformer_module.queries_features.": "query_content.",
    "class_predictor.": "class_predictor.",
}


def make_head(external_queries: bool = False, seed: int = 0) -> Mask2FormerHead:
    torch.manual_seed(seed)
    return Mask2FormerHead([WIDTH] * 4, CLASSES, OPTIONS, external_queries)


def make_features(batch: int = 2, h: int = 5, w: int = 7) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, WIDTH, h, w, generator=generator) for _ in range(4)]


def make_labels(batch: int = 2, h: int = 5, w: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(0, CLASSES, (batch, h, w), generator=generator)
    labels[:, 0] = 255
    return labels.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)


def make_queries() -> torch.Tensor:
    return torch.randn(9, HIDDEN, generator=torch.Generator().manual_seed(3))


def total_loss(head: Mask2FormerHead, features, queries, labels, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return sum(head.loss(features, queries, labels).values())


class FakeBackbone(nn.Module):
    """Replaces the Swin of the stock model by a given pyramid."""

    channels = (WIDTH,) * 4

    def __init__(self, pyramid: list[torch.Tensor]) -> None:
        super().__init__()
        self.pyramid = pyramid

    def forward(self, images: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(feature_maps=self.pyramid)


@pytest.fixture
def stock(monkeypatch) -> Mask2FormerForUniversalSegmentation:
    backbone = FakeBackbone(build_pyramid(make_features()))
    monkeypatch.setattr(modeling_mask2former, "load_backbone", lambda config: backbone)
    torch.manual_seed(7)
    return Mask2FormerForUniversalSegmentation(mask2former._stock_config(CLASSES, OPTIONS))


def rename(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name.replace(theirs, ours, 1): value.detach()
        for name, value in state.items()
        for theirs, ours in STOCK_NAMES.items()
        if name.startswith(theirs)
    }


@pytest.mark.parametrize(
    ("grid", "last"), [((5, 7), (2, 3)), ((1, 3), (1, 1)), ((18, 24), (9, 12))]
)
def test_pyramid_has_four_strides(grid, last):
    h, w = grid
    sizes = [tuple(x.shape[-2:]) for x in build_pyramid(make_features(1, h, w))]
    assert sizes == [(4 * h, 4 * w), (2 * h, 2 * w), (h, w), last]


def test_pyramid_keeps_constants_and_averages_when_halving():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    levels = build_pyramid([torch.ones_like(x), torch.ones_like(x), x, x])
    assert all(bool((level == 1).all()) for level in levels[:2])
    assert levels[2] is x
    torch.testing.assert_close(levels[3], nn.functional.avg_pool2d(x, 2))


def test_pyramid_wants_four_maps():
    with pytest.raises(ValueError, match="zip"):
        build_pyramid(make_features()[:3])


def test_parameters_have_the_names_and_shapes_of_the_stock_model(stock):
    expected = {name: p.shape for name, p in rename(dict(stock.named_parameters())).items()}
    assert {name: p.shape for name, p in make_head().named_parameters()} == expected


def test_weights_start_distributed_as_in_the_stock_model(stock):
    expected = rename(dict(stock.named_parameters()))
    for name, p in make_head().named_parameters():
        theirs, n = expected[name], p.numel()
        if theirs.unique().numel() == 1 or name.endswith("sampling_offsets.bias"):
            assert torch.equal(p, theirs), name
            continue
        std = theirs.std()
        assert abs(p.mean() - theirs.mean()) < 6 * std / math.sqrt(n), name
        assert abs(p.std() - std) < 6 * std / math.sqrt(n), name
        if n > 1000:  # tells a uniform from a normal distribution
            assert 0.67 < (p.abs().max() / p.std()) / (theirs.abs().max() / std) < 1.5, name


def test_construction_depends_only_on_the_random_state():
    one, same, other = (make_head(seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["level_embed.weight"], other["level_embed.weight"])


def test_with_stock_weights_loss_terms_and_logits_are_those_of_the_stock_model(stock, monkeypatch):
    head, labels = make_head(), make_labels()
    head.load_state_dict(rename(stock.state_dict()))
    classes, masks = set_loss.find_targets(labels)
    images = torch.zeros(2, 3, 8, 8)
    terms, original = {}, stock.get_loss_dict

    def spy(*args, **kwargs):
        terms.update(original(*args, **kwargs))
        return terms

    monkeypatch.setattr(stock, "get_loss_dict", spy)
    torch.manual_seed(5)
    theirs = stock(images, mask_labels=masks, class_labels=classes, output_auxiliary_logits=True)
    assert len(theirs.auxiliary_logits) == OPTIONS.decoder_layers
    torch.manual_seed(5)
    ours = head.loss(make_features(), None, labels)
    for kind, name in {"class": "cross_entropy", "mask": "mask", "dice": "dice"}.items():
        of_layers = [value for key, value in terms.items() if key.startswith(f"loss_{name}")]
        assert len(of_layers) == OPTIONS.decoder_layers + 1
        torch.testing.assert_close(ours[kind], sum(of_layers))
    torch.testing.assert_close(sum(ours.values()), theirs.loss)

    class_logits, mask_logits = head._predict(make_features(), None)[-1]
    torch.testing.assert_close(class_logits, theirs.class_queries_logits)
    torch.testing.assert_close(mask_logits, theirs.masks_queries_logits)


def test_the_default_options_are_those_of_the_protocol():
    ours = mask2former._stock_config(19, Mask2FormerHeadConfig())
    assert ours.to_dict() == Mask2FormerConfig(num_labels=19).to_dict()


@pytest.mark.parametrize("grid", [(5, 7), (1, 3)])
@pytest.mark.parametrize("external_queries", [False, True])
def test_every_parameter_gets_a_finite_gradient(external_queries, grid):
    head = make_head(external_queries)
    queries = make_queries().requires_grad_() if external_queries else None
    total_loss(head, make_features(1, *grid), queries, make_labels(1, *grid)).backward()
    gradients = {name: p.grad for name, p in head.named_parameters()}
    assert [name for name, grad in gradients.items() if grad is None] == []
    assert all(bool(grad.isfinite().all()) for grad in gradients.values())
    if queries is not None:
        assert queries.grad.abs().sum() > 0


def test_each_mode_has_only_its_own_query_parameters():
    own = {name for name, _ in make_head().named_parameters()}
    external = {name for name, _ in make_head(external_queries=True).named_parameters()}
    assert own - external == {"query_content.weight", "query_position.weight"}
    assert external - own == {"content_from_position.weight", "content_from_position.bias"}


@pytest.mark.parametrize("shape", [(1, 5, 7), (2, 18, 24), (1, 1, 3)])
def test_scores_have_pixel_size_and_are_not_negative(shape):
    batch, h, w = shape
    scores = make_head().eval()(make_features(batch, h, w), None, (h * 14, w * 14))
    assert scores.shape == (batch, CLASSES, h * 14, w * 14)
    assert scores.min() >= 0


def test_scores_sum_class_probability_times_mask_probability():
    head = make_head().eval()
    class_logits, mask_logits = head._predict(make_features(), None)[-1]
    expected = torch.zeros(2, CLASSES, *mask_logits.shape[-2:])
    for q in range(QUERIES):
        probability = class_logits[:, q].softmax(-1)[:, :CLASSES]
        expected += probability[:, :, None, None] * mask_logits[:, q, None].sigmoid()
    size = tuple(mask_logits.shape[-2:])
    torch.testing.assert_close(head(make_features(), None, size), expected)


def test_images_of_a_batch_are_independent():
    head, features = make_head().eval(), make_features()
    alone = head([x[:1] for x in features], None, (40, 56))
    torch.testing.assert_close(head(features, None, (40, 56))[:1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("labelled", [0, 1])
def test_images_without_labelled_pixels_give_a_finite_loss(labelled):
    head, labels = make_head(), make_labels()
    labels[labelled:] = 255
    loss = head.loss(make_features(), None, labels)
    sum(loss.values()).backward()
    assert all(bool(value.isfinite()) for value in loss.values())
    assert (loss["mask"] > 0) == (loss["dice"] > 0) == bool(labelled)
    assert all(bool(p.grad.isfinite().all()) for p in head.parameters())


def test_without_ignored_pixels_nothing_changes():
    labels = make_labels().clamp(max=CLASSES - 1)
    losses = []
    for ignores in (True, False):
        torch.manual_seed(0)
        options = OPTIONS.model_copy(update={"ignore_points": ignores})
        head = Mask2FormerHead([WIDTH] * 4, CLASSES, options)
        losses.append(total_loss(head, make_features(), None, labels))
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("ignores", [True, False])
def test_ignored_pixels_carry_no_loss_and_do_not_decide_the_match(ignores):
    labels = torch.zeros(1, 32, 32, dtype=torch.long)
    labels[:, 16:], labels[:, :, 24:] = 1, 255
    criterion = make_head().criterion
    criterion.ignore((labels == 255)[:, None] if ignores else None)
    classes, masks = set_loss.find_targets(labels)
    logits = torch.stack([(labels[0] == k).float() * 8 - 4 for k in (1, 0)])[None]
    logits[..., 24:] = 9.0  # both masks hold all ignored pixels
    logits.requires_grad_()
    torch.manual_seed(0)
    same = torch.zeros(1, 2, CLASSES + 1)
    ((queries, targets),) = criterion.matcher(logits, same, masks, classes)
    assert dict(zip(queries.tolist(), targets.tolist(), strict=True)) == {0: 1, 1: 0}
    terms = criterion.loss_masks(logits, masks, [(queries, targets)], torch.tensor(2.0))
    sum(terms.values()).backward()
    inside = logits.grad[..., 25:].abs().sum()
    assert (inside == 0) == ignores
    assert (terms["loss_mask"] < 0.2) == ignores  # the labelled pixels are right
    assert logits.grad[..., :23].abs().sum() > 0


def test_targets_are_one_mask_per_class_present():
    labels = torch.tensor([[[0, 3], [3, 255]], [[255, 255], [255, 255]]], dtype=torch.uint8)
    classes, masks = set_loss.find_targets(labels)
    assert [c.tolist() for c in classes] == [[0, 3], []]
    assert masks[0].tolist() == [[[1, 0], [0, 0]], [[0, 1], [1, 0]]]
    assert masks[1].shape == (0, 2, 2)


def test_the_loss_depends_on_the_random_state_alone():
    head, given = make_head(), (make_features(), None, make_labels())
    assert total_loss(head, *given, seed=1) == total_loss(head, *given, seed=1)
    assert total_loss(head, *given, seed=1) != total_loss(head, *given, seed=2)


def test_every_term_is_normalised_over_all_processes(monkeypatch):
    head, given = make_head(), (make_features(), None, make_labels())
    torch.manual_seed(0)
    alone = head.loss(*given)
    monkeypatch.setattr(base, "mean_over_processes", lambda count: count * 2)
    torch.manual_seed(0)
    with_a_fuller_process = head.loss(*given)
    for kind, value in alone.items():
        torch.testing.assert_close(value, 2 * with_a_fuller_process[kind])


def test_bfloat16_autocast_gives_finite_scores_and_a_float32_loss(monkeypatch):
    head = make_head()
    dtypes = set()
    match = head.criterion.matcher.forward

    def spy(masks_queries_logits, class_queries_logits, mask_labels, class_labels):
        dtypes.update({masks_queries_logits.dtype, class_queries_logits.dtype})
        assert not torch.is_autocast_enabled("cpu")
        return match(masks_queries_logits, class_queries_logits, mask_labels, class_labels)

    monkeypatch.setattr(head.criterion.matcher, "forward", spy)
    with torch.autocast("cpu", torch.bfloat16):
        scores = head(make_features(1, 2, 3), None, (16, 24))
        loss = total_loss(head, make_features(1, 2, 3), None, make_labels(1, 2, 3))
    loss.backward()
    assert dtypes == {torch.float32} == {scores.dtype, loss.dtype}
    assert scores.isfinite().all()
    assert all(bool(p.grad.isfinite().all()) for p in head.parameters())


def test_copies_and_saved_weights_give_the_same_scores():
    head, given = make_head().eval(), (make_features(), None, (40, 56))
    loaded = make_head(seed=1).eval()
    loaded.load_state_dict(head.state_dict())
    assert torch.equal(loaded(*given), head(*given))
    assert torch.equal(copy.deepcopy(head)(*given), head(*given))
    assert not any(name.startswith("criterion") for name in head.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("external_queries", [False, True])
def test_export_gives_the_same_scores_for_another_batch_size(external_queries):
    head, size = make_head(external_queries).eval(), (40, 56)
    queries = make_queries() if external_queries else None
    exported = torch.export.export(
        head,
        (make_features(2), queries, size),
        dynamic_shapes=([{0: torch.export.Dim("batch")}] * 4, None, (None, None)),
    ).module()
    given = (make_features(3), queries, size)
    torch.testing.assert_close(exported(*given), head(*given))


@pytest.mark.parametrize(
    ("external_queries", "queries", "message"),
    [
        (False, make_queries(), "external_queries=True"),
        (True, None, "external_queries=False"),
        (True, torch.zeros(9, 2 * HIDDEN), f"width {2 * HIDDEN}.*{HIDDEN}"),
    ],
)
def test_queries_against_the_mode_raise(external_queries, queries, message):
    head = make_head(external_queries)
    with pytest.raises(ConfigError, match=message):
        head(make_features(), queries, (40, 56))
    with pytest.raises(ConfigError, match=message):
        head.loss(make_features(), queries, make_labels())


def test_labels_outside_the_classes_raise():
    with pytest.raises(DataError, match=rf"\[{CLASSES}\].*0 to {CLASSES - 1}"):
        make_head().loss(make_features(), None, make_labels().clamp(max=CLASSES))
