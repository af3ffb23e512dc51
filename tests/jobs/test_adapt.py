"""Adapted runs: folders like others, the same model at gains of 0, marked wherever scored."""

import inspect
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

import causalseg
from causalseg.adapters.band_gains import BandGains
from causalseg.build.model import load_run
from causalseg.cli.predict import adapt
from causalseg.config.adapt import AdaptConfig
from causalseg.errors import DataError, MissingFileError, RunError
from causalseg.jobs.adapt import adapt_run
from causalseg.jobs.soup import make_soup
from causalseg.jobs.train import train_run
from causalseg.report.gain import find_gain
from causalseg.report.result import collect_result
from causalseg.runs.folder import RunFolder
from causalseg.runs.packed import pack_run
from causalseg.runs.scores import ADAPTED
from command_line import run as command
from conftest import SMALL_MASK2FORMER

FEW = AdaptConfig(steps=2, lr=0.1, batch=2)


@pytest.fixture
def run(tiny):
    return train_run(tiny("train.steps=1"))


@pytest.fixture
def adapted(run, folder, tmp_path):
    return adapt_run(run.path, folder / "images", tmp_path / "adapted", FEW).run


def logits(path):
    images = torch.rand(1, 3, 32, 80, generator=torch.Generator().manual_seed(0))
    return load_run(path).logits(images)


def test_gains_of_0_are_the_old_model_and_others_another(run, adapted):
    assert not torch.equal(logits(run.path), logits(adapted.path))
    BandGains(load_run(run.path).backbone.depth).save(adapted.gains)
    adapted.checksums.unlink()
    assert torch.equal(logits(run.path), logits(adapted.path))


def test_an_adapted_run_has_the_old_weights_and_its_gains(run, adapted, folder):
    for name in ("adapter", "head"):
        ours, theirs = (load_file(each.path / f"{name}.safetensors") for each in (adapted, run))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    model = load_run(adapted.path)
    assert model.band_gains.values.shape == (6, 3)
    assert not model.band_gains.values.requires_grad
    about = json.loads(adapted.origin.read_text())["adapted"]
    assert about["run"] == str(run.path)
    assert (about["images"], about["count"]) == (str(folder / "images"), 3)
    assert (about["steps"], about["lr"], about["gains"]) == (2, 0.1, 18)
    assert list(about["losses"]) == ["2"]


def test_adapting_is_reproducible_and_starts_anew_for_every_folder(run, adapted, folder, tmp_path):
    again = adapt_run(run.path, folder / "images", tmp_path / "again", FEW).run
    assert torch.equal(logits(again.path), logits(adapted.path))
    with pytest.raises(RunError, match="is adapted already"):
        adapt_run(adapted.path, folder / "images", tmp_path / "third", FEW)
    assert not (tmp_path / "third").exists()


def test_eval_and_reports_of_an_adapted_run_are_marked(run, adapted, capsys):
    assert command("eval", adapted.path) == 0
    assert ADAPTED in " ".join(capsys.readouterr().out.split())
    scores = json.loads(adapted.eval.read_text())
    assert scores["checkpoint"] == {"name": "last", "adapted": True}
    assert scores["model"]["adapter"] == "causal_tune + test-time adaptation"
    assert scores["domains"].keys() == {"here", "there"}
    card, page = adapted.card.read_text(), adapted.report.read_text()
    assert f"**Mind: {ADAPTED}.**" in card
    assert ADAPTED in page
    for text in (card, page):
        assert "Then 18 band gains were trained for 2 steps on 3 target images without" in text
        assert "seed 0" in text
    for form in ("md", "latex"):
        assert command("report", run.path, adapted.path, "--format", form) == 0
        output = capsys.readouterr().out
        assert output.count(ADAPTED) == 1
        assert "tune + test-time adaptation, linear" in output
    both = adapted.path.parent / "both.html"
    assert command("report", run.path, adapted.path, "--out", both) == 0
    assert ADAPTED in both.read_text()
    assert ADAPTED not in run.card.read_text() + run.report.read_text()
    assert command("eval", adapted.path, "eval.flip=true", "--name", "flip") == 0
    assert ADAPTED in RunFolder(adapted.path, "flip").report.read_text()


