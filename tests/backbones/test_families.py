"""Every family of backbones under the one protocol; models of timm at reduced width and depth."""

import pytest
import timm
import torch
from torch import nn

from causalseg.adapters.base import Adapter, attach, install_after_blocks
from causalseg.backbones.timm import FrozenBackbone, build_backbone
from causalseg.build.adapter import build_adapter
from causalseg.config.adapters import (
    AdaptFormerConfig,
    CausalTuneConfig,
    FadaConfig,
    FullConfig,
    LoraAdapterConfig,
    ReinConfig,
    SetConfig,
    VptConfig,
)
from causalseg.config.backbone import BackboneConfig
from causalseg.config.heads import Mask2FormerHeadConfig
from causalseg.data.catalogue.camvid import CAMVID11
from causalseg.errors import ConfigError
from causalseg.heads.linear import LinearHead
from causalseg.heads.mask2former import Mask2FormerHead
from causalseg.model import Segmenter
from families import FAMILIES, HIERARCHICAL, VIT, make_backbone, make_images, outputs_of

TOKENS = {"num_tokens": 4, "rank": 2}


class Shift(Adapter):
    """Adds 1 to every channel of the patch tokens after one block."""

    def forward(self, tokens, layer, grid):
        assert tokens.shape[1] == grid[0] * grid[1]
        return tokens + 1


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def test_four_levels_of_the_right_strides_at_any_size(family):
    backbone = make_backbone(family)
    widths = HIERARCHICAL.get(family, (48,) * 4)
    strides = (4, 8, 16, 32) if family in HIERARCHICAL else (backbone.patch,) * 4
    assert (backbone.level_widths, backbone.strides) == (widths, strides)
    for h, w in ((2, 2), (2, 3), (5, 1)):
        images = make_images(backbone, h, w)
        H, W = images.shape[-2:]
        with torch.no_grad():
            levels = backbone(images)
        expected = [(2, c, H // s, W // s) for c, s in zip(widths, strides, strict=True)]
        assert [tuple(level.shape) for level in levels] == expected
        assert all(level.isfinite().all() for level in levels)


def test_an_adapter_changes_patch_tokens_and_only_those_until_it_is_detached(family):
    backbone = make_backbone(family)
    images, num_prefix = make_images(backbone), FAMILIES[family][2]
    before = outputs_of(backbone, images)
    with attach(backbone.vit, Shift(backbone.widths, backbone.depth, layers=[2])):
        after = outputs_of(backbone, images)
    assert all(torch.equal(a, b) for a, b in zip(before[:2], after[:2], strict=True))
    assert torch.equal(before[2][:, :num_prefix], after[2][:, :num_prefix])
    assert torch.equal(before[2][:, num_prefix:] + 1, after[2][:, num_prefix:])
    assert not torch.equal(before[3], after[3])
    detached = outputs_of(backbone, images)
    assert all(torch.equal(a, b) for a, b in zip(before, detached, strict=True))


def test_an_edit_gets_the_grid_of_the_image(family):
    class Corner(nn.Module):
        def forward(self, tokens, layer, grid):
            seen.append(grid)
            changed = tokens.clone()
            changed[:, grid[1] + 2] += 1  # row 1, column 2
            return changed

    seen = []
    backbone = make_backbone(family)
    images = make_images(backbone, 2, 3)
    before = [level[:, 0] for level in map(torch.clone, backbone(images))]
    handles = install_after_blocks(backbone.vit, Corner(), [backbone.depth - 1])
    after = [level[:, 0] for level in backbone(images)]
    for handle in handles:
        handle.remove()
    assert seen == [(2, 3)]
    assert (after[3] - before[3]).abs().gt(0.5).nonzero().tolist() == [[0, 1, 2], [1, 1, 2]]


STRONG = {"kind": "small", "scale": 0.5}


def make_causal_tune(backbone, query_width=None, **options):
    torch.manual_seed(2)
    return build_adapter(CausalTuneConfig(**TOKENS, **options), backbone, query_width)


def test_checkpointing_keeps_features_and_gradients_and_saves_memory(family):
    results = []
    for checkpointing in (False, True):
        backbone = make_backbone(family, checkpointing=checkpointing)
        adapter = make_causal_tune(backbone, init=STRONG)
        saved = []

        def save(tensor, saved=saved):
            saved.append(tensor.numel())
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor)
        with attach(backbone.vit, adapter), hooks:
            features = backbone(make_images(backbone))
            sum(level.square().mean() for level in features).backward()
        results.append((features, [p.grad for p in adapter.parameters()], sum(saved)))
    (features, gradients, values), (again, gradients_again, fewer) = results
    for one, other in zip(features, again, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    for one, other in zip(gradients, gradients_again, strict=True):
        assert one.abs().max() > 0
        assert torch.allclose(one, other, atol=1e-5, rtol=1e-3)
    assert fewer < values


def make_segmenter(family, config=None, **options):
    backbone = make_backbone(family)
    torch.manual_seed(2)
    adapter = build_adapter(config or CausalTuneConfig(**TOKENS), backbone, None)
    return Segmenter(backbone, adapter, LinearHead(backbone.level_widths, 11), CAMVID11)


def make_labels(images):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 11, (2, *images.shape[-2:]), generator=generator)


def test_a_step_of_causal_tune_with_the_linear_head_learns(family):
    model = make_segmenter(family, CausalTuneConfig(**TOKENS, init="small"))
    images = make_images(model.backbone)
    labels = make_labels(images)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(name.startswith(("adapter.", "head.")) for name in trained)
    old = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimiser = torch.optim.AdamW(trained.values(), lr=1e-3, weight_decay=0)
    loss = model.loss(images, labels)
    loss.backward()
    optimiser.step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.values())
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, old[name])}
    assert moved == set(trained)
    with torch.no_grad():
        assert model.loss(images, labels) < loss


