import json
import re
import socket

import huggingface_hub
import pytest
import timm
import torch

from causalseg.backbones.presets import MODULES, PRESETS, resolve_name
from causalseg.backbones.weights import wheel
from causalseg.errors import ConfigError
from causalseg.jobs.backbones import find_presets, list_backbones
from command_line import run

WIDTHS = {"s": 384, "splus": 384, "b": 768, "base": 768, "l": 1024, "large": 1024}
WIDTHS |= {"so400m": 1152, "h": 1280, "hplus": 1280, "g": 1536}
TIMM_LICENSES = {  # as timm notes them -> as the authors give them
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "dinov3-license": "DINOv3 License",
    "apple-ascl": "Apple AMLR",
    "bsd-3-clause": "BSD-3-Clause",
}
MIT_WHERE_TIMM_NOTES_APACHE = ("clip_", "beit", "convnext_")


def fake_cache(folder, repository, name="model.safetensors"):
    root = folder / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("abc")
    (root / "snapshots" / "abc").mkdir(parents=True)
    (root / "snapshots" / "abc" / name).touch()


@pytest.fixture
def empty_machine(monkeypatch, tmp_path):
    """No wheel, an empty cache, no network; returns the cache."""

    def refuse(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(wheel, "_NAME", "no-such-distribution")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path


def sizes_in_the_name(name):
    """Return the width and the patch in the name of a preset, or None."""
    vit = re.search(r"(?:_vit|_)(splus|hplus|so400m|base|large|[sblhg])(14|16)?(?:_|$)", name)
    if "convnext" in name or vit is None:
        return None, None
    return WIDTHS[vit[1]], int(vit[2] or 16)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_a_model_its_weights_and_where_they_are(name):
    preset = PRESETS[name]
    assert resolve_name(name) == preset.timm_name
    assert resolve_name(preset.timm_name) == preset.timm_name
    architecture, _, tag = preset.timm_name.partition(".")
    assert tag
    assert preset.timm_name in timm.list_models(f"{architecture}.*", pretrained=True)
    assert timm.models.is_model_in_modules(architecture, MODULES)
    assert preset.repository == f"timm/{preset.timm_name.replace('_quickgelu', '')}"
    assert ("_336" in name) == ("_336" in preset.timm_name)
    assert name.endswith("_reg") == ("_reg4_" in preset.timm_name)


@pytest.mark.parametrize("name", PRESETS)
def test_activation_and_licence_are_as_timm_notes_them_or_the_authors(name):
    config = timm.get_pretrained_cfg(PRESETS[name].timm_name)
    uses_quickgelu = "natively QuickGELU" in " ".join(config.notes or ())
    assert uses_quickgelu == ("_quickgelu_" in PRESETS[name].timm_name)
    noted = TIMM_LICENSES[config.license]
    is_other = name.startswith(MIT_WHERE_TIMM_NOTES_APACHE) and noted == "Apache-2.0"
    assert PRESETS[name].license == ("MIT" if is_other else noted)


def test_no_two_presets_are_the_same():
    assert len({preset.timm_name for preset in PRESETS.values()}) == len(PRESETS)


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "vit_small_patch14_dinov2.lvd142m",
        "vit_7b_patch16_dinov3.sat493m",
        "beit_large_patch16_512",
        "samvit_base_patch16_224",
        "convnext_xlarge.fb_in22k",
        "resnet50.a1_in1k",
    ],
)
def test_timm_names_are_taken_as_they_are(name):
    assert resolve_name(name) == name


def test_a_name_of_a_preset_and_of_timm_is_the_preset():
    assert resolve_name("resnet50") == "resnet50.tv_in1k"
    assert timm.get_pretrained_cfg("resnet50").tag != "tv_in1k"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("dinov2_vits", "dinov2_vits14"),
        ("dinov3_vits16plus", "dinov3_vitsplus16"),
        ("vit_small_patch14_dinv2", "vit_small_patch14_dinov2"),
        ("vit_small_patch14_dinov2.lvd14m", "vit_small_patch14_dinov2.lvd142m"),
    ],
)
def test_an_unknown_name_gets_a_suggestion(name, meant):
    with pytest.raises(ConfigError, match=re.escape(f"did you mean '{meant}'?")):
        resolve_name(name)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "efficientnet_b0", "?"])
