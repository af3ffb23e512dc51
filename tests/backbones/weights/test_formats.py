"""Official files. They are made here out of timm's own models, by an inverse list of names."""

import re
from collections.abc import Callable
from typing import NamedTuple

import pytest
import timm
import torch
import torchvision
from timm.models import convnext, eva, vision_transformer, vision_transformer_sam
from torch import nn

from causalseg.backbones.weights.formats import FORMATS, convert
from causalseg.errors import WeightsError

VIT = {"depth": 2, "embed_dim": 48, "num_heads": 3}
SAM = VIT | {"img_size": 64, "window_size": 2, "global_attn_indexes": (1,), "neck_chans": 16}
STAGES = {"depths": (1, 2, 1, 1), "dims": (8, 16, 24, 32)}


def make(name, **options):
    torch.manual_seed(0)
    model = timm.create_model(name, **options, num_classes=0).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def rename(model, names, prefix=""):
    """Return a copy of a model's tensors with every (pattern, replacement) done in turn."""
    state = {}
    for key, value in model.state_dict().items():
        for pattern, replacement in names:
            key = re.sub(pattern, replacement, key)
        state[prefix + key] = value.clone()
    return state


def dinov2(model):
    names = [("reg_token", "register_tokens")]
    if model.blocks[0].mlp.__class__.__name__ == "GluMlp":
        names += [("mlp.fc1", "mlp.w12"), ("mlp.fc2", "mlp.w3")]
    state = rename(model, names) | {"mask_token": torch.zeros(1, model.embed_dim)}
    if "register_tokens" in state:  # they have a class position, too
        position = torch.full_like(state["cls_token"], 0.25)
        state["cls_token"] -= position
        state["pos_embed"] = torch.cat([position, state["pos_embed"]], 1)
    return state


def chunked_dinov2(model):
    state = dinov2(model)
    return {re.sub(r"^blocks\.(\d+)", r"blocks.\1.\1", key): x for key, x in state.items()}


def dinov3(model):
    names = [("reg_token", "storage_tokens"), (r"gamma_(\d)", r"ls\1.gamma")]
    names += [("mlp.fc1_g", "mlp.w1"), ("mlp.fc1_x", "mlp.w2")]
    if hasattr(model.blocks[0].mlp, "fc1_g"):
        names += [("mlp.fc2", "mlp.w3")]
    state = rename(model, names) | {
        "mask_token": torch.zeros(1, model.embed_dim),
        "rope_embed.periods": torch.ones(4),
        "local_cls_norm.weight": torch.ones(model.embed_dim),
    }
    for block in range(len(model.blocks)):
        attention = f"blocks.{block}.attn"
        q, v = state.pop(f"{attention}.q_bias"), state.pop(f"{attention}.v_bias")
        state[f"{attention}.qkv.bias"] = torch.cat([q, torch.rand_like(q), v])
        state[f"{attention}.qkv.bias_mask"] = torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(48)
    return state


EVA_NAMES = [
    (r"attn\.([qv])_proj\.bias", r"attn.\1_bias"),
    (r"attn\.norm", "attn.inner_attn_ln"),
    (r"mlp\.norm", "mlp.ffn_ln"),
]
GATED = [("mlp.fc1_g", "mlp.w1"), ("mlp.fc1_x", "mlp.w2"), ("mlp.fc2", "mlp.w3")]
PACKED = [("mlp.fc1", "mlp.w12"), ("mlp.fc2", "mlp.w3")]
ROPE = {"rope.freqs_cos": torch.ones(2), "blocks.1.attn.rope.freqs_sin": torch.ones(2)}


def eva_pretraining(model):
    names = GATED if hasattr(model.blocks[0].mlp, "fc1_g") else PACKED
    state = rename(model, [*EVA_NAMES, *names, (r"^fc_norm", "norm")]) | ROPE
    return state | {"mask_token": torch.ones(1, 1, 48), "lm_head.weight": torch.ones(3, 48)}


def eva_classifier(model):
    names = GATED if hasattr(model.blocks[0].mlp, "fc1_g") else PACKED
    return rename(model, [*EVA_NAMES, *names]) | ROPE | {"head.weight": torch.ones(3, 48)}


