"""Runs that are broken off and go on, and what they leave."""

import pytest
import torch
from safetensors.torch import load_file

from causalseg.jobs.train import train_run
from causalseg.runs.log import RunLog


def weights(run):
    return {
        f"{file.stem}.{key}": value
        for file in (run.adapter, run.head)
        for key, value in load_file(file).items()
    }


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key], second[key]), key


class Killed(Exception):
    """Stands for a kill at a chosen step."""


def train_and_kill(config, step):
    """Train until ``step`` steps are logged, then break off."""
    original = RunLog.advance

    def advance(self, done):
        original(self, done)
        if done == step:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(RunLog, "advance", advance)
        train_run(config)


def resume_equals_straight(tiny, folder, options, stop):
    """Train straight, and killed at a step and resumed; the weights are equal bit for bit."""
    straight = train_run(tiny(*options, f"run.out={folder / 'straight'}"))
    options = (*options, f"run.out={folder / 'resumed'}")
    train_and_kill(tiny(*options), stop)
    resumed = train_run(tiny(*options, "run.resume=true"))
    assert_equal(weights(straight), weights(resumed))
    return straight, resumed


def events_of(run, *kinds):
    """The events of a log, without what depends on the clock."""
    clock = ("seconds_per_step", "data_wait")
    events = [event for event in run.read_log() if event["event"] in kinds]
    return [{key: value for key, value in e.items() if key not in clock} for e in events]
