"""A run folder of version 0.3.0 is evaluated, predicts and goes on.

tests/old_run is a run of 30 steps on the data of `write_folder`, with LoRA and Causal-Tune;
resumed_* is what version 0.3.0 itself wrote after going on to step 40.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from causalseg.config.load import load_config
from causalseg.jobs.eval import eval_run
from causalseg.jobs.predict import predict_run
from causalseg.jobs.train import train_run
from conftest import write_folder

OLD = Path(__file__).parents[1] / "old_run"


@pytest.fixture
def old(tmp_path):
    """A copy of the old run, and the folder of its data."""
    return shutil.copytree(OLD, tmp_path / "run"), write_folder(tmp_path / "data")


def mious(file):
    domains = json.loads(file.read_text())["domains"]
    return {name: domain["miou"] for name, domain in domains.items()}


def losses(file):
    events = map(json.loads, file.read_text().splitlines())
    return [event["loss"] for event in events if event["event"] == "train"]


def test_it_scores_what_it_scored(old):
    run, data = old
    eval_run(run, [f"data.root={data}"])
    assert mious(run / "eval.json") == pytest.approx(mious(OLD / "eval.json"), abs=0.2)


def test_it_predicts(old, tmp_path):
    run, data = old
    assert predict_run(run, data / "images", tmp_path / "out").now == 3
    prediction = Image.open(tmp_path / "out" / "predictions" / "000.png")
    assert (prediction.size, set(np.unique(prediction)) <= {0, 1, 2}) == ((64, 48), True)


def test_it_goes_on_as_it_would_have(old):
    run, data = old
    overrides = [f"run.out={run}", "run.resume=true", "train.steps=40", f"data.root={data}"]
    train_run(load_config(run / "config.yaml", overrides))
    assert losses(run / "log.jsonl") == pytest.approx(losses(OLD / "resumed_log.jsonl"), rel=1e-4)
    assert mious(run / "eval.json") == pytest.approx(mious(OLD / "resumed_eval.json"), abs=0.2)