def test_an_adapted_run_is_neither_a_gain_nor_a_result_nor_part_of_a_soup(
    run, adapted, tiny, tmp_path, folder
):
    frozen = train_run(tiny("adapter=none", "train.steps=1", f"run.out={tmp_path / 'frozen'}"))
    assert find_gain(run) is not None
    command("eval", adapted.path)
    assert find_gain(adapted) is None
    shutil.move(frozen.path, tmp_path / "elsewhere" / "frozen" / "x")
    other = adapt_run(tmp_path / "elsewhere/frozen/x", folder / "images", tmp_path / "b", FEW).run
    command("eval", other.path)
    assert find_gain(run) is None
    with pytest.raises(MissingFileError, match="log.jsonl"):
        collect_result(adapted)
    with pytest.raises(RunError, match="is adapted to target images"):
        make_soup([adapted.path], tmp_path / "soup")


def test_predict_and_pack_use_the_gains(run, adapted, tmp_path):
    pack_run(adapted, str(tmp_path / "x.zip"))
    image = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0))
    plain, ours, packed = (
        causalseg.load(path)._predict(image[None])[0].confidence
        for path in (run.path, adapted.path, tmp_path / "x.zip")
    )
    assert (ours == packed).all()
    assert (ours != plain).any()


def test_gains_that_are_gone_or_changed_are_an_error(adapted, capsys):
    content = adapted.gains.read_bytes()
    adapted.gains.write_bytes(content + b" ")
    with pytest.raises(RunError, match="not what was written"):
        load_run(adapted.path)
    adapted.gains.unlink()
    with pytest.raises(MissingFileError, match="`causalseg adapt` writes it"):
        load_run(adapted.path)


def test_the_command_adapts_once_and_says_what_it_did(run, folder, tmp_path, capsys):
    out = tmp_path / "out"
    line = ("adapt", run.path, "--images", folder / "images", "--out", out, "--steps", 12)
    assert command(*line) == 0
    output = capsys.readouterr().out
    assert "3 images, loss" in output
    assert "at step 10" in output
    assert "at step 12" in output
    assert "marked" in output
    before = (out / "gains.safetensors").read_bytes()
    assert command(*line) == 2
    assert f"{out} is in use: choose another folder with --out" in capsys.readouterr().err
    assert (out / "gains.safetensors").read_bytes() == before


def test_options_out_of_range_and_folders_without_images_are_refused(run, folder, tmp_path, capsys):
    line = ("adapt", run.path, "--images", folder / "images", "--out", tmp_path / "out")
    assert command(*line, "--steps", 0, "--ema", 1, "--lr", "nan") == 2
    message = capsys.readouterr().err
    assert all(f"{key} = " in message for key in ("steps", "ema", "lr"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no images"):
        adapt_run(run.path, tmp_path / "empty", tmp_path / "out", FEW)
    with pytest.raises(MissingFileError, match="check the path"):
        adapt_run(run.path, tmp_path / "none", tmp_path / "out", FEW)
    (tmp_path / "empty" / "a.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="a.png"):
        adapt_run(run.path, tmp_path / "empty", tmp_path / "out", FEW)
    assert not (tmp_path / "out").exists()


def test_the_defaults_of_the_command_are_those_of_the_options():
    given = {name: p.default for name, p in inspect.signature(adapt).parameters.items()}
    assert {key: given[key] for key in AdaptConfig.model_fields} == AdaptConfig().model_dump()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("adapter={name: lora, rank: 2}",), id="lora"),
        pytest.param(("adapter=none", "run.precision=bf16-mixed"), id="bf16"),
        pytest.param(
            ("backbone.name=test_convnext", "adapter=none", "train.crop=[32,64]"), id="convnext"
        ),
        pytest.param(("adapter=none", SMALL_MASK2FORMER), id="mask2former", marks=pytest.mark.slow),
    ],
)
def test_other_adapters_backbones_and_heads_are_adapted(tiny, folder, tmp_path, options):
    run = train_run(tiny("train.steps=1", *options))
    made = adapt_run(run.path, folder / "images", tmp_path / "adapted", FEW)
    gains = load_run(made.run.path).band_gains.values
    assert len(gains) == load_run(run.path).backbone.depth
    assert (gains != 0).any(1).all()
