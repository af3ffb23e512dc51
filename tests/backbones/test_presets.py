import io
import json
import re
import socket
import sys

import huggingface_hub
import pytest
import timm
import torch
from rich.console import Console

from causalseg import cli
from causalseg.backbones.presets import MODULES, PRESETS, resolve_name
from causalseg.backbones.weights import wheel
from causalseg.errors import ConfigError
from causalseg.jobs.backbones import CatalogueRow, find_presets, list_backbones, make_table

FIELD = """
dinov2_vits14 dinov2_vitb14 dinov2_vitl14 dinov2_vitg14
dinov2_vits14_reg dinov2_vitb14_reg dinov2_vitl14_reg dinov2_vitg14_reg
dinov3_vits16 dinov3_vitsplus16 dinov3_vitb16 dinov3_vitl16 dinov3_vithplus16
dinov3_convnext_tiny dinov3_convnext_small dinov3_convnext_base dinov3_convnext_large
eva02_base14 eva02_large14 eva02_clip_base16 eva02_clip_large14 eva02_clip_large14_336
clip_vitb16_openai clip_vitl14_openai clip_vitl14_336_openai
clip_vitb16_laion2b clip_vitl14_laion2b clip_vith14_laion2b
clip_vitb16_dfn clip_vitl14_dfn clip_vith14_dfn
siglip_vitb16 siglip_vitl16 siglip_vitso400m14
siglip2_vitb16 siglip2_vitl16 siglip2_vitso400m14 siglip2_vitso400m16
sam_vitb sam_vitl sam_vith
mae_vitb16 mae_vitl16 mae_vith14
beit_vitb16 beit_vitl16 beitv2_vitb16 beitv2_vitl16
supervised_vits16 supervised_vitb16 supervised_vitl16
convnext_tiny convnext_small convnext_base convnext_large
convnextv2_tiny convnextv2_base convnextv2_large
resnet50 resnet101
"""
NAMES = FIELD.split()
WIDTHS = {
    "s": 384,
    "splus": 384,
    "b": 768,
    "base": 768,
    "l": 1024,
    "large": 1024,
    "so400m": 1152,
    "h": 1280,
    "hplus": 1280,
    "g": 1536,
}
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


def command(monkeypatch, *arguments):
    """Run `causalseg backbones`; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["causalseg", "backbones", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code


def lines_of(rows, width=100):
    file = io.StringIO()
    Console(file=file, width=width).print(make_table(rows))
    return file.getvalue().splitlines()


def sizes_in_the_name(name):
    """The width and the patch that a preset's name tells; None where it tells none."""
    vit = re.search(r"(?:_vit|_)(splus|hplus|so400m|base|large|[sblhg])(14|16)?(?:_|$)", name)
    if "convnext" in name or vit is None:
        return None, None
    return WIDTHS[vit[1]], int(vit[2] or 16)


def test_every_family_of_the_field_has_its_presets():
    assert sorted(PRESETS) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_names_a_model_its_weights_and_where_they_are(name):
    preset = PRESETS[name]
    assert resolve_name(name) == preset.timm_name
    architecture, _, tag = preset.timm_name.partition(".")
    assert tag
    assert preset.timm_name in timm.list_models(f"{architecture}.*", pretrained=True)
    assert timm.models.is_model_in_modules(architecture, MODULES)
    # A quickgelu model has no weights of its own.
    assert preset.repository == f"timm/{preset.timm_name.replace('_quickgelu', '')}"
    assert resolve_name(preset.timm_name) == preset.timm_name


def test_the_names_patch_is_timms():
    for name, preset in PRESETS.items():
        _, patch = sizes_in_the_name(name)
        assert patch is None or f"_patch{patch}_" in preset.timm_name.replace(".", "_")
        assert ("_336" in name) == ("_336" in preset.timm_name)
        assert name.endswith("_reg") == ("_reg4_" in preset.timm_name)


@pytest.mark.parametrize("name", NAMES)
def test_weights_trained_with_quickgelu_get_a_quickgelu_model(name):
    notes = " ".join(timm.get_pretrained_cfg(PRESETS[name].timm_name).notes or ())
    assert ("natively QuickGELU" in notes) == ("_quickgelu_" in PRESETS[name].timm_name)


