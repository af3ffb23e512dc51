"""A small share of what `make torture` does."""

import random

import pytest

import torture
from causalseg.config.load import load_config
from causalseg.jobs.train import train_run


@pytest.mark.parametrize(("kind", "count"), [("configs", 60), ("images", 150), ("runs", 8)])
def test_what_is_odd_is_refused_or_right(kind, count, caplog):
    outcomes = torture.torture(kind, count, seed=1)
    assert sum(outcomes.values()) == count
    assert outcomes.keys() <= {"accepted", "refused"}
    assert outcomes["refused"] > 0


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights():
    assert torture.torture("kills", 3, seed=2) == {"right": 3}


def test_what_goes_wrong_is_counted(monkeypatch, capsys):
    def attack(config, rng):
        raise ZeroDivisionError if rng.random() < 0.5 else RuntimeError

    monkeypatch.setitem(torture.ATTACKS, "images", attack)
    assert torture.torture("images", 4, seed=0) == {"traceback": 4}
    assert "images 3: " in capsys.readouterr().out


def test_other_weights_after_a_kill_are_noticed(tmp_path, monkeypatch):
    config = torture.make_data(tmp_path / "data")
    train_run(load_config(config))
    monkeypatch.setattr(torture.os, "fork", lambda: 1)  # no child: the run below is another
    monkeypatch.setattr(torture.os, "kill", lambda *_: None)
    monkeypatch.setattr(torture.os, "waitpid", lambda *_: None)
    other = lambda path, overrides: load_config(path, [*overrides, "run.seed=5"])  # noqa: E731
    monkeypatch.setattr(torture, "load_config", other)
    assert torture.attack_kills(config, random.Random(0)) == "other weights"
