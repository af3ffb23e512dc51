"""Which weights of a run are used: chosen by name or path, told everywhere."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import causalseg
from causalseg.config.load import parse_config
from causalseg.data.dataset import read_image
from causalseg.errors import MissingFileError, RunError
from causalseg.jobs.train import train_run
from causalseg.runs.folder import RunFolder
from causalseg.runs.scores import CHOSEN_ON_TARGET
from command_line import run as command
from conftest import tiny_run, write_folder
from killed import assert_equal

BEST = ("data.mean_over=[there]", "eval.every=1", "train.steps=3", "run.save_every=1", "run.keep=9")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """One run that all tests of this file copy."""
    at = tmp_path_factory.mktemp("trained")
    options = tiny_run(write_folder(at / "data"), at / "run")
    return train_run(parse_config(options, [*BEST, "run.best=here.miou", "train.lr=0.05"])).path


@pytest.fixture
def trained(template, tmp_path):
    return RunFolder(shutil.copytree(template, tmp_path / "run"))


def head(run, checkpoint):
    return dict(causalseg.load_segmenter(run.path, checkpoint=checkpoint).head.state_dict())


def scores_of(run, evaluation=None):
    return json.loads(RunFolder(run.path, evaluation).eval.read_text())


def test_each_name_gives_its_weights(trained, tmp_path):
    assert_equal(head(trained, "last"), load_file(trained.head))
    assert_equal(head(trained, "best"), load_file(trained.best / "head.safetensors"))
    for name in ("step-0000002.ckpt", str(trained.path / "step-0000002.ckpt")):
        content = torch.load(trained.path / "step-0000002.ckpt", weights_only=True)
        assert_equal(head(trained, name), content["model"]["head"])
    assert_equal(head(trained, "last.ckpt"), load_file(trained.head))
    moved = shutil.copytree(trained.best, tmp_path / "elsewhere")
    assert_equal(head(trained, str(moved)), load_file(moved / "head.safetensors"))


@pytest.mark.parametrize("name", ["bset", "step-0000009.ckpt"])
def test_missing_weights_are_one_error_that_lists_the_others(trained, name, capsys):
    before = trained.eval.read_bytes()
    assert command("eval", trained.path, "--checkpoint", name) == 2
    files = ", ".join(f"step-000000{step}.ckpt" for step in (1, 2, 3))
    message = capsys.readouterr().err
    assert f"has no weights '{name}'; there are: last, best, last.ckpt, {files}" in message
    assert trained.eval.read_bytes() == before


def test_best_of_a_run_that_chose_none_is_refused(tiny):
    run = train_run(tiny("train.steps=1"))
    with pytest.raises(MissingFileError, match=r"no weights 'best'; there are: last, last.ckpt"):
        causalseg.load_segmenter(run.path, checkpoint="best")
    run.head.unlink()
    with pytest.raises(MissingFileError, match=r"no weights 'last'; there are: last.ckpt"):
        causalseg.load_segmenter(run.path)


def test_a_checkpoint_of_another_run_is_refused(trained, tiny, tmp_path):
    other = train_run(tiny("adapter.rank=3", "train.steps=1", f"run.out={tmp_path / 'other'}"))
    with pytest.raises(RunError, match="belongs to another configuration"):
        causalseg.load_segmenter(trained.path, checkpoint=str(other.checkpoint))


def test_scores_say_which_weights_they_are_of(trained, capsys):
    assert scores_of(trained)["checkpoint"] == {"name": "last"}
    assert command("eval", trained.path, "--checkpoint", "best") == 0
    scores, chosen = (
        scores_of(trained, "checkpoint-best"),
        json.loads((trained.best / "best.json").read_text()),
    )
    assert scores["checkpoint"] == {"name": "best", **chosen}
    assert scores["domains"]["here"]["miou"] == pytest.approx(chosen["value"])
    assert scores["overrides"] == ["checkpoint=best"]
    page = RunFolder(trained.path, "checkpoint-best").report.read_text()
    assert "Scored with checkpoint=best" in page
    assert CHOSEN_ON_TARGET not in trained.card.read_text() + trained.report.read_text()
    assert command("eval", trained.path, "--checkpoint", "step-0000002.ckpt") == 0
    named = scores_of(trained, "checkpoint-step-0000002.ckpt")
    assert named["checkpoint"] == {"name": "step-0000002.ckpt", "step": 2}


def test_a_trained_run_is_scored_on_other_domains_whatever_it_was_chosen_on(trained, folder):
    pair = f"{{images: {folder}/images, labels: {folder}/labels}}"
    other = (f"data.domains={{new: {pair}}}", "data.mean_over=null")
    assert command("eval", trained.path, *other, "--checkpoint", "best", "--name", "new") == 0
    assert list(scores_of(trained, "new")["domains"]) == ["new"]


def test_predictions_are_of_the_weights_asked_for(trained, folder, tmp_path):
    for name in ("last", "best"):
        options = ("--checkpoint", name, "--out", tmp_path / name)
        assert command("predict", trained.path, folder / "images", *options) == 0
    model = causalseg.load_segmenter(trained.path, checkpoint="best")
    with Image.open(tmp_path / "best" / "predictions" / "000.png") as picture:
        found = torch.from_numpy(np.array(picture))
    with torch.no_grad():
        expected = model(read_image(folder / "images" / "000.png")[None]).argmax(1)[0]
    assert (found == expected).float().mean() > 0.99


def test_a_choice_on_a_target_is_marked_wherever_its_score_is_shown(tiny, capsys):
    run = train_run(tiny(*BEST, "run.best=there.miou", "run.allow_target=true"))
    assert CHOSEN_ON_TARGET not in run.card.read_text()  # the last weights were not chosen
    assert command("eval", run.path, "--checkpoint", "best") == 0
    best = RunFolder(run.path, "checkpoint-best")
    assert scores_of(run, "checkpoint-best")["checkpoint"]["allow_target"] is True
    for form in ("md", "latex"):
        assert command("report", best.results, "--format", form) == 0
    output = capsys.readouterr().out
    assert output.count(CHOSEN_ON_TARGET) >= 3
    assert CHOSEN_ON_TARGET in best.report.read_text()
    run.eval.unlink()
    assert command("eval", run.path, "--checkpoint", "best") == 0  # now the scores of the run
    assert f"**Mind: {CHOSEN_ON_TARGET}.**" in run.card.read_text()


def test_files_that_were_changed_are_refused(trained, folder, tmp_path, capsys):
    def commands(*options):
        out = ("--out", tmp_path / "p")
        return [
            command("eval", trained.path, *options),
            command("predict", trained.path, folder / "images", *out, *options),
        ]

    assert commands() == [0, 0]
    content = load_file(trained.head)
    content["classifier.bias"] = content["classifier.bias"] + 1e-4  # still a whole file
    save_file(content, trained.head)
    assert commands() == [2, 2]
    assert "head.safetensors is not what was written into the run" in capsys.readouterr().err
    assert commands("--ignore-checksums") == [0, 0]
    assert command("eval", trained.path, "--checkpoint", "best") == 0

    scores = scores_of(trained)
    scores["domains"]["here"]["miou"] = 99.0
    trained.eval.write_text(json.dumps(scores))
    assert command("report", trained.path, "--format", "md") == 2
    assert "eval.json is not what was written" in capsys.readouterr().err
    assert command("report", trained.path, "--format", "md", "--ignore-checksums") == 0
    assert "99.0" in capsys.readouterr().out
    trained.checksums.unlink()  # as of a run of an earlier version
    assert command("report", trained.path, "--format", "md") == 0
