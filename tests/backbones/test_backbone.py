import copy
import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from causalseg.adapters.base import attach
from causalseg.adapters.causal_tune import CausalTune
from causalseg.backbones.timm import FrozenBackbone, build_backbone
from causalseg.config.backbone import BackboneConfig
from causalseg.errors import ConfigError, DataError

RULES = ("antialias", "plain", "offset")


def make_vit(registers=False, depth=4, grid=9):
    torch.manual_seed(0)
    vit = timm.create_model(
        f"vit_small_patch14_{'reg4_' if registers else ''}dinov2",
        depth=depth,
        embed_dim=48,
        num_heads=3,
        img_size=grid * 14,
        dynamic_img_size=True,
    )
    for name, parameter in vit.named_parameters():
        if name in ("pos_embed", "cls_token", "reg_token") or name.endswith("gamma"):
            nn.init.normal_(parameter, std=0.5)
    return vit


def make_images(H=70, W=98, batch=2):
    return torch.rand(batch, 3, H, W, generator=torch.Generator().manual_seed(1))


def images_equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_levels_are_the_blocks_outputs_without_the_final_norm():
    backbone = FrozenBackbone(make_vit(), levels=(0, 1, 1, 3))
    outputs = []
    for block in backbone.vit.blocks:
        block.register_forward_hook(lambda _m, _i, output: outputs.append(output))
    levels = backbone(make_images())
    for level, block in zip(levels, (0, 1, 1, 3), strict=True):
        assert torch.equal(level.flatten(2).mT, outputs[block][:, 1:])


def test_images_are_normalised_as_the_pretraining_did():
    backbone = FrozenBackbone(make_vit())
    seen = []
    backbone.vit.patch_embed.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    backbone(torch.full((1, 3, 14, 14), 0.5))
    expected = (0.5 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(seen[0][0, :, 0, 0], expected)
    assert not {"mean", "std"} & backbone.state_dict().keys()


@pytest.mark.parametrize(
    ("depth", "levels"),
    [(2, (0, 0, 1, 1)), (12, (2, 5, 8, 11)), (24, (7, 11, 15, 23)), (40, (9, 19, 29, 39))],
)
def test_default_levels(depth, levels):
    assert FrozenBackbone(make_vit(depth=depth)).levels == levels


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ((0, 1, 2, 4), "from 0 to 3 .*no block 4"),
        ((-1, 0, 1, 2), "no block -1"),
        ((0, 1, 2), "four block indices"),
        ((0, 2, 1, 3), "shallow to deep"),
    ],
)
def test_levels_that_are_not_four_blocks_in_order_are_refused(levels, message):
    with pytest.raises(ConfigError, match=message):
        FrozenBackbone(make_vit(), levels=levels)


def test_a_side_not_divisible_by_the_patch_is_refused_with_the_nearest_allowed():
    with pytest.raises(DataError, match=r"height 100 \(nearest 98 or 112\) and width 98 .*14"):
        FrozenBackbone(make_vit())(make_images(100, 98))
    with pytest.raises(DataError, match=r"width 5 \(nearest 14\)"):
        FrozenBackbone(make_vit())(make_images(14, 5))


def test_an_unknown_position_rule_and_a_model_of_one_image_size_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'offset'"):
        FrozenBackbone(make_vit(), position="ofset")
    vit = timm.create_model("vit_small_patch14_dinov2", depth=1, img_size=28)
    with pytest.raises(ConfigError, match="dynamic_img_size=True"):
        FrozenBackbone(vit)


def test_it_is_frozen_and_stays_in_eval_mode():
    backbone = FrozenBackbone(make_vit().train())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    nn.Sequential(backbone).train()
    assert not any(module.training for module in backbone.modules())


def test_antialias_is_timms_own():
    vit = make_vit()
    own = vit.forward_intermediates(
        (make_images() - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1),
        intermediates_only=True,
    )
    backbone = FrozenBackbone(vit, levels=range(4), position="antialias")
    assert images_equal(backbone(make_images()), own)
    assert "_pos_embed" not in vars(vit)


@pytest.mark.parametrize("registers", [False, True])
def test_position_rules_differ_off_the_grid_and_agree_on_it(registers):
    backbones = [FrozenBackbone(make_vit(registers), position=rule) for rule in RULES]
    off = [backbone(make_images())[0] for backbone in backbones]
    on = [backbone(make_images(126, 126))[0] for backbone in backbones]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(off[one], off[other], atol=1e-2)
        assert torch.equal(on[one], on[other])


def cubic(values, points):
    """Cubic convolution (a = -0.75, edges repeated) of a row of values at fractional points."""
    first = points.floor()
    result = torch.zeros_like(points)
    for tap in range(-1, 3):
        d = (points - first - tap).abs()
        near = 1.25 * d**3 - 2.25 * d**2 + 1
        far = -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
        weight = torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))
        result += weight * values[(first + tap).long().clamp(0, len(values) - 1)]
    return result


