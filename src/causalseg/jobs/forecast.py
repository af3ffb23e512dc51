"""What a training would take, measured on a few of its steps and images; nothing is written.

total time = steps * seconds a step + images scored * seconds an image
"""

import shutil
import time
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from causalseg.adapters.base import trainable_parameters
from causalseg.config import Config
from causalseg.engine.evaluate import evaluate_domain
from causalseg.engine.meter import Meter, peak_memory, total_memory
from causalseg.engine.train import make_batches, set_up, take_step
from causalseg.jobs.train import Prepared, limit_images, prepare

_STEPS = 3  # timed, after one that warms up
_BYTES = 4  # a trained parameter is a float32
_FULL = 0.9  # of the memory, beyond which a training is likely to be ended


class Forecast(NamedTuple):
    """Times in seconds, sizes in bytes; ``memory_limit`` is 0 where it is unknown."""

    device: str
    precision: str
    parameters: int
    images: int
    steps: int
    step_seconds: float
    waiting: float  # fraction of the step
    scored: int  # images, in all evaluations
    score_seconds: float  # an image
    memory: float
    memory_limit: float
    disk: float
    disk_free: float

    @property
    def seconds(self) -> float:
        """Time of the whole training."""
        return self.steps * self.step_seconds + self.scored * self.score_seconds

    @property
    def problems(self) -> list[str]:
        """What does not fit, and what to lower."""
        told = []
        if self.memory_limit and self.memory > _FULL * self.memory_limit:
            told.append(
                f"{_gb(self.memory)} of {_gb(self.memory_limit)} memory are too close to the "
                "limit: raise train.accumulate, lower train.crop, set "
                "backbone.checkpointing=true, or take head=linear or a smaller backbone"
            )
        if self.disk > self.disk_free:
            told.append(
                f"{_gb(self.disk)} are needed on the disk and {_gb(self.disk_free)} are free: "
                "lower run.keep, or choose another run.out"
            )
        return told

    @property
    def lines(self) -> list[tuple[str, str]]:
        """The forecast for people: names and values."""
        of = f" of {_gb(self.memory_limit)}" if self.memory_limit else ""
        step = f"{self.step_seconds:.3g} s, {self.waiting:.0%} of it waiting for data"
        score = f"{self.score_seconds:.3g} s an image, {self.scored} images"
        return [
            ("device", f"{self.device}, {self.precision}"),
            ("trained parameters", f"{self.parameters:,}"),
            ("training images", f"{self.images:,}"),
            ("step", step),
            ("steps", f"{self.steps:,}, {_time(self.steps * self.step_seconds)}"),
            ("scoring", f"{score}, {_time(self.scored * self.score_seconds)}"),
            ("total", _time(self.seconds)),
            ("memory", f"{_gb(self.memory)}{of}"),
            ("disk", f"{_gb(self.disk)}, {_gb(self.disk_free)} free"),
        ]


def forecast_run(config: Config) -> Forecast:
    """Build a training, take a few steps, score one image of each domain, and add up.

    Raises CausalsegError for all that `causalseg.jobs.train.train_run` would refuse.
    """
    ready = prepare(config)
    step, waiting = _time_steps(ready)
    scored, score = _time_scores(ready)
    device = ready.fabric.device
    return Forecast(
        device=str(device),
        precision=str(ready.fabric.strategy.precision.precision),
        parameters=trainable_parameters(ready.model),
        images=len(ready.images),
        steps=ready.config.train.steps,
        step_seconds=step,
        waiting=waiting,
        scored=scored,
        score_seconds=score,
        memory=1e6 * peak_memory(device),
        memory_limit=total_memory(device),
        disk=_count_bytes(ready),
        disk_free=_free_bytes(Path(ready.config.run.out)),
    )


def _time_steps(ready: Prepared) -> tuple[float, float]:
    """Return seconds a step and the fraction of waiting for data."""
    fabric, options, run = ready.fabric, ready.config.train, ready.config.run
    model, optimizer = set_up(fabric, ready.model, options, run)
    batches = make_batches(fabric, ready.images, ready.draws, options, (0, _STEPS + 1), run.seed)
    meter = Meter(fabric)
    model.train()
    for number, batch in enumerate(meter.timed(batches)):
        meter.step(take_step(fabric, model, optimizer, batch, options, lambda rank: rank))
        if number == 0:
            meter.take(1)
    values = meter.take(_STEPS)
    return values["seconds_per_step"], values["data_wait"]


def _time_scores(ready: Prepared) -> tuple[int, float]:
    """Return the images that are scored in all evaluations, and seconds an image."""
    options, model = ready.config.eval, ready.model.eval()
    rounds = (ready.config.train.steps - 1) // options.every if options.every else 0
    total, spent = 0, 0.0
    for name, one in limit_images(ready.domains, 1).items():
        evaluate_domain(model, one)  # warms up
        start = time.perf_counter()
        evaluate_domain(model, one)
        each = (time.perf_counter() - start) / ready.fabric.world_size
        size = len(ready.domains[name].data)  # type: ignore[arg-type]
        count = size + rounds * min(size, options.limit or size)
        total, spent = total + count, spent + count * each
    return total, spent / max(1, total)


def _count_bytes(ready: Prepared) -> float:
    """Return the bytes of weights and checkpoints, without report and trackers."""
    options = ready.config.run
    weights = _BYTES * trainable_parameters(ready.model)
    best = options.best is not None
    checkpoint = weights * (3 + best + (ready.config.train.ema is not None))  # with two moments
    return weights * (1 + best) + checkpoint * (options.keep + 1)  # one more while it is written


def _free_bytes(folder: Path) -> float:
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    return shutil.disk_usage(there).free


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
