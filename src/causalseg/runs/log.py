"""The log of a run: log.jsonl, trackers, and a progress bar or lines."""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from causalseg.runs.folder import RunFolder
from causalseg.runs.trackers import open_trackers
from causalseg.writing import write_text

logger = logging.getLogger("causalseg")
console = Console(stderr=True)  # shared, so that bars are printed below each other


class RunLog:
    """Writes the events of a run; a context manager.

    ``first`` of all ``steps`` are already done; later events of an earlier attempt are dropped.
    """

    def __init__(self, run: RunFolder, steps: int, first: int, trackers: Sequence[str]):
        self._open = ExitStack()
        events = run.read_log() if first and run.log.is_file() else []
        # The last step is scored again when a run ends between training and scoring.
        events = [e for e in events if (e["event"], e["step"]) != ("eval", steps)]
        kept = [event for event in events if event["step"] <= first]
        write_text(run.log, "".join(json.dumps(event) + "\n" for event in kept))
        self._trackers = open_trackers(trackers, run, first)
        for tracker in self._trackers:
            self._open.callback(tracker.close)
        self._file = self._open.enter_context(run.log.open("a", buffering=1, encoding="utf-8"))
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
        self._open.enter_context(self._bar)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def start(self, step: int, origin: dict[str, Any]) -> None:
        """Log the result of `describe_origin`, which holds from this step on."""
        self._write_line("start", step, origin)

    def advance(self, step: int) -> None:
        """Move the progress bar."""
        self._bar.update(self._task, completed=step)

    def train(self, step: int, values: dict[str, float]) -> None:
        """Log loss and its terms, learning rate, seconds a step, fraction of waiting for data."""
        self._write_line("train", step, values)
        self._track("train", step, values)
        rate, wait = values["seconds_per_step"], values["data_wait"]
        loss, lr = values["loss"], values["lr"]
        self._bar.update(self._task, loss=f"{loss:.3f}", rate=f"{rate:.2f}", wait=f"{wait:.0%}")
        if self._bar.disable:
            eta = timedelta(seconds=round(rate * (self.steps - step)))
            text = "step %d/%d  loss %.3f  lr %.2e  %.2f s/step  waiting for data %.0f %%  eta %s"
            logger.info(text, step, self.steps, loss, lr, rate, 100 * wait, eta)

    def eval(self, step: int, mious: dict[str, float | None], mean: float | None) -> None:
        """Log the mIoU of every domain and the mean, in percent."""
        values = {**mious, "mean": mean}
        self._write_line("eval", step, {"miou": values})
        self._track("eval", step, values)
        texts = [f"{k} {'-' if v is None else f'{v:.1f}'}" for k, v in values.items()]
        logger.info("step %d  mIoU %%  %s", step, "  ".join(texts))

    def best(self, step: int, metric: str, value: float | None) -> None:
        """Log that the weights are the best so far."""
        self._write_line("best", step, {"metric": metric, "value": value})
        logger.info("step %d  best so far: %s %.1f %%", step, metric, value)

    def stop(self, step: int, patience: int) -> None:
        """Log that training ends early."""
        self._write_line("stop", step, {"patience": patience})
        text = "step %d  stopped early: %d evaluations in a row were no better than the best"
        logger.info(text, step, patience)

    def memory(self, step: int, megabytes: float) -> None:
        """Log the peak memory so far."""
        values = {"peak_memory_mb": round(megabytes, 1)}
        self._write_line("memory", step, values)
        self._track("memory", step, values)

    def _track(self, event: str, step: int, values: Mapping[str, float | None]) -> None:
        scalars = {f"{event}/{name}": v for name, v in values.items() if v is not None}
        for tracker in self._trackers:
            tracker.log(scalars, step)

    def _write_line(self, event: str, step: int, content: dict[str, Any]) -> None:
        self._file.write(json.dumps({"event": event, "step": step, **content}) + "\n")
