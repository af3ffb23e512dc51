"""Queries that pass the last blocks: their classes and masks, and the whole model that has them."""

import copy

import pytest
import torch

from causalseg.build.model import build_segmenter, check_method, load_run
from causalseg.config.heads import QueriesHeadConfig
from causalseg.config.load import dump_config
from causalseg.errors import ConfigError, DataError
from causalseg.heads import base
from causalseg.heads.queries import QueriesHead
from conftest import SMALL_QUERIES

WIDTH, CLASSES, QUERIES = 48, 5, 12
OPTIONS = QueriesHeadConfig(num_queries=QUERIES, num_points=256)


def make_head(seed: int = 0, **options) -> QueriesHead:
    torch.manual_seed(seed)
    return QueriesHead(WIDTH, CLASSES, OPTIONS.model_copy(update=options))


def make_inputs(batch: int = 2, h: int = 5, w: int = 7):
    """Return features, queries that have passed the blocks, and labels."""
    generator = torch.Generator().manual_seed(1)
    features = [torch.randn(batch, WIDTH, h, w, generator=generator) for _ in range(4)]
    queries = torch.randn(batch, QUERIES, WIDTH, generator=generator)
    labels = torch.randint(0, CLASSES, (batch, h, w), generator=generator)
    labels[:, 0] = 255
    return features, queries, labels.repeat_interleave(8, 1).repeat_interleave(8, 2)


