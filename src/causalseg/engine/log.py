"""What a run says: log.jsonl, trackers and a progress bar or lines."""

import json
import logging
import math
import platform
import re
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from causalseg.engine.devices import reduce
from causalseg.engine.trackers import open_trackers
from causalseg.errors import TrainingError
from causalseg.runfolder import RunFolder, write_text
from causalseg.version import __version__

Item = TypeVar("Item")
logger = logging.getLogger("causalseg")
_VERSIONS = ("torch", "timm", "transformers", "peft", "lightning-fabric")
console = Console(stderr=True)  # one for all bars, so that they can stand below each other


class RunLog:
    """Writes the events of a run; a context manager that closes its files.

    Args:
        run: the run folder.
        steps: total number of steps.
        first: steps already done; later events of an earlier attempt are dropped.
        trackers: names of those that take the scalars, too.
    """

    def __init__(self, run: RunFolder, steps: int, first: int, trackers: Sequence[str]):
        events = run.read_log() if first and run.log.is_file() else []
        # The last step is scored again when a run ends between training and scoring.
        kept = [
            event
            for event in events
            if event["step"] <= first and (event["event"], event["step"]) != ("eval", steps)
        ]
        write_text(run.log, "".join(json.dumps(event) + "\n" for event in kept))
        self._file = run.log.open("a", buffering=1, encoding="utf-8")
        self._trackers = open_trackers(trackers, run, first)
        self._bar = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[rate]} s/step  eta"),
            TimeRemainingColumn(),
            TextColumn("waiting for data {task.fields[wait]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=steps, loss="-", rate="-", wait="-")
        self._bar.update(self._task, completed=first)
        self.steps = steps

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        self._file.close()
        for tracker in self._trackers:
            tracker.close()

    def start(self, step: int, origin: dict[str, Any]) -> None:
        """Log what the steps after this one are made with, as `describe_origin` gives it."""
        self._write_line("start", step, origin)

    def advance(self, step: int) -> None:
        """Move the progress bar."""
        self._bar.update(self._task, completed=step)

    def train(self, step: int, values: dict[str, float]) -> None:
        """Log loss (and its terms), learning rate, seconds a step and share of waiting for data."""
        self._write("train", step, values)
        rate, wait = values["seconds_per_step"], values["data_wait"]
        self._bar.update(
            self._task, loss=f"{values['loss']:.3f}", rate=f"{rate:.2f}", wait=f"{wait:.0%}"
        )
        if self._bar.disable:
            eta = timedelta(seconds=round(rate * (self.steps - step)))
            logger.info(
                "step %d/%d  loss %.3f  lr %.2e  %.2f s/step  waiting for data %.0f %%  eta %s",
                *(step, self.steps, values["loss"], values["lr"], rate, 100 * wait, eta),
            )

    def eval(self, step: int, mious: dict[str, float | None], mean: float | None) -> None:
        """Log the mIoU of every domain and the mean, in percent."""
        self._write("eval", step, {**mious, "mean": mean}, nested="miou")
        shown = "  ".join(
            f"{name} {'-' if value is None else f'{value:.1f}'}"
            for name, value in {**mious, "mean": mean}.items()
        )
        logger.info("step %d  mIoU %%  %s", step, shown)

    def best(self, step: int, metric: str, value: float | None) -> None:
        """Log that the weights are the best so far."""
        self._write_line("best", step, {"metric": metric, "value": value})
        logger.info("step %d  best so far: %s %.1f %%", step, metric, value)

    def stop(self, step: int, patience: int) -> None:
        """Log that training ends early."""
        self._write_line("stop", step, {"patience": patience})
        logger.info(
            "step %d  stopped early: %d evaluations in a row were no better than the best",
            *(step, patience),
        )

    def memory(self, step: int, megabytes: float) -> None:
        """Log the peak memory so far."""
        self._write("memory", step, {"peak_memory_mb": round(megabytes, 1)})

    def _write(
        self, event: str, step: int, values: dict[str, Any], nested: str | None = None
    ) -> None:
        content = {nested: values} if nested else values
        self._write_line(event, step, content)
        scalars = {f"{event}/{name}": v for name, v in values.items() if v is not None}
        for tracker in self._trackers:
            tracker.scalars(scalars, step)

    def _write_line(self, event: str, step: int, content: dict[str, Any]) -> None:
        self._file.write(json.dumps({"event": event, "step": step, **content}) + "\n")


class Meter:
    """Mean loss terms, seconds a step and the share of time spent waiting for data.

    Losses are summed where they are computed and read when they are taken, so that a device is
    not stopped every step; a sum that was once not finite stays so.
    """

    def __init__(self, fabric: Fabric):
        self._fabric = fabric
        self.restart()

    def restart(self) -> None:
        """Forget what was measured and start the clock anew."""
        self._sums: dict[str, Tensor] = {}
        self._count, self._waited, self._start = 0, 0.0, time.perf_counter()

    def timed(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Pass batches on and measure how long each was waited for."""
        iterator = iter(batches)
        while True:
            before = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - before
            yield batch

    def step(self, terms: dict[str, Tensor]) -> None:
        """Count one step and its losses."""
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
        self._count += 1

    def take(self, step: int) -> dict[str, float]:
        """Return the means over processes since the last time, and start anew.

        Raises:
            TrainingError: if the loss was not finite.
        """
        means = {
            name: float(reduce(self._fabric, value, "mean")) / self._count
            for name, value in self._sums.items()
        }
        seconds = time.perf_counter() - self._start
        values = {
            **means,
            "seconds_per_step": seconds / self._count,
            "data_wait": self._waited / seconds,
        }
        first = step - self._count + 1
        self.restart()
        if not math.isfinite(values["loss"]):
            raise TrainingError(
                f"the loss is {values['loss']} within steps {first} to {step}: lower train.lr, set "
                "train.clip, or look for broken images; the last checkpoint is from before"
            )
        return values


def list_versions() -> dict[str, str]:
    """Return the versions of what computes: this package's, and those installed now."""
    return {"causalseg": __version__, **{name: version(name) for name in _VERSIONS}}


def describe_platform() -> str:
    """Return operating system and processor family."""
    return f"{platform.system()} {platform.machine()}"


def describe_origin(fabric: Fabric) -> dict[str, Any]:
    """Return what a run is made with: versions, machine, name of the device, precision."""
    return {
        "versions": list_versions(),
        "machine": describe_platform(),
        "device": _device_name(fabric.device),
        "precision": fabric.strategy.precision.precision,
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text()) if info.is_file() else None
    name = found[1].strip() if found else platform.processor()
    return f"{device.type} ({name})" if name else device.type


def peak_memory(device: torch.device) -> float:
    """Return the most memory held so far in MB (10^6 bytes).

    On CUDA that of the device's allocator, elsewhere the resident memory of this process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count what the process that started this one held
        peak = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        if peak:
            return int(peak[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