def eva_clip(model):
    names = GATED if hasattr(model.blocks[0].mlp, "fc1_g") else []
    state = rename(model, [*EVA_NAMES, *names], "visual.") | {
        "visual.head.weight": torch.ones(5, 48)
    }
    return state | {f"visual.{key}": x for key, x in ROPE.items()} | TEXT


TEXT = {
    "logit_scale": torch.ones(()),
    "text.transformer.resblocks.0.ln_1.weight": torch.ones(8),
    "positional_embedding": torch.ones(77, 8),
    "transformer.resblocks.0.attn.in_proj_weight": torch.ones(24, 8),
}


def clip(model, prefix="visual."):
    names = [("cls_token", "class_embedding"), ("pos_embed", "positional_embedding")]
    names += [(r"patch_embed\.proj", "conv1"), ("norm_pre", "ln_pre"), (r"^norm\.", "ln_post.")]
    names += [("blocks", "transformer.resblocks"), (r"norm(\d)", r"ln_\1")]
    names += [(r"qkv\.", "in_proj_"), (r"attn\.proj", "attn.out_proj")]
    names += [(r"mlp\.fc1", "mlp.c_fc"), (r"mlp\.fc2", "mlp.c_proj")]
    state = rename(model, names, prefix)
    state[f"{prefix}class_embedding"] = state[f"{prefix}class_embedding"].flatten()
    state[f"{prefix}positional_embedding"] = state[f"{prefix}positional_embedding"][0]
    text = TEXT if prefix else {}
    return state | text | {f"{prefix}proj": torch.ones(48, 5)}


def trunk(model):
    return (
        rename(model, [], "visual.trunk.") | TEXT | {"visual.head.proj.weight": torch.ones(5, 48)}
    )


def sam(model):
    other = {"prompt_encoder.no_mask_embed.weight": torch.ones(1, 4)}
    return rename(model, [(r"mlp\.fc", "mlp.lin")], "image_encoder.") | other


def mae(model):
    decoder = {"decoder_embed.weight": torch.ones(8, 48), "decoder_pos_embed": torch.ones(1, 5, 8)}
    decoder |= {"decoder_blocks.0.norm1.weight": torch.ones(8)}
    return rename(model, []) | decoder | {"mask_token": torch.ones(1, 1, 8)}


def old_convnext(model):
    names = [(r"stem\.(\d)", r"downsample_layers.0.\1"), (r"\.blocks", "")]
    names += [(r"stages\.(\d)\.downsample\.(\d)", r"downsample_layers.\1.\2")]
    names += [("conv_dw", "dwconv"), (r"mlp\.fc", "pwconv"), (r"head\.norm", "norm")]
    names += [(r"mlp\.grn\.weight", "grn.gamma"), (r"mlp\.grn\.bias", "grn.beta")]
    state = rename(model, names)
    state = {key: x[None, None, None] if "grn" in key else x for key, x in state.items()}
    return state | {"norms.3.weight": state["norm.weight"], "norms.3.bias": state["norm.bias"]}


def timms(model):
    return rename(model, [])


class Case(NamedTuple):
    name: str
    options: dict
    publish: Callable
    origin: str
    position: str = "antialias"
    oracle: Callable | None = None  # timm's own conversion, where it knows the format


def convnext_oracle(state, model):
    return convnext.checkpoint_filter_fn(
        {key: state[key] for key in state if key[:5] != "norms"}, model
    )


