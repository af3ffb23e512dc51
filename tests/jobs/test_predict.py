"""Prediction of folders: subfolders, broken images, what an earlier call did, broken weights."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import causalseg
from causalseg.engine.prediction import Prediction
from causalseg.errors import DataError, MissingFileError, TrainingError
from causalseg.jobs import predict as job
from causalseg.jobs.predict import predict_run
from causalseg.jobs.train import train_run
from command_line import run as command


@pytest.fixture
def run(tiny):
    return train_run(tiny("train.steps=1", "adapter=none")).path


@pytest.fixture
def images(folder, tmp_path):
    """Images in a folder and in two folders below it, of which two share a name."""
    root = tmp_path / "photos"
    for place in (".", "north", "south/old"):
        (root / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "images" / "000.png", root / place / "a.png")
    return root


def made(out, kind="predictions"):
    return sorted(str(file.relative_to(out / kind)) for file in (out / kind).rglob("*.png"))


def test_subfolders_are_predicted_into_the_same_tree(run, images, tmp_path):
    assert predict_run(run, images, tmp_path / "out") == (3, 0)
    expected = ["a.png", "north/a.png", "south/old/a.png"]
    assert made(tmp_path / "out") == made(tmp_path / "out", "overlays") == expected
    assert predict_run(run, images, tmp_path / "top", is_recursive=False) == (1, 0)
    assert made(tmp_path / "top") == ["a.png"]
    assert predict_run(run, images, images) == (3, 0)  # into the folder of the images ...
    assert predict_run(run, images, images) == (0, 3)  # ... where predictions are no images
    with pytest.raises(DataError, match="north has no images|has no images"):
        predict_run(run, images / "south", tmp_path / "none", is_recursive=False)


def test_a_broken_image_is_skipped_and_named_at_the_end(run, images, tmp_path):
    (images / "north" / "a.png").write_bytes(b"broken")
    (images / "north" / "b.png").write_bytes(b"also broken")
    with pytest.raises(DataError, match="2 of 4 images") as caught:
        predict_run(run, images, tmp_path / "out")
    assert all(f"north/{name}.png" in str(caught.value) for name in "ab")
    assert made(tmp_path / "out") == ["a.png", "south/old/a.png"]


def test_of_fifty_images_the_whole_ones_are_predicted_once_in_spite_of_a_kill(
    run, folder, tmp_path, monkeypatch, capsys
):
    photos, out, seen = tmp_path / "photos", tmp_path / "out", []
    photos.mkdir()
    for i in range(50):
        shutil.copy(folder / "images" / "000.png", photos / f"{i:02}.png")
    broken = ["07.png", "20.png", "49.png"]
    for name in broken:
        (photos / name).write_bytes((photos / name).read_bytes()[:60])
    save = Prediction.save

    def save_until_killed(self, place, name, kinds):
        if len(seen) == 30:
            seen.append("killed")
            raise KeyboardInterrupt
        seen.append(name)
        return save(self, place, name, kinds)

    monkeypatch.setattr(Prediction, "save", save_until_killed)
    with pytest.raises(KeyboardInterrupt):
        predict_run(run, photos, out)
    assert command("predict", run, photos, "--out", out) == 2
    told = capsys.readouterr().err
    assert "3 of 50 images were not predicted" in told
    assert all(name in told for name in broken)
    seen.remove("killed")
    assert len(seen) == len(set(seen)) == len(made(out)) == 47
    assert command("predict", run, photos, "--out", out) == 2
    assert len(seen) == 47


def test_a_second_call_predicts_only_what_is_new_or_changed(run, images, tmp_path, monkeypatch):
    out, read = tmp_path / "out", []
    original = job.decode_image

    def count(content, where, how):
        read.append(where)
        return original(content, where, how)

    monkeypatch.setattr(job, "decode_image", count)
    assert predict_run(run, images, out) == (3, 0)
    assert predict_run(run, images, out) == (0, 3)
    assert len(read) == 3
    shutil.copy2(images / "a.png", images / "new.png")
    (out / "overlays" / "a.png").unlink()
    assert predict_run(run, images, out) == (2, 2)
    assert predict_run(run, images, out, ["eval.flip=true"]) == (4, 0)  # other options
    (run / "head.safetensors").touch()  # other weights
    assert predict_run(run, images, out, ["eval.flip=true"]) == (4, 0)


def test_options_of_the_backbone_reach_every_run(run, images, tmp_path, tiny):
    other = train_run(tiny("train.steps=1", "adapter=none", f"run.out={tmp_path / 'other'}")).path
    repaired = ["backbone.repair=shift_average"]
    model = job.open_model([run, other], repaired, "last")
    assert [each.backbone.repair for each in model.models] == ["shift_average"] * 2
    plain = causalseg.load(run)
    assert plain.models[0].backbone.repair == "none"
    scores = [causalseg.load(run, overrides=o).predict(images / "a.png") for o in ((), repaired)]
    assert abs(scores[0].confidence - scores[1].confidence).max() > 1e-3
    out = tmp_path / "out"
    assert predict_run(run, images, out, kinds=["confidence"]) == (3, 0)
    before = (out / "confidence" / "a.png").read_bytes()
    assert predict_run(run, images, out, repaired, kinds=["confidence"]) == (3, 0)
    assert predict_run(run, images, out, repaired, kinds=["confidence"]) == (0, 3)
    assert (out / "confidence" / "a.png").read_bytes() != before


def test_other_images_of_the_same_names_are_predicted(run, images, tmp_path):
    other, out = shutil.copytree(images, tmp_path / "other"), tmp_path / "out"
    assert predict_run(run, images, out) == (3, 0)
    assert predict_run(run, other, out) == (3, 0)


def test_weights_that_are_not_finite_are_refused(run, images, tmp_path):
    file = run / "head.safetensors"
    weights = load_file(file)
    weights["classifier.bias"] = torch.full_like(weights["classifier.bias"], torch.nan)
    save_file(weights, file)
    (run / "checksums.json").unlink()
    with pytest.raises(TrainingError, match="not finite"):
        predict_run(run, images, tmp_path / "out")
    assert not (tmp_path / "out" / "predictions").exists()


def test_a_path_that_is_not_there_is_named_before_anything_else(tmp_path, capsys):
    assert command("predict", tmp_path, tmp_path / "typo", "--out", tmp_path / "out") == 2
    assert "typo does not exist" in capsys.readouterr().err


def test_images_that_are_not_there_are_named(run, tmp_path):
    with pytest.raises(MissingFileError, match="typo"):
        predict_run(run, Path("typo"), tmp_path / "out")


def test_patterns_and_zip_files_are_predicted_by_their_paths(run, images, tmp_path):
    assert predict_run(run, f"{images}/*/*.png", tmp_path / "glob") == (1, 0)
    assert predict_run(run, f"{images}/**/*.png", tmp_path / "deep") == (3, 0)
    assert made(tmp_path / "deep") == ["a.png", "north/a.png", "south/old/a.png"]
    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", images)
    assert predict_run(run, archive, tmp_path / "zip") == (3, 0)
    assert made(tmp_path / "zip") == made(tmp_path / "deep")
    assert predict_run(run, archive, tmp_path / "zip") == (0, 3)
    for name in made(tmp_path / "zip"):
        one, other = (tmp_path / kind / "predictions" / name for kind in ("zip", "deep"))
        assert one.read_bytes() == other.read_bytes()
    with pytest.raises(DataError, match=r"\*\.bmp has no images"):
        predict_run(run, f"{images}/*.bmp", tmp_path / "none")
    shutil.copy(images / "a.png", images / "a.jpg")
    with pytest.raises(DataError, match="have one name"):
        predict_run(run, f"{images}/*", tmp_path / "twice")


def test_what_is_asked_for_is_written_and_other_runs_are_averaged(run, images, tmp_path, tiny):
    other = train_run(tiny("train.steps=1", "run.seed=1", f"run.out={tmp_path / 'other'}")).path
    kinds = ["--write", "confidence,shares"]
    assert command("predict", run, images, "--also", other, *kinds, "--out", tmp_path / "out") == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "confidence",
        "predict.json",
        "shares",
    ]
    assert made(tmp_path / "out", "confidence") == ["a.png", "north/a.png", "south/old/a.png"]
    alone = ["predict", run, images, "--write", "confidence", "--out", tmp_path / "alone"]
    assert command(*alone) == 0
    one, two = (tmp_path / each / "confidence" / "a.png" for each in ("out", "alone"))
    assert one.read_bytes() != two.read_bytes()
    assert command("predict", run, images, "--write", "masks", "--out", tmp_path / "x") == 2
    assert not (tmp_path / "x").exists()
