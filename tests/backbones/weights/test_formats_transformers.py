"""Files of transformers, against its own models with random numbers."""

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from causalseg.backbones.positions import set_position_rule
from causalseg.backbones.weights.formats import convert
from causalseg.errors import WeightsError

SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
P14 = SIZES | {"patch_size": 14, "image_size": 70}
P14G = P14 | {"use_swiglu_ffn": True}
P16 = SIZES | {"patch_size": 16, "image_size": 80, "intermediate_size": 192}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 8}
TEXT |= {"intermediate_size": 16, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
V3 = P16 | {"num_register_tokens": 4}
V3G = V3 | {"use_gated_mlp": True, "hidden_act": "silu", "intermediate_size": 240}
GELU = P16 | {"hidden_act": "gelu"}  # timm's first SigLIP; published ones approximate it by tanh

D2, D2_G = "vit_small_patch14_dinov2", "vit_giant_patch14_dinov2"
D2_REG, D2_G_REG = "vit_small_patch14_reg4_dinov2", "vit_giant_patch14_reg4_dinov2"
D3, D3_PLUS = "vit_small_patch16_dinov3_qkvb", "vit_huge_plus_patch16_dinov3_qkvb"
CLIP, SIGLIP = "vit_base_patch16_clip_quickgelu_224", "vit_base_patch16_siglip_224"

REGISTERS, INSIDE = "Dinov2 with registers", ", under 'vision_model.'"
Registers, RegistersConfig = Dinov2WithRegistersModel, Dinov2WithRegistersConfig
BOTH_CLIP = {"vision_config": P16, "text_config": TEXT}
BOTH_SIGLIP = {"vision_config": GELU, "text_config": TEXT}
MODELS = {  # class, its configuration, name in timm, origin, position rule
    "dinov2": (Dinov2Model, Dinov2Config(**P14), D2, "Dinov2", "plain"),
    "dinov2_gated": (Dinov2Model, Dinov2Config(**P14G), D2_G, "Dinov2", "plain"),
    "dinov2_classifier": (
        Dinov2ForImageClassification,
        Dinov2Config(**P14),
        D2,
        "Dinov2, under 'dinov2.'",
        "plain",
    ),
    "registers": (Registers, RegistersConfig(**P14), D2_REG, REGISTERS, "antialias"),
    "registers_gated": (Registers, RegistersConfig(**P14G), D2_G_REG, REGISTERS, "antialias"),
    "dinov3": (DINOv3ViTModel, DINOv3ViTConfig(**V3), D3, "DINOv3", "antialias"),
    "dinov3_gated": (DINOv3ViTModel, DINOv3ViTConfig(**V3G), D3_PLUS, "DINOv3", "antialias"),
    "clip": (CLIPVisionModel, CLIPVisionConfig(**P16), CLIP, "CLIP", "plain"),
    "clip_full": (CLIPModel, CLIPConfig(**BOTH_CLIP), CLIP, f"CLIP{INSIDE}", "plain"),
    "siglip": (SiglipVisionModel, SiglipVisionConfig(**GELU), SIGLIP, "SigLIP", "plain"),
    "siglip_full": (SiglipModel, SiglipConfig(**BOTH_SIGLIP), SIGLIP, f"SigLIP{INSIDE}", "plain"),
}


def make(name):
    torch.manual_seed(0)
    kind, config, *_ = MODELS[name]
    model = kind(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def fill(name, found):
    options = {"depth": 2, "embed_dim": 48, "num_heads": 3, "dynamic_img_size": True}
    if name == "dinov3_gated":
        options["mlp_ratio"] = 5
    size = 80 if found.state["patch_embed.proj.weight"].shape[-1] == 16 else 70
    model = timm.create_model(MODELS[name][2], **options, img_size=size, num_classes=0).eval()
    model.load_state_dict(found.state)
    return model


def vision(model):
    """Return the part of a model that is the backbone."""
    for name in ("vision_model", "dinov2"):
        model = getattr(model, name, model)
    return model


def features(model, images):
    """Return all tokens after the last norm, and what the pooling makes of them."""
    options = {"interpolate_pos_encoding": True} if hasattr(model, "post_layernorm") else {}
    output = model(pixel_values=images, **options)
    tokens = output.last_hidden_state
    if hasattr(model, "pre_layrnorm"):  # CLIP's norm is part of its pooling
        tokens = model.post_layernorm(tokens)
    return tokens, output.pooler_output


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("published", [False, True])
def test_timms_model_gives_the_same_features_at_its_size_and_at_others(tmp_path, name, published):
    model = make(name)
    if published:  # with the names on the hub
        model.save_pretrained(tmp_path)
        state = load_file(tmp_path / "model.safetensors")
    else:
        state = model.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    found = convert(state, "model.safetensors")
    assert found.origin == f"transformers {MODELS[name][3]}"
    assert found.position == MODELS[name][4]
    assert state.keys() == before.keys()
    assert all(torch.equal(state[key], value) for key, value in before.items())
    vit = fill(name, found)
    if vit.pos_embed is not None:
        set_position_rule(vit, found.position)
    patch = vit.patch_embed.patch_size[0]
    for height, width in ((5, 5), (3, 8), (7, 4)):
        images = torch.rand(2, 3, height * patch, width * patch)
        tokens, pooled = features(vision(model), images)
        assert torch.allclose(vit.forward_features(images), tokens, atol=1e-5)
        if "siglip" in name:
            assert torch.allclose(vit(images), pooled, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["dinov2", "registers", "dinov3", "dinov3_gated", "clip", "siglip"]
)
def test_a_model_inside_another_is_found(name):
    state = make(name).state_dict()
    plain = convert(state, "a.bin")
    outside = {"decode_head.conv.weight": torch.ones(1)}
    for prefix in ("backbone.", "vision_model.", "module.model."):
        inside = {prefix + key: value for key, value in state.items()} | outside
        found = convert(inside, "a.bin")
        assert found.origin == f"{plain.origin}, under {prefix!r}"
        assert all(torch.equal(found.state[key], value) for key, value in plain.state.items())


def test_what_the_table_lacks_is_an_error():
    for name in ("dinov2", "dinov3", "clip", "siglip"):
        with pytest.raises(WeightsError, match=r"1 of \d+ names do not belong .*: classifier\."):
            convert(make(name).state_dict() | {"classifier.weight": torch.ones(1)}, "a.bin")


def test_a_bias_of_k_in_dinov3_is_an_error():
    model = DINOv3ViTModel(DINOv3ViTConfig(**V3, key_bias=True))
    with pytest.raises(WeightsError, match=r"2 of \d+ names .*: model\.layer\.0\..*k_proj\.bias"):
        convert(model.state_dict(), "a.bin")


def test_a_missing_part_is_named():
    state = make("clip").state_dict()
    del state["encoder.layers.1.self_attn.k_proj.bias"]
    with pytest.raises(WeightsError, match=r"blocks\.1\.attn\.qkv\.bias only the parts \[0, 2\]"):
        convert(state, "a.bin")


def test_the_position_table_of_old_files_is_left_out():
    state = make("clip").state_dict()
    found = convert(state | {"embeddings.position_ids": torch.arange(26)[None]}, "a.bin")
    assert found.state.keys() == convert(state, "a.bin").state.keys()


def test_siglip_2_of_any_resolution_is_not_taken_for_one_of_a_fixed_one():
    state = make("siglip").state_dict()
    state["embeddings.patch_embedding.weight"] = torch.ones(48, 768)  # a linear layer
    with pytest.raises(WeightsError, match="no backbone in a known naming"):
        convert(state, "a.bin")
