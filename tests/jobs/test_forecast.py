"""`train --dry-run` measures a training and writes nothing."""

from pathlib import Path

import pytest
import torch

from causalseg.adapters.base import trainable_parameters
from causalseg.build.model import build_segmenter
from causalseg.engine import meter
from causalseg.errors import RunError
from causalseg.jobs import forecast
from causalseg.jobs.forecast import forecast_run
from causalseg.jobs.train import train_run
from causalseg.model import Segmenter
from causalseg.runs.folder import RunFolder
from command_line import run, write_yaml


def test_a_forecast_counts_steps_images_and_bytes_and_writes_nothing(tiny):
    config = tiny("train.steps=100", "eval.every=20", "eval.limit=1", "train.ema={}", "run.keep=2")
    told = forecast_run(config)
    assert not Path(config.run.out).exists()
    assert (told.steps, told.images) == (100, 3)
    assert told.scored == 3 + 2 + 4 * (1 + 1)  # all at the end, one of each domain before
    assert told.seconds == pytest.approx(100 * told.step_seconds + 13 * told.score_seconds)
    assert 0 < told.step_seconds < 5
    assert 0 < told.score_seconds < 5
    assert 0 <= told.waiting < 1
    weights = 4 * trainable_parameters(build_segmenter(config))
    assert told.disk == weights + 3 * 4 * weights  # two kept and a new one: w, two moments, average
    assert told.memory < told.memory_limit
    assert told.problems == []


def test_the_bytes_of_a_checkpoint_are_those_of_the_file(tiny):
    config = tiny()
    told = forecast_run(config)
    size = train_run(config).checkpoint.stat().st_size
    assert told.disk == pytest.approx(trainable_parameters(build_segmenter(config)) * 28)
    assert (told.disk / 7) * 3 == pytest.approx(size, rel=0.5)  # a file of this size has a header


def test_what_does_not_fit_ends_with_what_to_lower(tiny_options, tmp_path, monkeypatch, capsys):
    file = write_yaml(tmp_path / "run.yaml", tiny_options)
    assert run("train", file, "--dry-run") == 0
    assert "total" in capsys.readouterr().out
    monkeypatch.setattr(forecast, "total_memory", lambda device: 1e6)
    monkeypatch.setattr(forecast, "_free_bytes", lambda folder: 10.0)
    assert run("train", file, "--dry-run") == 2
    error = capsys.readouterr().err
    assert "raise train.accumulate, lower train.crop" in error
    assert "are free: lower run.keep" in error
    assert not Path(tiny_options["run"]["out"]).exists()


def test_a_folder_that_training_would_refuse_is_refused(tiny):
    train_run(tiny())
    before = RunFolder(tiny().run.out).adapter.read_bytes()
    with pytest.raises(RunError, match="already holds a run"):
        forecast_run(tiny())
    assert RunFolder(tiny().run.out).adapter.read_bytes() == before


def test_the_memory_of_this_machine_is_known():
    assert meter.total_memory(torch.device("cpu")) > 1e9


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
    ],
)
def test_memory_that_does_not_suffice_is_one_message(
    tiny_options, tmp_path, monkeypatch, capsys, error
):
    def fail(*batch):
        raise error

    monkeypatch.setattr(Segmenter, "loss_terms", fail)
    assert run("train", write_yaml(tmp_path / "run.yaml", tiny_options)) == 2
    told = capsys.readouterr().err
    assert str(error).splitlines()[0] in told
    assert "raise train.accumulate" in told
