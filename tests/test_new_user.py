"""The way of a new user: README's own configuration on own images, with the options it leads to."""

import json
import re
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

import causalseg
from causalseg.config.load import load_config
from causalseg.errors import RunError
from causalseg.jobs.train import train_run
from command_line import run
from conftest import write_folder

README = Path(__file__).parent.parent / "README.md"
TINY = (
    "backbone={name: test_vit, weights: random}",
    "train.crop=[32, 48]",
    "train.batch=2",
    "train.workers=0",
    "eval.mode=whole",
    *("run.precision=32-true", "run.threads=1"),
)


@pytest.fixture
def mine(tmp_path):
    """README's mine.yaml beside images of its own, with what makes it fast."""
    for name, count in (("summer", 3), ("summer_test", 2), ("winter", 2)):
        write_folder(tmp_path / "roads" / name, count)
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.yaml").write_text(text)
    places = (f"data.root={tmp_path / 'roads'}", f"run.out={tmp_path / 'run'}")
    return [tmp_path / "mine.yaml", *TINY, *places]


def test_readme_s_own_images_train_and_choose_on_summer_alone(mine, tmp_path, capsys):
    assert run("train", *mine, "run.best=winter.miou", "eval.every=2") == 2
    assert "would choose the weights on winter, a target" in capsys.readouterr().err
    best = (
        *("adapter=none", "run.best=summer.miou", "eval.every=2", "train.epochs=3"),
        "head.class_weights=auto",
    )
    assert run("train", *mine, *best) == 0
    folder = tmp_path / "run"
    stored = yaml.safe_load((folder / "config.yaml").read_text())["train"]
    assert (stored["steps"], stored["epochs"], stored["adapter_lr"]) == (5, None, None)
    assert run("eval", folder, "--checkpoint", "best") == 0
    assert "winter" in capsys.readouterr().out
    scores = json.loads((folder / "evals" / "checkpoint-best" / "eval.json").read_text())
    assert scores["checkpoint"]["metric"] == "summer.miou"
    assert scores["checkpoint"]["step"] in (2, 4, 5)
    assert load_file(folder / "head.safetensors")["balance.pixels"].sum() > 0
    assert causalseg.load_segmenter(folder, checkpoint="best")
    assert run("train", *mine, *best, "run.resume=true") == 0  # epochs again: the same run
    assert run("train", *mine, *best, "run.resume=true", "train.epochs=1") == 2
    assert "has done 5 steps: train.steps must be 5 or more" in capsys.readouterr().err


def test_epochs_become_the_steps_of_schedule_log_and_folder(mine):
    file, *overrides = map(str, mine)
    trained = train_run(load_config(Path(file), [*overrides, "train.epochs=1.5"]))
    assert max(event["step"] for event in trained.read_log()) == 3  # 1.5 x 3 images / 2
    with pytest.raises(RunError, match="already holds a run"):
        train_run(load_config(Path(file), [*overrides, "train.epochs=1.5"]))


def test_a_schedule_that_does_not_fit_into_the_epochs_is_refused_before_training(
    mine, tmp_path, capsys
):
    assert run("train", *mine, "train.epochs=2", "train.warmup=3") == 2
    said = capsys.readouterr().err
    assert "train.epochs = 2 are 3 steps: train.warmup = 3 must be below" in said
    assert not (tmp_path / "run").exists()