@pytest.mark.parametrize("name", NAMES)
def test_the_licence_is_timms_note_or_the_authors_own(name):
    noted = TIMM_LICENSES[timm.get_pretrained_cfg(PRESETS[name].timm_name).license]
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


def test_a_name_that_is_a_presets_and_timms_is_the_presets():
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
    assert f"backbone {name!r} is neither a preset nor" in str(error.value)
    assert "`causalseg backbones`" in str(error.value)
    assert all(module in str(error.value) for module in MODULES)


@pytest.mark.parametrize("name", ["dinov2_vits14", "resnet50"])
def test_sizes_are_those_of_the_model(name, empty_machine):
    model = timm.create_model(PRESETS[name].timm_name, num_classes=0)
    [row] = list_backbones([name])
    assert row.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (row.timm_name, row.repository) == (PRESETS[name].timm_name, PRESETS[name].repository)


def test_a_vit_has_one_patch_and_a_hierarchy_four_strides(empty_machine):
    vit, sam, beit, eva, convnext = list_backbones(
        ["siglip_vitso400m14", "sam_vitb", "beit_vitb16", "dinov3_vits16", "convnext_base"]
    )
    assert (vit.strides, vit.widths, vit.blocks) == ((14,), (1152,), 27)
    assert (sam.strides, sam.widths, sam.blocks) == ((16,), (768,), 12)
    assert (beit.strides, beit.widths, beit.blocks) == ((16,), (768,), 12)
    assert (eva.strides, eva.widths, eva.blocks) == ((16,), (384,), 12)
    assert (convnext.strides, convnext.blocks) == ((4, 8, 16, 32), 4)
    assert convnext.widths == (128, 256, 512, 1024)


def test_reading_sizes_leaves_random_numbers_and_new_models_alone(empty_machine):
    state = torch.get_rng_state()
    list_backbones(["dinov2_vits14"])
    assert torch.equal(torch.get_rng_state(), state)
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


def test_every_row_is_one_line_of_at_most_100_columns():
    rows = [
        CatalogueRow(
            name=name,
            timm_name=preset.timm_name,
            parameters=1_136_000_000,
            strides=(4, 8, 16, 32),
            widths=(256, 512, 1024, 2048),
            blocks=40,
            license=preset.license,
            repository=preset.repository,
            is_here=True,
        )
        for name, preset in PRESETS.items()
    ]
    lines = lines_of(rows)
    assert max(map(len, lines)) <= 100
    for row in rows:
        [line] = [line for line in lines if line.startswith(f"{row.name} ")]
        end = row.repository.removeprefix("timm/")
        assert line.split()[1:] == ["1136", "4-32", "256-2048", "40", "yes", end]


def test_licences_are_headings_over_their_rows(empty_machine):
    lines = lines_of(list_backbones(["dinov2_vits14", "dinov3_vits16", "dinov3_vitsplus16"]))
    first = [line.strip() if line.count("  ") > 30 else line.split()[0] for line in lines[1:6]]
    assert first == [
        "Apache-2.0",
        "dinov2_vits14",
        "DINOv3 License",
        "dinov3_vits16",
        "dinov3_vitsplus16",
    ]


def test_the_command_prints_a_table_or_json(empty_machine, monkeypatch, capsys):
    assert command(monkeypatch, "dinov3_vits") == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    assert "dinov3_vits16 " in shown
    assert "vit_small_plus_patch16_dinov3_qkvb.lvd1689m" in shown
    assert "vitb16" not in shown
    assert command(monkeypatch, "dinov3_vits", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["dinov3_vits16", "dinov3_vitsplus16"]
    assert rows[0]["license"] == "DINOv3 License"
    assert rows[0]["is_here"] is False


def test_the_command_names_what_there_is(monkeypatch, capsys):
    assert command(monkeypatch, "dinov4") == 2
    assert "did you mean 'dinov" in capsys.readouterr().err


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
