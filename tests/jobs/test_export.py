"""Exported files give what the model gives, for every head and adapter; others are not kept."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import causalseg
from causalseg.build.window import WindowModel
from causalseg.errors import ConfigError, RunError
from causalseg.heads.gathering import attend_by_gathers, stock
from causalseg.jobs.bench import bench_run
from causalseg.jobs.export import export_run
from causalseg.jobs.export.formats import FORMATS
from causalseg.jobs.train import train_run
from causalseg.runs.packed import pack_run
from command_line import run as command

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_predict.py"
SMALL = "{name: mask2former, hidden: 32, num_queries: 5, encoder_layers: 1, decoder_layers: 2, "
SMALL += "feedforward: 32, num_points: 64}"
QUERIES = "{name: queries, num_queries: 5, num_points: 64}"
LORA = "{name: lora, rank: 2, alpha: 4, targets: all}"
TUNE = "{name: causal_tune, num_tokens: 5, rank: 2}"
LEARN = ("train.steps=2", "train.lr=0.05")


@pytest.fixture
def run(tiny):
    return train_run(tiny(*LEARN))


@pytest.mark.slow
@pytest.mark.parametrize("head", ["linear", QUERIES, SMALL])
@pytest.mark.parametrize("adapter", ["none", TUNE, LORA, "soma", f"[{TUNE}, {LORA}]"])
def test_onnx_and_openvino_equal_the_model(tiny, folder, tmp_path, head, adapter):
    run = train_run(tiny(*LEARN, f"head={head}", f"adapter={adapter}"))
    for format, ending in (("onnx", "onnx"), ("openvino", "xml")):
        made = export_run(run.path, format, (64, 96), tmp_path / f"x.{ending}")
        assert made.equal >= 0.999
        assert made.difference < 1e-3
    kinds = {node.op_type for node in onnx.load(tmp_path / "x.onnx").graph.node}
    assert "GridSample" not in kinds  # runtimes differ in it


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["beit_base_patch16_224", "eva02_tiny_patch14_224", "convnext_atto"]
)
def test_other_backbones_are_exported_too(tiny, tmp_path, name):
    sizes = {"beit_base_patch16_224": (32, 48), "eva02_tiny_patch14_224": (28, 42)}
    size = sizes.get(name, (32, 64))
    options = [f"backbone.name={name}", f"train.crop=[{size[0]},{size[1]}]", "train.steps=1"]
    run = train_run(tiny(*options, "adapter=none"))
    assert export_run(run.path, "onnx", size, tmp_path / "x.onnx").equal >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("repair", ["shift_average", "defect"])
def test_a_repaired_backbone_is_exported_with_its_repair(tiny, tmp_path, repair):
    run = train_run(tiny(*LEARN, f"backbone.repair={repair}"))
    for format, ending in (("onnx", "onnx"), ("openvino", "xml"), ("torch", "pt2")):
        made = export_run(run.path, format, (96, 128), tmp_path / f"x.{ending}")
        assert made.equal >= 0.999
        assert made.difference < 1e-3


def test_a_file_knows_its_classes_and_how_near_it_is(run, tmp_path):
    pack_run(run, str(tmp_path / "x.zip"))
    images = str(shutil.copytree(run.path.parent / "data" / "images", tmp_path / "photos"))
    made = export_run(tmp_path / "x.zip", "torch", (32, 48), tmp_path / "x.pt2", images=images)
    assert made.images == 3
    assert made.equal == 1
    about = json.loads((tmp_path / "x.pt2.json").read_text())
    assert about["classes"] == ["flat", "thing", "sky"]
    assert about["equal_pixels"] == 1


def test_the_window_model_is_the_model_at_its_size(run):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), dtype=np.uint8)
    window = WindowModel(causalseg.load_segmenter(run.path), (32, 48))
    labels, confidence = window(torch.from_numpy(pixels))
    planes = torch.from_numpy(pixels).movedim(-1, 1).float() / 255
    expected = causalseg.load_segmenter(run.path).logits(planes)
    assert torch.equal(labels.long(), expected.argmax(1))
    assert torch.allclose(confidence, expected.softmax(1).amax(1), atol=1e-5)


def test_a_file_that_computes_something_else_is_not_kept(run, tmp_path, monkeypatch):
    torch_file = FORMATS["torch"]

    def write(order, file):
        order.model.model.head.classifier.bias.data[0] += 100
        torch_file.write(order, file)
        order.model.model.head.classifier.bias.data[0] -= 100

    monkeypatch.setitem(FORMATS, "torch", torch_file._replace(write=write))
    with pytest.raises(RunError, match="nothing was written"):
        export_run(run.path, "torch", (32, 48), tmp_path / "x.pt2")
    assert not list(tmp_path.glob("x.*"))


def test_mistakes_are_named(run, tmp_path, capsys):
    out = tmp_path / "x.onnx"
    assert command("export", run.path, "--size", "30", "48", "--out", out) == 2
    assert "the nearest is 32 48" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"ends in \.xml"):
        export_run(run.path, "openvino", (32, 48), out)
    with pytest.raises(ConfigError, match="did you mean 'onnx'"):
        export_run(run.path, "onxx", (32, 48), out)
    with pytest.raises(ConfigError, match="name a folder"):
        export_run(run.path, "triton", (32, 48), Path("/"))
    with pytest.raises(ConfigError, match="name a folder"):
        export_run(run.path, "triton", (32, 48), out)
    with pytest.raises(ConfigError, match="take onnx or openvino"):
        export_run(run.path, "torch", (32, 48), tmp_path / "x.pt2", precision="float16")
    assert not list(tmp_path.glob("x.*"))


def test_gathers_sample_what_the_head_samples_also_outside_of_the_grid():
    torch.manual_seed(0)
    shapes, value = [(5, 7), (3, 4)], torch.randn(2, 47, 3, 8, dtype=torch.float64)
    places = 1.6 * torch.rand(2, 11, 3, 2, 4, 2, dtype=torch.float64) - 0.3
    weights = torch.rand(2, 11, 3, 2, 4, dtype=torch.float64)
    expected = stock.multi_scale_deformable_attention(value, shapes, places, weights)
    assert torch.allclose(attend_by_gathers(value, shapes, places, weights), expected, atol=1e-12)


@pytest.mark.slow
def test_int8_is_scored_on_every_domain_and_may_not_lose_more_than_stated(tiny, tmp_path):
    run = train_run(tiny(*LEARN, f"adapter={LORA}"))

    def export(out, format, most):  # by a process of its own: nncf changes torch when imported
        options = ["--format", format, "--size", "32", "48", "--precision", "int8", "--out", out]
        line = [sys.executable, "-m", "causalseg", "export", run.path, *options, "--max-loss", most]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    for format, ending in (("onnx", "onnx"), ("openvino", "xml")):
        out = tmp_path / f"x.{ending}"
        done = export(out, format, "100")
        assert done.returncode == 0, done.stderr
        about = json.loads(out.with_name(f"{out.name}.json").read_text())
        assert about["precision"] == "int8"
        assert set(about["miou_of_model_and_file"]) == {"here", "there"}
        assert about["equal_pixels"] > 0.9
        assert 0 < about["largest_difference_of_confidence"] < 0.2
        assert "there: mIoU" in done.stdout
    done = export(tmp_path / "y.onnx", "onnx", "-100")
    assert done.returncode == 2
    assert "int8 loses more than -100 points" in done.stderr
    assert not list(tmp_path.glob("y.*"))
    kinds = {node.op_type for node in onnx.load(tmp_path / "x.onnx").graph.node}
    assert "QuantizeLinear" in kinds


@pytest.mark.slow
def test_float16_halves_the_file_and_equals_the_model(run, tmp_path):
    for format, ending, weights in (("onnx", "onnx", "onnx"), ("openvino", "xml", "bin")):
        files = [tmp_path / f"{name}.{ending}" for name in ("whole", "half")]
        export_run(run.path, format, (32, 48), files[0])
        assert export_run(run.path, format, (32, 48), files[1], precision="float16").equal > 0.999
        sizes = [file.with_suffix(f".{weights}").stat().st_size for file in files]
        assert sizes[1] < 0.75 * sizes[0]


@pytest.mark.slow
def test_recipes_for_tensorrt_and_triton(run, tmp_path):
    export_run(run.path, "tensorrt-recipe", (32, 48), tmp_path / "x.sh")
    subprocess.run(["sh", "-n", tmp_path / "x.sh"], check=True)
    assert (tmp_path / "x.sh").stat().st_mode & 0o111
    text = (tmp_path / "x.sh").read_text()
    assert "--onnx=x.onnx" in text
    assert "--maxShapes=images:8x32x48x3" in text
    export_run(run.path, "triton", (32, 48), tmp_path / "repository" / "roads")
    folder = tmp_path / "repository" / "roads"
    assert 'name: "roads"' in (folder / "config.pbtxt").read_text()
    for file in (tmp_path / "x.onnx", folder / "1" / "model.onnx"):
        session = onnxruntime.InferenceSession(str(file))
        labels, _ = session.run(None, {"images": np.zeros((8, 32, 48, 3), np.uint8)})
        assert labels.shape == (8, 32, 48)
    assert json.loads((folder / "about.json").read_text())["classes"] == ["flat", "thing", "sky"]


@pytest.mark.slow
def test_the_example_predicts_an_image_of_another_size_without_torch(run, tmp_path, monkeypatch):
    export_run(run.path, "onnx", (32, 48), tmp_path / "x.onnx")
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    for name, pixels in (("one", image), ("wide", np.tile(image, (3, 2, 1))[:70, :90])):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        arguments = ["x", str(tmp_path / "x.onnx"), str(tmp_path / f"{name}.png")]
        monkeypatch.setattr(sys, "argv", [*arguments, str(tmp_path / f"{name}_out.png")])
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    one, wide = (np.array(Image.open(tmp_path / f"{name}_out.png")) for name in ("one", "wide"))
    alone = runpy.run_path(str(EXAMPLE))["starts"]
    assert (alone(48, 48), alone(90, 48), alone(30, 48)) == ([0], [0, 21, 42], [0])
    assert np.array_equal(one, causalseg.load(run.path).predict(image).labels)
    assert wide.shape == (70, 90)
    last = causalseg.load(run.path).predict(np.tile(image, (3, 2, 1))[38:70, 42:90])
    assert np.array_equal(wide[-10:, -10:], last.labels[-10:, -10:])  # of no other window


@pytest.mark.slow
def test_bench_times_every_backend_on_the_same_images(run):
    files = (("onnx", "float32"), ("openvino", "float32"), ("openvino", "float16"))
    rows = bench_run(run.path, (32, 48), "here", count=3, files=files)
    kinds = [(row.backend, row.precision) for row in rows]
    assert kinds == [
        ("torch", "float32"),
        ("torch", "bf16"),
        ("onnx", "float32"),
        ("openvino", "float32"),
        ("openvino", "float16"),
    ]
    assert rows[0].ratio == 1
    assert all(row.milliseconds > 0 for row in rows)
    assert rows[2].miou == pytest.approx(rows[0].miou, abs=0.5)
    with pytest.raises(ConfigError, match="the run has here, there"):
        bench_run(run.path, (32, 48), "nowhere")
