"""The patch and the position grid that a model takes over from its weights, or is asked for."""

import hashlib

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from causalseg.backbones.timm import build_backbone
from causalseg.backbones.weights.model import build_model, place
from causalseg.config.backbone import BackboneConfig
from causalseg.errors import ConfigError, WeightsError


def build(name, weights, seed=0, **options):
    return build_model(BackboneConfig(name=name, weights=str(weights), **options), seed)


def make_tiny(name="test_vit", seed=1, **options):
    torch.manual_seed(seed)
    vit = timm.create_model(name, num_classes=0, dynamic_img_size=True, **options).eval()
    for parameter in vit.parameters():
        nn.init.normal_(parameter, std=0.2)
    return vit


def save_tiny(path, *args, **options):
    vit = make_tiny(*args, **options)
    save_file(vit.state_dict(), path)
    return vit


@pytest.mark.parametrize("name", ["test_vit", "test_vit2"])  # the second has registers
@pytest.mark.parametrize(("patch", "grid"), [(16, 5), (8, 7), (14, 10)])
def test_the_model_takes_over_the_files_position_grid_and_patch(tmp_path, name, patch, grid):
    path = tmp_path / "weights"
    vit = save_tiny(path, name, patch_size=patch, img_size=patch * grid)
    model, rule, *_ = build(name, path)
    assert rule == "antialias"
    assert model.patch_embed.patch_size == (patch, patch)
    assert model.patch_embed.grid_size == (grid, grid)
    images = torch.rand(1, 3, 2 * patch, 3 * patch)
    assert torch.equal(model.eval().forward_features(images), vit.forward_features(images))


@pytest.mark.parametrize("patch", [14, 32])
def test_another_patch_is_made_as_timm_makes_it(tmp_path, patch):
    path = tmp_path / "weights"
    vit = save_tiny(path, img_size=80)
    theirs = make_tiny(patch_size=patch, img_size=5 * patch)
    filtered = timm.models.vision_transformer.checkpoint_filter_fn(vit.state_dict(), theirs)
    theirs.load_state_dict(filtered)
    backbone = build_backbone(
        BackboneConfig(name="test_vit", weights=str(path), patch=patch, levels=(0, 1, 2, 3))
    )
    images = torch.rand(1, 3, 5 * patch, 5 * patch)  # the grid is the weights' own
    inputs = (images - backbone.mean) / backbone.std
    expected = theirs.forward_intermediates(inputs, intermediates_only=True)
    assert backbone.patch == patch
    for ours, other in zip(backbone(images), expected, strict=False):
        assert torch.allclose(ours, other, atol=1e-5)


def test_pinv_keeps_what_a_resized_patch_says_and_bicubic_resizes_the_kernel(tmp_path):
    path = tmp_path / "weights"
    kernel = save_tiny(path).patch_embed.proj.weight
    made = {
        how: build("test_vit", path, patch=32, patch_resize=how)[0].patch_embed.proj
        for how in ("pinv", "bicubic")
    }
    patch = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    larger = nn.functional.interpolate(patch, scale_factor=2, mode="bicubic", antialias=True)
    before = (kernel * patch).sum((1, 2, 3))
    after = (made["pinv"].weight * larger).sum((1, 2, 3))
    assert torch.allclose(after, before, atol=1e-3)
    resized = nn.functional.interpolate(kernel, size=(32, 32), mode="bicubic")
    assert torch.equal(made["bicubic"].weight, resized)
    assert not torch.allclose((made["bicubic"].weight * larger).sum((1, 2, 3)), before, atol=1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("beit_base_patch16_224", {"depth": 1, "img_size": 48}),
        ("samvit_base_patch16", {"depth": 1, "img_size": 64}),
    ],
)
def test_other_layouts_take_over_the_files_grid_too(tmp_path, monkeypatch, name, options):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: create(*a, **k, depth=1))
    path = tmp_path / "weights"
    torch.manual_seed(0)
    model = create(name, num_classes=0, **options)
    save_file(model.state_dict(), path)
    loaded = build(name, path)[0]
    assert loaded.patch_embed.img_size == model.patch_embed.img_size
    state = loaded.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_model_without_patches_has_none_to_resize():
    with pytest.raises(ConfigError, match="patch = 16 has no effect on test_convnext"):
        build("test_convnext", "random", patch=16)


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet"])
def test_hierarchical_models_are_filled_and_lose_their_classifier(tmp_path, name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7)
    save_file(model.state_dict(), tmp_path / "weights")
    state = build(name, tmp_path / "weights")[0].state_dict()
    own = {key: value for key, value in model.state_dict().items() if key in state}
    assert own.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in own.items())


def test_zero_biases_that_a_model_lacks_are_left_out():
    options = {"depth": 1, "embed_dim": 48, "num_heads": 3, "num_classes": 0}
    model = timm.create_model("vit_small_patch16_dinov3", **options)
    state = model.state_dict() | {"blocks.0.attn.q_bias": torch.zeros(48)}
    place(model, state, "file")
    with pytest.raises(WeightsError, match=r"1 unexpected: blocks\.0\.attn\.q_bias"):
        place(model, state | {"blocks.0.attn.q_bias": torch.ones(48)}, "file")


def test_the_checksum_is_kept_and_another_file_refused(tmp_path):
    path = tmp_path / "weights"
    save_tiny(path)
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    assert build("test_vit", path).sha256 == checksum
    assert build("test_vit", path, sha256=checksum).sha256 == checksum
    save_tiny(path, seed=2)
    with pytest.raises(WeightsError, match=f"backbone.sha256 says {checksum}: give the"):
        build("test_vit", path, sha256=checksum)
    assert build("test_vit", "random").sha256 is None


def test_a_folder_with_the_hubs_file_is_read_like_the_file(tmp_path):
    vit = save_tiny(tmp_path / "model.safetensors")
    loaded = build("test_vit", tmp_path)[0]
    assert torch.equal(loaded.pos_embed, vit.pos_embed)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_the_file_of_a_plain_vit_is_refused_by_other_models(tmp_path, name):
    save_tiny(tmp_path / "weights")
    with pytest.raises(WeightsError, match="belong to another architecture"):
        build(name, tmp_path / "weights")


@pytest.mark.parametrize("shape", [(), (64, 768), (64, 3, 0, 0), (64, 3, 16, 8)])
def test_a_patch_embedding_of_an_odd_shape_is_named(tmp_path, shape):
    state = make_tiny().state_dict() | {"patch_embed.proj.weight": torch.zeros(shape)}
    save_file(state, tmp_path / "weights")
    with pytest.raises(WeightsError, match=r"patch_embed\.proj\.weight has the shape"):
        build("test_vit", tmp_path / "weights", patch=14)
