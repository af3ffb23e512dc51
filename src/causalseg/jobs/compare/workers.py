"""The cells of a comparison: one `causalseg train` each, in a process of its own.

Any number of workers share a comparison's folder. Each takes the next cell that is neither finished
nor claimed. A claim is a lock beside the run folder, which the system releases when its worker
dies; the next worker then resumes the cell. A worker runs several cells side by side, which share
the cores; CUDA devices are assigned in turn.
"""

import itertools
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch

from causalseg.config import Config
from causalseg.config.load import dump_config, flatten
from causalseg.config.stages import Stage, stage_of
from causalseg.errors import InUseError, RunError
from causalseg.report.result import Method
from causalseg.runs.folder import RunFolder, locked
from causalseg.runs.log import logger
from causalseg.writing import write_text

WRITING_TIME = 600.0  # seconds that a worker waits for another one that writes the tables
_FREE = Stage.COMPARE | Stage.OWN  # options that may differ between workers
_GO_ON = "stopped; the same command continues: finished runs are kept, the others are resumed"
_PATIENCE = 60.0  # seconds until a process that was asked to end is killed; it ends after its step
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
        """The finished fraction, of an unfinished cell from its log."""
        if self.is_finished:
            return 1.0
        log = self.run.log
        steps = re.findall(rb'"step": (\d+)', log.read_bytes()[-2000:]) if log.is_file() else []
        return _TRAINING * min(1.0, int(steps[-1]) / self.config.train.steps) if steps else 0.0


class _Job(NamedTuple):
    """A running cell: claim, process, log, and the offset of this attempt in the log."""

    cell: StudyCell
    claim: ExitStack
    process: subprocess.Popen[bytes]
    log: Path
    offset: int


@contextmanager
def join_workers(out: Path, cells: Sequence[StudyCell], reference: str) -> Iterator[int]:
    """Be a worker of a comparison; yields its number among those on this machine, from 0.

    Raises RunError if workers of another comparison run in the folder.
    """
    folder, own = out / ".workers", _identify(cells, reference)
    with ExitStack() as stack:
        with locked(out, timeout=WRITING_TIME):
            for other in folder.glob("*.lock"):
                if not other.name.startswith(own):
                    _check_ended(out, other)
            for number in itertools.count():
                with suppress(InUseError):
                    stack.enter_context(locked(folder, f"{own}-{platform.node()}-{number}"))
                    break
        yield number


def _identify(cells: Sequence[StudyCell], reference: str) -> str:
    """Return a short name of what all workers of a comparison have in common."""
    contents = []
    for cell in cells:
        options = flatten(cell.config.model_dump(mode="json"))
        decisive = [pair for pair in options if not stage_of(Config, pair[0]) & _FREE]
        contents.append([cell.key, decisive])
    return sha256(json.dumps([reference, contents]).encode()).hexdigest()[:12]


def _check_ended(out: Path, lock: Path) -> None:
    try:
        with locked(lock.parent, lock.stem):
            pass
    except InUseError as error:
        raise RunError(
            f"another comparison runs in {out}, and only the same command can join it: {error}"
        ) from error


def run_cells(
    cells: Sequence[StudyCell], slots: range, ended: Callable[[StudyCell, str | None], None]
) -> None:
    """Run cells that no other worker has, in their order, at most one in each slot.

    ``ended`` is called with each cell of this worker when it ends, and with the reason if it
    failed. Returns when no cell is free. A signal stops the processes, then raises
    KeyboardInterrupt.
    """
    rest, working = list(cells), dict[int, _Job]()  # rest: failed here are left out
    start, work = time.monotonic(), sum(1 - cell.progress for cell in cells)
    with _stopped_by_signals():
        try:
            while True:
                _start_free(rest, working, slots)
                if not working:
                    return
                while not (over := [s for s, j in working.items() if j.process.poll() is not None]):
                    time.sleep(_POLL)
                for slot in over:
                    job = working.pop(slot)
                    with job.claim:
                        failure = _failure(job)
                        ended(job.cell, failure)
                    rest.remove(job.cell)
                    left = sum(1 - cell.progress for cell in rest)
                    done = max(0.01, work - left)  # a run that starts again loses its progress
                    time_left = timedelta(seconds=round((time.monotonic() - start) * left / done))
                    count = len(cells) - sum(not cell.is_finished for cell in rest)
                    text = "%s: %s (%d of %d runs, about %s left)"
                    outcome = failure or "finished"
                    logger.info(text, job.cell.label, outcome, count, len(cells), time_left)
        finally:
            _stop([job.process for job in working.values()])
            for job in working.values():
                job.claim.close()


def _start_free(cells: Sequence[StudyCell], working: dict[int, _Job], slots: range) -> None:
    """Start the next cells that can be claimed, one in each free slot."""
    free = [slot for slot in slots if slot not in working]
    own = {job.cell.key for job in working.values()}
    for cell in cells:
        if not free:
            return
        if cell.key not in own and not cell.is_finished and (claim := _claim(cell)):
            slot = free.pop(0)
            working[slot] = _start(cell, claim, len(slots), slot)


def _claim(cell: StudyCell) -> ExitStack | None:
    """Lock a cell; None if another worker has it or has just finished it."""
    folder = cell.run.path
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder.parent, f".{folder.name}"))
            with locked(folder):  # the training of a worker that was killed may go on
                pass
        except InUseError:
            return None
        return None if cell.is_finished else stack.pop_all()


def _start(cell: StudyCell, claim: ExitStack, jobs: int, slot: int) -> _Job:
    run, options = cell.run, cell.config.run
    threads = options.threads or max(1, torch.get_num_threads() // (jobs * options.devices))
    own = cell.config.with_options("run", threads=threads, resume=run.checkpoint.is_file())
    request, path = run.path / "request.yaml", run.path / "train.log"
    write_text(request, dump_config(own))
    # A cell trains on this machine alone, whatever job of SLURM its worker belongs to.
    environment = {key: v for key, v in os.environ.items() if not key.startswith("SLURM_")}
    environment["OMP_NUM_THREADS"] = str(threads)
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
    return _Job(cell, claim, process, path, offset)


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
    deadline = time.monotonic() + _PATIENCE
    for process in processes:
        try:
            process.wait(max(0, deadline - time.monotonic()))
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