vit_oracle, eva_oracle = vision_transformer.checkpoint_filter_fn, eva.checkpoint_filter_fn
sam_oracle = vision_transformer_sam.checkpoint_filter_fn
D2, D2_REG, D2_G = (
    f"vit_{size}_dinov2" for size in ("small_patch14", "small_patch14_reg4", "giant_patch14")
)
D3, D3_PLUS = (f"vit_{size}_patch16_dinov3_qkvb" for size in ("small", "huge_plus"))
CLIP, SIGLIP = "vit_base_patch16_clip_quickgelu_224", "vit_base_patch16_siglip_224"
EVA02, EVA02_TINY = "eva02_base_patch14_224", "eva02_tiny_patch14_224"
EVA01_CLIP, EVA02_CLIP = "eva_giant_patch14_clip_224", "eva02_base_patch16_clip_224"
PRETRAINING, OPENCLIP = "official EVA pretraining", "CLIP of OpenAI or OpenCLIP"
NET = {"layers": (1, 1, 1, 1), "channels": (4, 8, 8, 8)}
CASES = {
    "dinov2": Case(D2, VIT, dinov2, "official DINOv2", "offset", vit_oracle),
    "dinov2_g": Case(D2_G, VIT, dinov2, "official DINOv2", "offset", vit_oracle),
    "dinov2_chunks": Case(D2, VIT, chunked_dinov2, "official DINOv2", "offset"),
    "dinov2_reg": Case(D2_REG, VIT, dinov2, "official DINOv2 with registers", oracle=vit_oracle),
    "dinov3": Case(D3, VIT, dinov3, "official DINOv3", "antialias", eva_oracle),
    "dinov3_plus": Case(D3_PLUS, VIT, dinov3, "official DINOv3", "antialias", eva_oracle),
    "eva02": Case(EVA02, VIT, eva_pretraining, PRETRAINING, "plain", eva_oracle),
    "eva02_tiny": Case(EVA02_TINY, VIT, eva_pretraining, PRETRAINING, "plain", eva_oracle),
    "eva02_ft": Case(EVA02, VIT, eva_classifier, "official EVA", "plain", eva_oracle),
    "eva02_tiny_ft": Case(EVA02_TINY, VIT, eva_classifier, "official EVA", "plain", eva_oracle),
    "eva02_clip": Case(EVA02_CLIP, VIT, eva_clip, "official EVA-CLIP", "plain", eva_oracle),
    "eva01_clip": Case(EVA01_CLIP, VIT, eva_clip, "official EVA-CLIP", "plain", eva_oracle),
    "clip": Case(CLIP, VIT, clip, OPENCLIP, "antialias", vit_oracle),
    "clip_alone": Case(CLIP, VIT, lambda model: clip(model, ""), OPENCLIP),
    "openclip_siglip": Case(SIGLIP, VIT, trunk, "timm", "antialias", vit_oracle),
    "openclip_eva": Case(EVA02_CLIP, VIT, trunk, "timm", "antialias", eva_oracle),
    "sam": Case("samvit_base_patch16", SAM, sam, "official SAM", "antialias", sam_oracle),
    "mae": Case("vit_base_patch16_224", VIT, mae, "official MAE", "plain"),
    "convnext": Case(
        "convnext_tiny", STAGES, old_convnext, "official ConvNeXt", "antialias", convnext_oracle
    ),
    "convnextv2": Case("convnextv2_tiny", STAGES, old_convnext, "official ConvNeXt"),
    "timm_beit": Case("beit_base_patch16_224", VIT, timms, "timm"),
    "timm_resnet": Case("resnet50", NET, timms, "timm"),
}
BUILT_UPON = ("dinov2", "dinov2_reg", "dinov2_g", "dinov3", "eva02", "eva02_tiny", "clip")
for name in (*BUILT_UPON, "sam", "convnext"):
    CASES[f"timm_{name}"] = Case(CASES[name].name, CASES[name].options, timms, "timm")


def fill(case, state):
    model = timm.create_model(case.name, **case.options, num_classes=0).eval()
    state = {key: x for key, x in state.items() if key in model.state_dict() or key[:5] != "head."}
    model.load_state_dict(state)
    return model


def copy(state):
    return {key: x.clone() for key, x in state.items()}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_published_file_gives_the_model_it_was_made_from(case):
    model = make(case.name, **case.options)
    state = case.publish(model)
    given = copy(state)
    found = convert(state, "a.pth")
    assert found.position == case.position
    assert found.origin.split(", under")[0] == case.origin
    images = torch.rand(1, 3, *timm.data.resolve_model_data_config(model)["input_size"][1:])
    if case.options is SAM:
        images = images[..., :64, :64]
    other = fill(case, found.state)
    assert torch.allclose(other.forward_features(images), model.forward_features(images), atol=1e-5)
    assert state.keys() == given.keys()
    assert all(torch.equal(state[key], x) for key, x in given.items())
    if case.oracle:
        theirs = fill(case, case.oracle(given, model)).state_dict()
        assert all(torch.equal(theirs[key], x) for key, x in other.state_dict().items())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("prefix", ["module.", "backbone.encoder."])
