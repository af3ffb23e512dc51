"""Trackers: the same scalars everywhere, the configuration at the start, one run when resumed."""

import sys
from types import SimpleNamespace

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from causalseg.errors import ConfigError
from causalseg.jobs.train import train_run
from causalseg.runs.folder import RunFolder
from killed import train_and_kill

pytestmark = pytest.mark.slow  # every test trains several runs


class Fake:
    """Stands for both packages; remembers what it is given."""

    def __init__(self):
        self.started, self.ended, self.scalars, self.parameters = [], 0, {}, {}

    def init(self, **options):
        self.started.append(options)
        return SimpleNamespace(id=options["id"] or "new", log=self.log, finish=self.end_run)

    def set_experiment(self, name):
        self.experiment = name

    def start_run(self, **options):
        self.started.append(options)
        return SimpleNamespace(info=SimpleNamespace(run_id=options["run_id"] or "new"))

    def log_params(self, parameters):
        assert len(parameters) <= 100
        self.parameters |= parameters

    def log(self, values, step):
        for name, value in values.items():
            self.scalars[name, step] = value

    log_metrics = log

    def end_run(self):
        self.ended += 1


@pytest.fixture
def fakes(monkeypatch):
    fakes = {name: Fake() for name in ("wandb", "mlflow")}
    for name, fake in fakes.items():
        monkeypatch.setitem(sys.modules, name, fake)
    return fakes


def test_every_tracker_takes_the_scalars_that_tensorboard_takes(tiny, fakes):
    run = train_run(tiny("run.trackers=[tensorboard, wandb, mlflow]", "eval.every=2"))
    board = EventAccumulator(str(run.path / "tensorboard")).Reload()
    expected = {
        (name, event.step): event.value
        for name in board.Tags()["scalars"]
        for event in board.Scalars(name)
    }
    assert {("train/loss", 1), ("train/lr", 4), ("eval/mean", 2), ("eval/there", 4)} <= {*expected}
    for fake in fakes.values():
        assert fake.scalars == pytest.approx(expected)
        assert fake.ended == 1
    config = yaml.safe_load(run.config.read_text())
    (start,) = fakes["wandb"].started
    assert (start["project"], start["name"], start["config"]) == ("causalseg", "run", config)
    (start,) = fakes["mlflow"].started
    assert (fakes["mlflow"].experiment, start["run_name"]) == ("causalseg", "run")
    assert fakes["mlflow"].parameters["train.lr"] == config["train"]["lr"]


def test_a_resumed_run_goes_on_in_the_trackers(tiny, fakes):
    options = ("run.trackers=[wandb, mlflow]", "run.save_every=1")
    train_and_kill(tiny(*options), 3)
    assert [fake.ended for fake in fakes.values()] == [1, 1]
    fakes["mlflow"].parameters.clear()
    run = train_run(tiny(*options, "run.resume=true"))
    assert run.read_json(run.trackers) == {"wandb": "new", "mlflow": "new"}
    assert [start["id"] for start in fakes["wandb"].started] == [None, "new"]
    assert [start["run_id"] for start in fakes["mlflow"].started] == [None, "new"]
    assert fakes["mlflow"].parameters == {}
    assert {step for name, step in fakes["wandb"].scalars if name == "train/loss"} == {1, 2, 3, 4}


def test_names_that_mlflow_refuses_are_changed(tiny, fakes, folder):
    pair = f"{{images: {folder}/images, labels: {folder}/labels}}"
    train_run(tiny("run.trackers=[mlflow]", "train.steps=1", f"data.domains={{'a,b': {pair}}}"))
    assert ("eval/a_b", 1) in fakes["mlflow"].scalars


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_one_error_before_anything_is_written(
    tiny, monkeypatch, name
):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"pip install 'causalseg\[{name}\]'"):
        train_run(tiny(f"run.trackers=[{name}]"))
    assert not RunFolder(tiny().run.out).path.exists()