def test_other_models_are_refused_with_the_modules_that_are_allowed(name):
    with pytest.raises(ConfigError) as error:
        resolve_name(name)
    assert all(part in str(error.value) for part in (name, "`causalseg backbones`", *MODULES))


def test_a_vit_has_one_patch_and_a_hierarchical_model_four_strides(empty_machine):
    sizes = {
        "siglip_vitso400m14": ((14,), (1152,), 27),
        "sam_vitb": ((16,), (768,), 12),
        "beit_vitb16": ((16,), (768,), 12),
        "dinov3_vits16": ((16,), (384,), 12),
        "convnext_base": ((4, 8, 16, 32), (128, 256, 512, 1024), 4),
    }
    rows = list_backbones(sizes)
    assert [(row.strides, row.widths, row.blocks) for row in rows] == list(sizes.values())


def test_sizes_are_those_of_the_model_and_reading_them_has_no_side_effects(empty_machine):
    state = torch.get_rng_state()
    [row] = list_backbones(["dinov2_vits14"])
    assert torch.equal(torch.get_rng_state(), state)
    model = timm.create_model(PRESETS["dinov2_vits14"].timm_name, num_classes=0)
    assert row.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert torch.nn.Linear(2, 2).weight.device.type == "cpu"
    assert torch.zeros(1).add_(1) == 1


def test_weights_in_the_cache_are_here_and_others_are_not(empty_machine):
    fake_cache(empty_machine, PRESETS["supervised_vits16"].repository)
    fake_cache(empty_machine, PRESETS["dinov3_vits16"].repository, "README.md")
    rows = list_backbones(["supervised_vits16", "dinov3_vits16", "dinov2_vits14"])
    assert [row.is_here for row in rows] == [True, False, False]


@pytest.mark.parametrize(("version", "is_here"), [("0.1.1", True), ("0.1.2", False)])
def test_the_wheel_of_the_right_version_counts_for_its_model(
    version, is_here, empty_machine, monkeypatch
):
    monkeypatch.setattr(wheel.importlib.metadata, "version", lambda _name: version)
    rows = list_backbones(["dinov2_vits14", "dinov2_vits14_reg"])
    assert [row.is_here for row in rows] == [is_here, False]


def test_presets_are_found_by_a_part_of_their_name():
    assert find_presets() == list(PRESETS)
    assert find_presets("dinov3_vit") == [name for name in PRESETS if name.startswith("dinov3_vit")]
    with pytest.raises(ConfigError, match=r"'dinov4'.*did you mean 'dinov"):
        find_presets("dinov4")


def test_the_command_prints_a_table_or_json(empty_machine, capsys):
    assert run("backbones", "dinov3_vits") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines[2:4]] == ["dinov3_vits16", "dinov3_vitsplus16"]
    assert "vit_small_plus_patch16_dinov3_qkvb.lvd1689m" in lines[3]
    assert run("backbones", "dinov3_vits", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["dinov3_vits16", "dinov3_vitsplus16"]
    assert (rows[0]["license"], rows[0]["is_here"]) == ("DINOv3 License", False)


@pytest.mark.slow
def test_all_models_have_the_sizes_of_their_names(empty_machine):
    for row in list_backbones():
        width, patch = sizes_in_the_name(row.name)
        if width is None:
            assert row.strides == (4, 8, 16, 32)
            assert len(row.widths) == row.blocks == 4
        else:
            assert (row.widths, row.strides) == ((width,), (patch,))
        assert 20e6 < row.parameters < 1.2e9
        assert not row.is_here