def total_loss(head, inputs, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return sum(head.loss(*inputs).values())


@pytest.mark.parametrize("shape", [(1, 5, 7), (2, 6, 4), (1, 1, 3)])
def test_masks_are_at_four_times_the_grid_and_scores_at_pixel_size(shape):
    batch, h, w = shape
    head, (features, queries, _) = make_head().eval(), make_inputs(*shape)
    ((classes, masks),) = head._predict(features, queries)
    assert classes.shape == (batch, QUERIES, CLASSES + 1)
    assert masks.shape == (batch, QUERIES, 4 * h, 4 * w)
    scores = head(features, queries, (h * 14, w * 14))
    assert scores.shape == (batch, CLASSES, h * 14, w * 14)
    assert scores.min() >= 0
    total = head.probabilities(scores[0]).sum(0)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_a_mask_is_the_product_of_embedding_and_pixel():
    head, (features, queries, _) = make_head().eval(), make_inputs()
    ((classes, masks),) = head._predict(features, queries)
    Q = torch.nn.functional.layer_norm(queries, (WIDTH,))
    X = torch.nn.functional.layer_norm(features[-1].movedim(1, -1), (WIDTH,)).movedim(-1, 1)
    pixels, embedding = head.upscale(X), head.mask_embedding(Q)
    torch.testing.assert_close(classes, head.class_predictor(Q))
    torch.testing.assert_close(masks[1, 3, 9, 4], embedding[1, 3] @ pixels[1, :, 9, 4])
    only_last = [torch.zeros_like(x) for x in features[:3]] + features[3:]
    assert torch.equal(head._predict(only_last, queries)[0][1], masks)


def test_images_of_a_batch_are_independent():
    head, (features, queries, _) = make_head().eval(), make_inputs()
    alone = head([x[:1] for x in features], queries[:1], (40, 56))
    torch.testing.assert_close(head(features, queries, (40, 56))[:1], alone)


def test_every_parameter_but_the_joining_queries_gets_a_finite_gradient():
    head, inputs = make_head(), make_inputs(1)
    inputs[1].requires_grad_()
    total_loss(head, inputs).backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == ["queries.weight"]
    gradients = [p.grad for p in head.parameters() if p.grad is not None]
    assert all(bool(grad.isfinite().all()) for grad in [*gradients, inputs[1].grad])
    assert inputs[1].grad.abs().sum() > 0


def test_ignored_pixels_carry_no_loss():
    head, (features, queries, labels) = make_head(), make_inputs()
    labels[:] = 255
    loss = head.loss(features, queries, labels)
    assert loss["mask"] == loss["dice"] == 0
    assert loss["class"].isfinite()
    with pytest.raises(DataError, match="0 to 4"):
        head.loss(features, queries, labels - 250)


def test_every_term_is_normalised_over_all_processes(monkeypatch):
    head, inputs = make_head(), make_inputs()
    torch.manual_seed(0)
    alone = head.loss(*inputs)
    monkeypatch.setattr(base, "mean_over_processes", lambda count: count * 2)
    torch.manual_seed(0)
    for kind, value in head.loss(*inputs).items():
        torch.testing.assert_close(alone[kind], 2 * value)


def test_bfloat16_autocast_gives_finite_scores_and_a_float32_loss():
    head, inputs = make_head(), make_inputs()
    with torch.autocast("cpu", torch.bfloat16):
        scores, loss = head(*inputs[:2], (40, 56)), total_loss(head, inputs)
    loss.backward()
    assert {scores.dtype, loss.dtype} == {torch.float32}
    assert scores.isfinite().all()
    assert loss.isfinite()


def test_queries_against_the_mode_raise():
    own, external = make_head(), QueriesHead(WIDTH, CLASSES, OPTIONS, external_queries=True)
    features, queries, _ = make_inputs()
    assert own.joining(None) is own.queries.weight
    assert torch.equal(external.joining(queries[0]), queries[0])
    for head, given, message in (
        (own, queries[0], "external_queries=True"),
        (external, None, "external_queries=False"),
        (external, torch.zeros(QUERIES, 9), f"width 9.*{WIDTH}"),
    ):
        with pytest.raises(ConfigError, match=message):
            head.joining(given)
    for given in (None, queries[0]):
        with pytest.raises(ConfigError, match="Segmenter"):
            own(features, given, (40, 56))


TUNE = "{name: causal_tune, num_tokens: 4, rank: 2}"
REIN = "{name: rein, num_tokens: 4, rank: 2}"
LORA = "{name: lora, rank: 2, alpha: 4}"
ADAPTERS = {
    "none": "none",
    "lora": LORA,
    "causal_lora": "{name: causal_lora, rank: 3, split: {low: 1, causal: 1, high: 1}}",
    "adaptformer": "{name: adaptformer, bottleneck: 2}",
    "vpt": "{name: vpt, num_prompts: 2}",
    "rein": REIN,
    "causal_tune": TUNE,
    "causal_tune-own_queries": "{name: causal_tune, num_tokens: 6, rank: 2, query_link: false}",
    "chain": f"[{LORA}, {TUNE}]",
}
BLOCKS = {"one": SMALL_QUERIES, "three": SMALL_QUERIES.replace("4,", "4, blocks: 3,", 1)}


def make_batch(size=(32, 48)):
    torch.manual_seed(0)
    return torch.rand(2, 3, *size), torch.randint(0, 3, size).expand(2, -1, -1)


@pytest.fixture(params=ADAPTERS)
def adapter(request):
    return ADAPTERS[request.param]


@pytest.mark.parametrize("head", BLOCKS.values(), ids=BLOCKS)
def test_adapter_and_head_train_and_nothing_else(tiny, adapter, head):
    model = build_segmenter(tiny(head, f"adapter={adapter}")).train()
    parts = torch.nn.ModuleDict(model.trainable())
    start = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(parts.parameters(), lr=1e-3, weight_decay=0)
    losses = []
    for _ in range(3):
        torch.manual_seed(0)
        loss = model.loss(*make_batch())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    now = model.state_dict()
    moved = {name for name in now if not torch.equal(now[name], start[name])}
    assert moved == {name for name, _ in parts.named_parameters()}


def test_a_run_loads_and_a_copy_is_alike_at_any_grid(tiny, adapter, tmp_path):
    config = tiny(SMALL_QUERIES, f"adapter={adapter}")
    model = build_segmenter(config).eval()
    with torch.no_grad():
        for part in model.trainable().values():
            for parameter in part.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    (tmp_path / "config.yaml").write_text(dump_config(config))
    model.save(tmp_path)
    loaded, copied = load_run(tmp_path), copy.deepcopy(model)
    with torch.no_grad():
        for size in ((32, 48), (48, 16)):
            images, _ = make_batch(size)
            expected = model.logits(images)
            torch.testing.assert_close(loaded.logits(images), expected)
            torch.testing.assert_close(copied.logits(images), expected)
        copied.head.class_predictor.bias += torch.arange(4)
        assert not torch.allclose(copied.logits(images), expected, atol=1e-3)
        torch.testing.assert_close(model.logits(images), expected)


def test_loss_falls_to_almost_nothing_on_one_image(tiny):
    model = build_segmenter(tiny(SMALL_QUERIES, "adapter=none")).train()
    images, labels = make_batch()
    labels = labels.clone()
    labels[:, :16], labels[:, 16:, :24], labels[:, 16:, 24:] = 0, 1, 2
    images = images / 2 + labels[:, None] / 4
    optimizer = torch.optim.AdamW(model.head.parameters(), lr=3e-3)
    for step in range(40):
        torch.manual_seed(step)
        loss = model.loss(images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first = loss.item() if step == 0 else first
    assert loss < 0.2 * first
    assert (model.eval().logits(images).argmax(1) == labels).float().mean() > 0.97


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["none", TUNE])
def test_exported_the_model_gives_the_same_scores_at_any_batch_size(tiny, adapter):
    model = build_segmenter(tiny(SMALL_QUERIES, f"adapter={adapter}")).eval()
    images, _ = make_batch()
    dynamic = {"images": {0: torch.export.Dim("batch", min=1, max=8)}}
    with torch.no_grad():
        program = torch.export.export(model, (images,), strict=False, dynamic_shapes=dynamic)
        more = torch.rand(3, *images.shape[1:])
        torch.testing.assert_close(program.module()(more), model(more))


@pytest.mark.slow
def test_compiled_without_graph_breaks_the_model_gives_the_same_scores(tiny):
    model = build_segmenter(tiny(SMALL_QUERIES)).eval()
    images, _ = make_batch()
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(images), model(images))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["backbone.name=convnext_atto", "train.crop=[32, 64]"], "ConvNeXt take no queries"),
        (["backbone.name=resnet18", "train.crop=[32, 64]"], "ResNet take no queries"),
        (["backbone.name=beit_base_patch16_224"], "Beit take no queries"),
        (["backbone.name=samvit_base_patch16"], "VisionTransformerSAM take no queries"),
        (["head.blocks=7"], "pass 7 blocks, but there are 6"),
    ],
)
def test_backbones_and_blocks_that_do_not_fit_are_refused_before_training(tiny, overrides, message):
    config = tiny(SMALL_QUERIES, "adapter=none", *overrides)
    with pytest.raises(ConfigError, match=message):
        check_method(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adapter.num_tokens=5"], "num_tokens = 5 and head.num_queries = 4"),
        (["backbone.repair=shift_average"], "choose repair=defect"),
        (["head.class_weight=0", "head.mask_weight=0", "head.dice_weight=0"], "raise one"),
    ],
)
def test_options_that_contradict_each_other_are_refused(tiny, overrides, message):
    with pytest.raises(ConfigError, match=message):
        tiny(SMALL_QUERIES, *overrides)