def test_a_prefix_is_taken_off_and_what_is_outside_is_left_out(case, prefix):
    state = case.publish(make(case.name, **case.options))
    plain = convert(state, "a.pth")
    wrapped = {f"{prefix}{key}": x for key, x in state.items()} | {"decode_head.x": torch.ones(1)}
    found = convert(wrapped, "a.pth")
    assert found.origin.startswith(f"{plain.origin.split(', ')[0]}, under '{prefix}")
    assert found.position == plain.position
    assert found.state.keys() == plain.state.keys()
    assert all(torch.equal(found.state[key], x) for key, x in plain.state.items())


def test_every_format_without_a_library_here_is_tried_above():
    official = {format_.origin for format_ in FORMATS if "transformers" not in format_.origin}
    tried = {case.origin for case in CASES.values()}
    assert official == tried | {"official DINOv2 converted by Rein"}


def test_torchvisions_resnets_have_timms_names():
    theirs = torchvision.models.resnet18(weights=None).eval()
    found = convert(theirs.state_dict(), "resnet18.pth")
    assert (found.origin, found.position) == ("timm", "antialias")
    ours = timm.create_model("resnet18").eval()
    ours.load_state_dict(found.state)
    images = torch.rand(1, 3, 64, 64)
    assert torch.allclose(ours(images), theirs(images), atol=1e-5)


def test_beits_index_tables_are_left_out():
    model = make("beit_base_patch16_224", **VIT)
    index = {"blocks.0.attn.relative_position_index": torch.zeros(197, 197, dtype=torch.long)}
    assert convert(model.state_dict() | index, "a.pth").state.keys() == model.state_dict().keys()


@pytest.mark.parametrize("grid", [32, 64])
@pytest.mark.parametrize("mask", [True, False])
def test_what_reins_scripts_write_is_official_dinov2(grid, mask):
    model = make(D2, **VIT | {"patch_size": 16, "img_size": 16 * grid})
    state = dinov2(model)
    if not mask:
        state.pop("mask_token")
    found = convert(state, "dinov2_converted.pth")
    assert found.origin == "official DINOv2" + ("" if mask else " converted by Rein")
    assert found.position == "offset"
    assert all(torch.equal(found.state[key], x) for key, x in model.state_dict().items())
    other = make(D2, **VIT | {"patch_size": 16, "img_size": 16 * (grid - 1)})
    assert convert(other.state_dict(), "a.pth").origin == "timm"


def test_an_unknown_content_is_described_with_what_is_known():
    for state in ({"conv1.weight": torch.ones(1), "conv1.bias": torch.ones(1)}, {}):
        with pytest.raises(WeightsError) as error:
            convert(state, "some/file.pth")
        origins = [format_.origin for format_ in FORMATS]
        for part in ("some/file.pth", *state, *origins, "safetensors.torch.save_file"):
            assert part in str(error.value)


def test_names_that_do_not_belong_or_come_twice_and_several_backbones_are_refused():
    model = make(D2, **VIT)
    state = dinov2(model)
    strange = {"reg_token": torch.ones(1, 4, 48)} | {f"reins.{i}": torch.ones(1) for i in range(9)}
    names = rf"(?s)a\.pth \(official DINOv2\): 10 of {len(state) + 10} names.*reg_token, reins\.0"
    both = {f"{who}.backbone.{key}": state[key] for who in ("student", "teacher") for key in state}
    for content, message in (
        (state | strange, names),
        (state | chunked_dinov2(model), r"is a second tensor for timm's blocks\.0\.norm1\.weig"),
        (both, r"2 backbones .*prefixes student\.backbone\., teacher\.backb"),
    ):
        with pytest.raises(WeightsError, match=message):
            convert(content, "a.pth")


@pytest.mark.parametrize("mask", [1.0, float("nan"), None])
def test_a_bias_of_k_that_counts_is_refused(mask):
    state = dinov3(make("vit_small_patch16_dinov3_qkvb", **VIT))
    key = "blocks.1.attn.qkv.bias_mask"
    state[key] = torch.full((144,), mask or 0.0)
    if mask is None:
        del state[key]
    with pytest.raises(WeightsError, match=r"a\.pth: blocks\.1\.attn\.qkv\.bias adds to k"):
        convert(state, "a.pth")


def test_dinov3_without_biases_has_none_in_timm():
    model = make("vit_small_patch16_dinov3", **VIT)
    names = [("reg_token", "storage_tokens"), (r"gamma_(\d)", r"ls\1.gamma")]
    found = convert(rename(model, names), "a.pth").state
    assert found.keys() == model.state_dict().keys()
