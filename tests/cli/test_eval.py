"""eval, report and submit as a user calls them."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import get_args, get_type_hints

import numpy as np
import pytest
from PIL import Image

from causalseg.cli import eval as cli_eval
from causalseg.cli.eval import print_table
from causalseg.jobs.eval import seen_domains
from causalseg.jobs.submit import SERVERS
from causalseg.jobs.train import train_run
from causalseg.report import DomainTable
from command_line import run


@pytest.fixture
def trained(tiny):
    return train_run(tiny("train.steps=1")).path


def scores_of(folder):
    return json.loads((folder / "eval.json").read_text())


def test_seen_domains_are_those_that_mean_over_leaves_out_and_nothing_added(tiny, folder):
    pair = f"{{images: {folder}/images, labels: {folder}/labels}}"
    trained = tiny(f"data.domains={{day: {pair}, night: {pair}}}", "data.mean_over=[night]")
    data = trained.data
    assert seen_domains(trained, trained) == ["day"]
    added = data.model_copy(update={"domains": {**data.domains, "dusk": data.domains["day"]}})
    assert seen_domains(trained.model_copy(update={"data": added}), trained) == ["day"]
    other = added.model_copy(update={"mean_over": ["day", "night"]})
    assert seen_domains(trained.model_copy(update={"data": other}), trained) == ["dusk"]
    assert seen_domains(tiny(), tiny()) == []


def test_scores_say_how_features_were_repaired(trained, tiny, tmp_path):
    assert scores_of(trained)["model"]["repair"] == "none"
    assert "repaired" not in (trained / "README.md").read_text()
    assert run("eval", trained, "backbone.repair=shift_average") == 0
    scored = trained / "evals" / "backbone.repair-shift_average"
    assert scores_of(scored)["model"]["repair"] == "shift_average"
    assert scores_of(scored)["overrides"] == ["backbone.repair=shift_average"]
    assert "features repaired by shift_average" in (scored / "report.html").read_text()
    both = tmp_path / "both.html"
    assert run("report", trained, scored, "--out", both) == 0
    assert "not predicted in the same way" in both.read_text()
    out = f"run.out={tmp_path / 'repaired'}"
    repaired = train_run(tiny("train.steps=1", "backbone.repair=defect", out)).path
    assert scores_of(repaired)["model"]["repair"] == "defect"
    assert "features repaired by defect" in (repaired / "README.md").read_text()


def test_several_runs_give_a_comparison_with_a_baseline(trained, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    page = tmp_path / "both.html"
    assert run("eval", trained, other, "eval.flip=true", "--out", page) == 0
    shown = capsys.readouterr().out
    assert f"comparison: {page}" in shown
    assert "difference" in shown
    assert page.is_file()
    flipped = [folder / "evals" / "eval.flip-true" for folder in (trained, other)]
    assert all(scores_of(folder)["inference"]["flip"] for folder in flipped)
    assert run("report", flipped[1], "--baseline", trained, "--format", "md") == 0
    printed = capsys.readouterr().out
    assert "| causal_tune, linear, eval.flip-true |" in printed
    assert f"{scores_of(flipped[1])['domains']['here']['miou']:.1f}" in printed
    table = tmp_path / "table.tex"
    assert run("report", trained, other, "--format", "latex", "--out", table) == 0
    assert r"\toprule" in table.read_text()


def test_scores_of_training_stay_and_each_evaluation_has_its_own(trained, folder, capsys):
    before = {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()}
    for options in (["--corrupt", "fog"], ["data.only=[here]", "--name", "near"]):
        assert run("eval", trained, f"data.root={folder}", *options) == 0
    kept = [trained / name for name in ("eval.json", "README.md", "config.yaml")]
    kept += trained.glob("pictures/*/*.png")
    assert len(kept) > 5
    assert {file: file.read_bytes() for file in kept} == {file: before[file] for file in kept}
    found = sorted(path.name for path in (trained / "evals").iterdir())
    assert found == ["corrupt-fog-severity-3", "near"]
    assert list(scores_of(trained / "evals" / "near")["domains"]) == ["here"]
    assert list(trained.glob("evals/near/pictures/here/*_truth.png"))
    page = (trained / "report.html").read_text()
    assert all(f'href="evals/{name}/report.html"' in page for name in found)

    near = scores_of(trained / "evals" / "near")["domains"]
    assert run("eval", trained, "eval.flip=true", "--name", "near") == 2
    assert "near was scored with data.only=[here]: choose another --name" in capsys.readouterr().err
    assert run("eval", trained, "eval.flip=true", "--name", "../x") == 2
    assert "letters, digits, dots and hyphens" in capsys.readouterr().err
    assert run("eval", trained, "data.only=[here]", "--name", "near") == 0  # the same again
    assert scores_of(trained / "evals" / "near")["domains"] == near

    (trained / "evals" / "near" / "eval.json").write_text("{")
    assert run("report", trained, "--out", trained / "again.html") == 0  # one it cannot read
    assert "evals/near" not in (trained / "again.html").read_text()
    assert run("eval", trained, "data.only=[here]", "--name", "near") == 0
    assert scores_of(trained / "evals" / "near")["domains"] == near

    assert run("eval", trained, "eval.pictures=0") == 0  # decides no score, so training's again
    assert (trained / "eval.json").read_bytes() != before[trained / "eval.json"]
    assert scores_of(trained)["domains"] == json.loads(before[trained / "eval.json"])["domains"]


def test_augmentation_at_test_time_and_saved_predictions(trained, folder):
    assert run("eval", trained, "eval.flip=true", "eval.scales=[0.5,1]", "--save-predictions") == 0
    (trained,) = trained.glob("evals/*")
    how = scores_of(trained)["inference"]
    assert (how["flip"], how["scales"]) == (True, [0.5, 1])
    saved = sorted(trained.glob("predictions/*/*.png"))
    names = [f"{file.parent.name}/{file.stem}" for file in saved]
    assert names == ["here/000", "here/001", "here/002", "there/000", "there/002"]
    prediction = np.array(Image.open(saved[0]))
    truth = np.array(Image.open(folder / "labels" / "000.png"))
    assert prediction.shape == truth.shape
    assert set(np.unique(prediction)) <= {0, 1, 2}


@pytest.mark.slow
def test_two_processes_give_the_scores_and_pictures_of_one(trained, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    command = [sys.executable, "-m", "causalseg", "eval", str(other), "--save-predictions"]
    command += ["run.devices=2", "run.accelerator=cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: ") == 1
    assert run("eval", trained) == 0
    alone, together = scores_of(trained), scores_of(other)
    assert together["domains"] == alone["domains"]
    assert together["mean"] == alone["mean"]
    shown = [sorted(f.name for f in x.glob("pictures/*/*.png")) for x in (trained, other)]
    assert shown[0] == shown[1]
    assert len(list(other.glob("predictions/here/*.png"))) == 3


def test_severities_are_domains_of_one_corruption(trained, capsys):
    assert run("eval", trained, "--corrupt", "fog", "--severity", "1,4", "data.only=[here]") == 0
    (scored,) = trained.glob("evals/*")
    scores = scores_of(scored)
    assert list(scores["domains"]) == ["here", "here_fog_1", "here_fog_4"]
    assert scores["mean"]["over"] == ["here_fog_1", "here_fog_4"]
    (loss,) = scores["robustness"]["corruptions"]
    assert (loss["corruption"], loss["clean"], loss["severities"]) == ("fog", "here", [1, 4])
    assert scores["robustness"]["source"] is None  # no mean_over tells seen from unseen
    assert "severity=1,4" in scores["overrides"]
    fog = "data.domains.here.corrupt={name: fog}"
    assert run("eval", trained, fog, "data.only=[here]", "--corrupt", "snow") == 2
    assert "corrupted already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("width", "labels", "is_turned"),
    [(80, ["a", "b"], False), (40, ["a", "b"], True), (60, ["a" * 30, "b" * 30], False)],
)
def test_the_table_is_turned_where_that_makes_it_narrower(
    monkeypatch, capsys, width, labels, is_turned
):
    monkeypatch.setenv("COLUMNS", str(width))
    domains, over = ["daytime", "nighttime", "foggy", "rainy"], ["nighttime", "foggy"]
    made_of = ["daytime, nighttime, foggy, rainy: each 3 images, 48 × 36 px, cityscapes val"]
    scores = {label: [1.0, 2.0, 3.0, 4.0, 2.5] for label in labels}
    print_table(DomainTable(domains, over, scores, None, made_of))
    said = capsys.readouterr().out.splitlines()
    assert any(line.count(" 1.0 ") == len(labels) for line in said) == is_turned
    assert sum(line.count(" 1.0 ") for line in said) == len(labels)
    assert said[-2:] == ["mean of nighttime, foggy", made_of[0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval"], "name at least one run folder"),
        (["report"], "name at least one run folder"),
        (["eval", "no_run"], "no run folder no_run"),
        (["eval", "x", "--severity", "9"], "must be 1 to 5"),
        (["eval", "x", "--corrupt", "fog,snoww"], "'snoww': did you mean 'snow'?"),
        (["eval", "x", "--severity", "5"], "no effect without --corrupt"),
        (["eval", "x", "--out", "y.html"], "--out belongs to the comparison"),
        (["eval", "x", "x"], "given twice"),
        (["eval", "x", "data.domains.my-night.resize=[540,960]"], "no run folder x"),
        (["report", "no_run", "--format", "md"], "no run folder no_run"),
        (["predict", ".", ".", "--out", "p"], "has no config.yaml: `causalseg train` writes it"),
    ],
)
def test_a_mistake_is_one_error(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_card_names_what_was_scored_and_not_what_training_scored(trained):
    assert "| scored on there |" in (trained / "README.md").read_text()
    (trained / "eval.json").unlink()  # as of a run that was imported
    assert run("eval", trained, "--corrupt", "fog", "data.only=[here]", "eval.flip=true") == 0
    card = (trained / "README.md").read_text()
    assert "| scored on here |" in card
    assert "| scored on here_fog | folder `images`, corrupted by fog |" in card
    assert "scored on there" not in card
    assert "mirrored image" in card


def test_runs_to_be_compared_are_looked_at_before_the_first_is_scored(trained, tmp_path, capsys):
    before = (trained / "eval.json").read_bytes()
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("devices: 1", "devices: 2"))
    for arguments, message in (
        ([trained, tmp_path / "typo"], "no run folder"),
        ([trained, other, "--baseline", tmp_path / "typo"], "different devices"),
        ([trained, other, "run.devices=1", "--baseline", tmp_path / "typo"], "no run folder"),
        ([trained, "data.classes=[a,b,c]"], "make it another model"),
    ):
        assert run("eval", *arguments, "eval.flip=true") == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
    assert (trained / "eval.json").read_bytes() == before


def test_the_command_names_every_server():
    known = get_args(get_type_hints(cli_eval.submit, include_extras=True)["server"])
    assert sorted(known) == sorted(SERVERS)


def test_a_submission_is_made_from_a_run(tiny, tmp_path, monkeypatch, capsys):
    trained = train_run(tiny("data.classes=cityscapes19", "train.steps=1")).path
    small = replace(SERVERS["cityscapes"], count=1, size=(32, 64))
    monkeypatch.setitem(SERVERS, "cityscapes", small)
    image = tmp_path / "city/leftImg8bit/test/bonn/bonn_000000_000019_leftImg8bit.png"
    image.parent.mkdir(parents=True)
    Image.new("RGB", (64, 32), (90, 90, 90)).save(image)
    root, out = tmp_path / "city", tmp_path / "made.zip"
    assert run("submit", trained, "--server", "cityscapes", "--root", root, "--out", out) == 0
    assert out.is_file()
    assert "1 images" in capsys.readouterr().out


def test_scoring_tells_its_progress_where_there_is_no_bar(trained, caplog, monkeypatch):
    monkeypatch.setattr("causalseg.engine.evaluate._SECONDS", 0.0)
    with caplog.at_level("INFO", logger="causalseg"):
        assert run("eval", trained) == 0
    assert re.search(r"scoring here: 1 of 3 images, [\d.]+ images/s, eta 0:0", caplog.text)


def test_an_evaluation_of_weights_before_the_last_training_says_so(trained):
    assert run("eval", trained, "--corrupt", "fog", "--name", "fog") == 0
    said = "of the weights before the last training"
    assert said not in (trained / "report.html").read_text()
    config = trained / "config.yaml"
    assert run("train", config, "run.resume=true", "train.steps=2", f"run.out={trained}") == 0
    assert said in (trained / "report.html").read_text()
    assert run("eval", trained, "--corrupt", "fog", "--name", "fog") == 0
    assert said not in (trained / "report.html").read_text()