@pytest.mark.parametrize(("position", "offset"), [("plain", 0.0), ("offset", 0.1)])
def test_position_rules_sample_where_their_formulas_say(position, offset):
    vit = make_vit()
    rows = torch.rand(9, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        vit.pos_embed.zero_()
        vit.pos_embed[:, 1:, 0] = rows.repeat_interleave(9)
    backbone = FrozenBackbone(vit, position=position)
    found = backbone.vit._pos_embed(torch.zeros(1, 5, 7, 48))[0, 1:, 0].unflatten(0, (5, 7))
    points = (torch.arange(5) + 0.5) * 9 / (5 + offset) - 0.5
    assert torch.allclose(found, cubic(rows, points)[:, None].expand(5, 7), atol=1e-5)


def test_an_offset_grid_has_the_size_of_the_image_at_every_size():
    position = FrozenBackbone(make_vit(grid=37), position="offset").vit._pos_embed
    for size in range(1, 160):
        assert position(torch.zeros(1, size, 3, 48)).shape[1] == 1 + 3 * size


@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize("position", RULES)
def test_copies_and_pickles_compute_the_same_and_share_nothing(position, registers):
    backbone = FrozenBackbone(make_vit(registers), position=position)
    before = backbone(make_images())
    copies = [copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))]
    for clone in copies:
        assert images_equal(clone(make_images()), before)
    with torch.no_grad():
        backbone.vit.pos_embed.zero_()
    for clone in copies:
        assert images_equal(clone(make_images()), before)


@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize("position", RULES)
def test_an_exported_program_computes_the_same(position, registers):
    backbone = FrozenBackbone(make_vit(registers, depth=2), position=position)
    program = torch.export.export(backbone, (make_images(),))
    for ours, exported in zip(
        backbone(make_images()), program.module()(make_images()), strict=True
    ):
        assert torch.allclose(ours, exported, atol=1e-5)
    assert {"vit.pos_embed"} == {name for name in program.state_dict if "pos_embed" in name}


@pytest.mark.parametrize("position", ["plain", "offset"])
def test_it_compiles_as_one_graph(position):
    backbone = FrozenBackbone(make_vit(registers=True, depth=2), position=position)
    compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(backbone(make_images()), compiled(make_images()), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_second_backbone_of_a_model_resets_the_options_of_the_first():
    vit = make_vit()
    plain = FrozenBackbone(vit, position="plain", checkpointing=True)(make_images())[0]
    own = FrozenBackbone(vit)(make_images())[0]
    assert not torch.allclose(plain, own, atol=1e-2)
    assert torch.equal(own, FrozenBackbone(make_vit())(make_images())[0])
    assert not vit.grad_checkpointing


def test_a_model_with_other_tokens_after_its_blocks_is_refused():
    model = timm.create_model("cait_xxs24_224", depth=2, embed_dim=48, num_heads=3, num_classes=0)
    with (
        attach(model, CausalTune(48, 2, num_tokens=4, rank=2)),
        pytest.raises(ConfigError, match="one token per patch"),
    ):
        model(torch.rand(1, 3, 224, 224))


@pytest.mark.slow
def test_a_file_of_dinov2_that_could_be_timms_or_metas_says_which_rule_is_taken(tmp_path, caplog):
    model = timm.create_model("vit_small_patch14_dinov2", num_classes=0)
    state = {key: value for key, value in model.state_dict().items() if key != "mask_token"}
    save_file(state, tmp_path / "dinov2.safetensors")
    options = {"name": "dinov2_vits14", "weights": str(tmp_path / "dinov2.safetensors")}
    with caplog.at_level("INFO", logger="causalseg"):
        plain = build_backbone(BackboneConfig(**options))
        assert "resampled by timm's rule, antialias. If it is Meta's file" in caplog.text
        caplog.clear()
        other = build_backbone(BackboneConfig(**options, position="offset"))
        assert caplog.text == ""
    images = torch.rand(1, 3, 28, 42)
    assert not torch.equal(plain(images)[-1], other(images)[-1])


def test_attention_is_plain_on_short_grids_in_bfloat16_on_a_cpu_alone():
    backbone = FrozenBackbone(make_vit())
    fused = backbone(make_images())
    assert all(block.attn.fused_attn for block in backbone.vit.blocks)
    with torch.autocast("cpu", torch.bfloat16):
        plain = backbone(make_images())
        assert not any(block.attn.fused_attn for block in backbone.vit.blocks)
        backbone(make_images(H=14 * 46, W=14 * 46, batch=1))
        assert all(block.attn.fused_attn for block in backbone.vit.blocks)
    for ours, exact in zip(plain, fused, strict=True):
        assert (ours - exact).abs().max() < 0.1 * exact.std()
    assert images_equal(FrozenBackbone(backbone.vit)(make_images()), fused)
