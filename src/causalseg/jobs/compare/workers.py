"""The cells of a comparison: one `causalseg train` each, in a process of its own.

Several run side by side and share the cores; CUDA devices are assigned in turn.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch

from causalseg.config import Config
from causalseg.config.load import dump_config
from causalseg.report.result import Method
from causalseg.runs.folder import RunFolder
from causalseg.runs.log import logger
from causalseg.writing import write_text

_GO_ON = "stopped; the same command continues: finished runs are kept, the others are resumed"
_PATIENCE = 10.0  # seconds until a process that was asked to end is killed
_TRAINING = 0.9  # estimated fraction of a cell's time spent in training, not in scoring
_POLL = 0.5  # seconds


class StudyCell(NamedTuple):
    """One method with one seed."""

    method: Method
    seed: int
    config: Config

    @property
    def run(self) -> RunFolder:
        """Its run folder."""
        return RunFolder(self.config.run.out)

    @property
    def key(self) -> tuple[str, int]:
        """Name of the method and seed."""
        return self.method.name, self.seed

    @property
    def label(self) -> str:
        """Its name for people."""
        return f"{self.method.name} seed {self.seed}"

    @property
    def is_finished(self) -> bool:
        """Whether it is trained and scored; the report is written last."""
        run = self.run
        return run.eval.is_file() and (run.report.is_file() or not run.checkpoint.is_file())

    @property
    def progress(self) -> float:
        """The finished fraction of an unfinished cell, from its log."""
        log = self.run.log
        steps = re.findall(rb'"step": (\d+)', log.read_bytes()[-2000:]) if log.is_file() else []
        return _TRAINING * min(1.0, int(steps[-1]) / self.config.train.steps) if steps else 0.0


class _Job(NamedTuple):
    """A running cell: its process, its log, and the offset of this attempt in the log."""

    cell: StudyCell
    process: subprocess.Popen[bytes]
    log: Path
    offset: int


def run_cells(
    cells: Sequence[StudyCell], jobs: int, ended: Callable[[StudyCell, str | None], None]
) -> None:
    """Run unfinished cells in their order, at most ``jobs`` side by side.

    ``ended`` is called with each cell when it ends, and with the reason if it failed. A signal
    stops the processes, then raises KeyboardInterrupt.
    """
    waiting, working = list(cells), dict[int, _Job]()
    start, work = time.monotonic(), sum(1 - cell.progress for cell in cells)
    with _stopped_by_signals():
        try:
            while waiting or working:
                free = [slot for slot in range(jobs) if slot not in working]
                for slot in free[: len(waiting)]:
                    working[slot] = _start(waiting.pop(0), jobs, slot)
                time.sleep(_POLL)
                over = {slot: j for slot, j in working.items() if j.process.poll() is not None}
                for slot, job in over.items():
                    del working[slot]
                    failure = _failure(job)
                    ended(job.cell, failure)
                    unfinished = [*waiting, *(job.cell for job in working.values())]
                    rest = sum(1 - cell.progress for cell in unfinished)
                    done = max(0.01, work - rest)  # a run that starts again loses its progress
                    left = timedelta(seconds=round((time.monotonic() - start) * rest / done))
                    count = f"{len(cells) - len(unfinished)} of {len(cells)} runs"
                    outcome = failure or "finished"
                    logger.info("%s: %s (%s, about %s left)", job.cell.label, outcome, count, left)
        finally:
            _stop([job.process for job in working.values()])


def _start(cell: StudyCell, jobs: int, slot: int) -> _Job:
    run, options = cell.run, cell.config.run
    threads = options.threads or max(1, torch.get_num_threads() // (jobs * options.devices))
    own = cell.config.with_options("run", threads=threads, resume=run.checkpoint.is_file())
    request, path = run.path / "request.yaml", run.path / "train.log"
    write_text(request, dump_config(own))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    devices = _cuda_devices(cell.config)
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    with path.open("ab") as log:
        offset = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "causalseg", "train", str(request)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches this process, which stops its children
        )
    logger.info("%s: started, log in %s", cell.label, path)
    return _Job(cell, process, path, offset)


def _cuda_devices(config: Config) -> list[str]:
    """Return the CUDA devices to assign; none if there is only one, or a cell takes several."""
    if config.run.accelerator not in ("auto", "cuda") or config.run.devices > 1:
        return []
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",")[:count] if visible else [str(i) for i in range(count)]
    return names if len(names) > 1 else []


def _failure(job: _Job) -> str | None:
    """Return the error message of a cell that failed, or the last line of its log."""
    code = job.process.returncode
    if code == 0:
        return None
    text = job.log.read_bytes()[job.offset :].decode(errors="replace").strip()
    *_, message = re.split(r"^error: ", text, flags=re.MULTILINE)
    reason = text.rpartition("\n")[2] if message == text else message
    if code < 0:
        reason = f"ended by signal {-code}" + (", often for lack of memory" if code == -9 else "")
    return f"{reason or f'exit code {code}'} (log: {job.log})"


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes and all that they started; a checkpoint is always whole."""
    for process in processes:
        _end(process, by_force=False)
    for process in processes:
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            _end(process, by_force=True)
            process.wait()


def _end(process: subprocess.Popen[bytes], by_force: bool) -> None:
    with suppress(ProcessLookupError):
        if sys.platform == "win32":
            process.terminate()
        else:
            os.killpg(process.pid, signal.SIGKILL if by_force else signal.SIGTERM)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM and a closed terminal stop the work as Ctrl-C does, and say how to continue."""
    with ExitStack() as stack:
        for number in (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")):
            # Windows has no SIGHUP, and under nohup it is ignored.
            if number and signal.getsignal(number) is not signal.SIG_IGN:
                before = signal.signal(number, signal.default_int_handler)
                stack.callback(signal.signal, number, before)
        try:
            yield
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_GO_ON) from None
