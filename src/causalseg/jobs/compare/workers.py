"""The cells of a comparison at work: one `causalseg train` each, in a process of its own.

At most so many run side by side and share the cores; several CUDA devices are dealt in turn. A
process holds a lock on its log as long as it lives, so nothing is trained twice at a time even if
the comparison that started it was killed.
"""

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import BinaryIO, NamedTuple, NoReturn

import torch
from rich.progress import BarColumn, Progress, TextColumn

from causalseg.config import Config
from causalseg.config.load import dump_config
from causalseg.errors import CausalsegError, RunError
from causalseg.report.comparison import Method
from causalseg.runs.folder import RunFolder
from causalseg.runs.log import console, logger
from causalseg.writing import write_text

_GO_ON = "stopped; the same command goes on: what is finished is kept, the rest continues"
_PATIENCE = 10.0  # seconds that a process has to end by itself
_TRAINING = 0.9  # share of a cell's time that is training, not scoring: a guess
_PAUSE = 0.5  # seconds between two looks


class Cell(NamedTuple):
    """One method with one seed."""

    method: Method
    seed: int
    config: Config

    @property
    def run(self) -> RunFolder:
        """Where it is trained."""
        return RunFolder(self.config.run.out)

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
        """The share that is done of a cell at work, as far as its log says."""
        log = self.run.log
        steps = re.findall(rb'"step": (\d+)', log.read_bytes()[-2000:]) if log.is_file() else []
        return _TRAINING * min(1.0, int(steps[-1]) / self.config.train.steps) if steps else 0.0


Ended = Callable[[Cell, str | None], None]


class _Job(NamedTuple):
    """A cell at work: its process, its log and where its part of it begins."""

    cell: Cell
    process: subprocess.Popen[bytes]
    log: Path
    start: int


class _Clock:
    """Shares of cells done since the start, and from them the time left."""

    def __init__(self, cells: Sequence[Cell]):
        self._cells, self._start = cells, time.monotonic()
        self._before = sum(cell.progress for cell in cells)

    def left(self, unfinished: Sequence[Cell]) -> str:
        """Return the time left as h:mm:ss."""
        rest = len(unfinished) - sum(cell.progress for cell in unfinished)
        done = len(self._cells) - self._before - rest
        if done <= 0:
            return "-"
        seconds = round((time.monotonic() - self._start) * rest / done)
        return f"{seconds // 3600}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"


def run_cells(cells: Sequence[Cell], jobs: int, ended: Ended) -> None:
    """Run cells in their order, at most ``jobs`` side by side.

    Args:
        cells: none of them finished.
        jobs: at least 1.
        ended: called with each cell when it ends, and with what went wrong if it failed.

    Raises:
        KeyboardInterrupt: if stopped by hand or by a signal; the processes are stopped first.
    """
    waiting, working, clock = list(cells), dict[int, _Job](), _Clock(cells)
    bar = Progress(
        TextColumn("{task.completed}/{task.total} runs{task.fields[failed]}"),
        BarColumn(),
        TextColumn("eta {task.fields[left]}  at work: {task.fields[names]}", markup=False),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=len(cells), failed="", left="-", names="-")
    failed = 0

    def end(cell: Cell, failure: str | None) -> None:
        nonlocal failed
        failed += failure is not None
        ended(cell, failure)
        if bar.disable:
            logger.info("%s: %s", cell.label, failure or "finished")

    with _signals_stop(), bar:
        try:
            while waiting or working:
                while waiting and len(working) < jobs:
                    slot = next(slot for slot in range(jobs) if slot not in working)
                    cell = waiting.pop(0)
                    try:
                        working[slot] = _start(cell, jobs, slot)
                        logger.info("%s: started, log in %s", cell.label, working[slot].log)
                    except CausalsegError as error:
                        end(cell, str(error))
                time.sleep(_PAUSE)
                for slot, job in list(working.items()):
                    if job.process.poll() is not None:
                        del working[slot]
                        end(job.cell, _failure(job))
                at_work = [job.cell for job in working.values()]
                left = clock.left([*waiting, *at_work])
                names = ", ".join(cell.label for cell in at_work)
                count = len(cells) - len(waiting) - len(at_work)
                if bar.disable and count > bar.tasks[0].completed:
                    logger.info("%d/%d runs  eta %s  at work: %s", count, len(cells), left, names)
                shown = f", {failed} failed" if failed else ""
                bar.update(task, completed=count, failed=shown, left=left, names=names)
        finally:
            _stop([job.process for job in working.values()])


def open_log(run: RunFolder) -> BinaryIO:
    """Open a cell's log to append, locked for as long as a process holds it open.

    Raises:
        RunError: if another process holds it.
    """
    path = run.path / "train.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.open("ab")
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.close()
        raise RunError(f"{run.path} is being trained by another process: wait or stop it") from None
    except OSError:
        logger.debug("%s: the file system has no locks", path)
    return log


def _start(cell: Cell, jobs: int, slot: int) -> _Job:
    """Start a cell's process; its log says everything, nothing reaches the terminal."""
    run, options = cell.run, cell.config.run
    threads = options.threads or max(1, torch.get_num_threads() // (jobs * options.devices))
    changed = options.model_copy(update={"threads": threads, "resume": run.checkpoint.is_file()})
    request = run.path / "request.yaml"
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    devices = _cuda_devices(cell.config)
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    with open_log(run) as log:
        write_text(request, dump_config(cell.config.model_copy(update={"run": changed})))
        start = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "causalseg", "train", str(request)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches this process, which stops its children
        )
        return _Job(cell, process, Path(log.name), start)


def _cuda_devices(config: Config) -> list[str]:
    """The CUDA devices to deal to cells; none to deal if there is one, or cells need several."""
    if config.run.accelerator not in ("auto", "cuda") or config.run.devices > 1:
        return []
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",")[:count] if visible else [str(i) for i in range(count)]
    return names if len(names) > 1 else []


def _failure(job: _Job) -> str | None:
    """Why a cell failed: its error message, or the last line of its log; None if it did not."""
    code = job.process.returncode
    if code == 0:
        return None
    text = job.log.read_bytes()[job.start :].decode(errors="replace").strip()
    _, found, message = text.rpartition("\nerror: " if "\nerror: " in text else "error: ")
    reason = message if found else (text.splitlines() or [""])[-1]
    if code < 0:
        reason = f"ended by signal {-code}" + (", often for lack of memory" if code == -9 else "")
    return f"{reason or f'exit code {code}'} (log: {job.log})"


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes and all that they started; their checkpoints are whole at any moment."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    for process in processes:
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def _signals_stop() -> Iterator[None]:
    """Let SIGTERM and a closed terminal stop the work as Ctrl-C does, and say how to go on."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    # What is ignored stays so: nohup ignores the closed terminal.
    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_GO_ON) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