@pytest.mark.slow
def test_it_compiles_as_one_graph_with_an_adapter(family):
    backbone = make_backbone(family)
    images = make_images(backbone)
    with attach(backbone.vit, make_causal_tune(backbone, init=STRONG)), torch.no_grad():
        expected = backbone(images)
        torch.compiler.reset()
        compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")
        for ours, theirs in zip(expected, compiled(images), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("name", ["convnext", "resnet", "sam"])
@pytest.mark.parametrize(
    "config",
    [
        CausalTuneConfig(**TOKENS, transform="haar"),
        ReinConfig(**TOKENS),
        SetConfig(**TOKENS),
        FadaConfig(**TOKENS),
        FullConfig(rate=1),
        FullConfig(rate=1, layers=[3]),
    ],
    ids=lambda config: config.name,
)
def test_other_adapters_learn_on_other_layouts(name, config):
    model = make_segmenter(name, config)
    images = make_images(model.backbone)
    model.loss(images, make_labels(images)).backward()
    gradients = {name: p.grad for name, p in model.adapter.named_parameters()}
    assert gradients
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    assert any(g.abs().max() > 0 for g in gradients.values())


def test_stages_are_adapted_by_the_layers_that_are_named_in_any_order():
    backbone = make_backbone("resnet")
    adapter = build_adapter(ReinConfig(**TOKENS, layers=[3, 0]), backbone, query_width=8)
    assert adapter.layers == (0, 3)
    assert [part.width for part in adapter.parts] == [16, 64]
    assert [part.link is None for part in adapter.parts] == [True, False]
    assert adapter.queries().shape == (4, 8)
    std = adapter.queries().std(0, correction=0).square().mean().sqrt().item()
    assert std == pytest.approx(1, abs=1e-5)


def test_lora_works_on_the_linear_layers_of_a_stage():
    backbone = make_backbone("convnext")
    adapter = build_adapter(LoraAdapterConfig(targets=["mlp.fc1"], rank=2), backbone, None)
    assert len(adapter.values) == 2 * 5  # A and B of five blocks
    with pytest.raises(ConfigError, match=r"no linear layer attn\.qkv.*mlp\.fc1, mlp\.fc2"):
        build_adapter(LoraAdapterConfig(), backbone, None)
    with pytest.raises(ConfigError, match="choose another adapter"):
        build_adapter(LoraAdapterConfig(), make_backbone("resnet"), None)


def test_full_tuning_of_stages_slows_the_shallow_ones():
    backbone = make_backbone("convnext")
    adapter = build_adapter(FullConfig(rate=1, layer_decay=0.5), backbone, None)
    rates = {
        name.split("/")[0] + name.split("/")[1]: adapter.rate(name)
        for name, _ in adapter.named_parameters()
    }
    assert rates["values.stages3"] == 1
    assert rates["values.stages0"] == 0.125
    assert rates["values.stem0"] == 0.0625
    assert not any("head" in name for name in rates)


@pytest.mark.parametrize("config", [VptConfig(), AdaptFormerConfig()], ids=lambda c: c.name)
def test_what_needs_the_blocks_of_a_vit_says_so(config):
    with pytest.raises(ConfigError, match="not the stages of ConvNeXt"):
        build_adapter(config, make_backbone("convnext"), None)


@pytest.mark.parametrize("name", ["sam", "beit", "dinov3", "eva02"])
def test_prompts_are_refused_where_blocks_count_tokens(name):
    backbone = make_backbone(name)
    adapter = build_adapter(VptConfig(num_prompts=2), backbone, None)
    with pytest.raises(ConfigError, match="take no further tokens"):
        attach(backbone.vit, adapter)


def test_an_adapter_for_other_widths_is_refused():
    backbone = make_backbone("resnet")
    adapter = build_adapter(ReinConfig(**TOKENS), make_backbone("convnext"), None)
    with pytest.raises(ConfigError, match="stages of widths 8, 16, 24, 32, the model has stages"):
        attach(backbone.vit, adapter)


@pytest.mark.parametrize("name", ["convnext", "resnet"])
def test_a_mask2former_head_takes_stages_as_its_pyramid(name):
    backbone = make_backbone(name)
    options = Mask2FormerHeadConfig(
        hidden=32, encoder_layers=1, decoder_layers=1, feedforward=32, num_points=16
    )
    head = Mask2FormerHead(backbone.level_widths, 11, options, external_queries=True)
    model = Segmenter(backbone, make_causal_tune(backbone, query_width=32), head, CAMVID11)
    images = make_images(backbone)
    assert model.logits(images).shape == (2, 11, *images.shape[-2:])
    model.loss(images, make_labels(images)).backward()
    assert all(p.grad is not None for p in model.adapter.parameters())


def test_beit_at_its_own_size_is_timms_and_takes_others():
    torch.manual_seed(0)
    vit = timm.create_model("beit_base_patch16_224", num_classes=0, img_size=48, **VIT).eval()
    for block in vit.blocks:
        nn.init.normal_(block.attn.relative_position_bias_table)
    images = torch.rand(1, 3, 48, 48)
    with torch.no_grad():
        expected = vit.forward_intermediates((images - 0.5) / 0.5, intermediates_only=True)
        backbone = FrozenBackbone(vit, levels=(0, 1, 2, 3))
        for ours, theirs in zip(backbone(images), expected, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)
        vit.blocks[0].attn.relative_position_bias_table[-3:] += 5  # those of the class token
        assert not torch.allclose(backbone(images)[0], expected[0], atol=1e-3)


SMALLEST = """
dinov2_vits14 dinov2_vits14_reg dinov3_vits16 dinov3_vitsplus16 eva02_base14 eva02_clip_base16
clip_vitb16_openai siglip_vitb16 siglip2_vitb16 sam_vitb mae_vitb16 beitv2_vitb16
convnext_tiny convnextv2_tiny resnet50
"""


@pytest.mark.slow
@pytest.mark.parametrize("preset", SMALLEST.split())
def test_small_models_work_at_full_structure(preset):
    backbone = build_backbone(BackboneConfig(name=preset, weights="random"))
    with torch.no_grad(), attach(backbone.vit, make_causal_tune(backbone, init=STRONG)):
        levels = backbone(make_images(backbone, 4, 6, batch=1))
    sizes = [(4 * backbone.patch // s, 6 * backbone.patch // s) for s in backbone.strides]
    assert [tuple(level.shape[-2:]) for level in levels] == sizes
    assert all(level.isfinite().all() for level in levels)
