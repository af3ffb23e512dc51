"""The run folder: the only interface between training, evaluation, prediction and reports."""

import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from causalseg.config.reading import read_yaml
from causalseg.errors import InUseError, MissingFileError, RunError
from causalseg.writing import write_text

_MADE_BY = {
    "config.yaml": "`causalseg train` writes it first",
    "adapter.safetensors": "`causalseg train` writes it when training ends",
    "head.safetensors": "`causalseg train` writes it when training ends",
    "last.ckpt": "`causalseg train` writes it every run.save_every steps",
    "gains.safetensors": "`causalseg adapt` writes it",
    "eval.json": "`causalseg eval` writes it",
    "log.jsonl": "`causalseg train` writes it",
}


class RunFolder:
    """Names and safe access to the files of one run; the folder need not exist yet.

    Scores, pictures and report are those of training, in the run folder, or those of a later
    ``evaluation``, in its evals/EVALUATION.
    """

    def __init__(self, path: Path | str, evaluation: str | None = None):
        self.path = Path(path).expanduser()
        self.evaluations = self.path / "evals"
        self.results = self.evaluations / evaluation if evaluation else self.path
        self.config = self.path / "config.yaml"
        self.adapter = self.path / "adapter.safetensors"
        self.head = self.path / "head.safetensors"
        self.gains = self.path / "gains.safetensors"  # of a run adapted to target images
        self.origin = self.path / "origin.json"  # of a run that was made of others
        self.log = self.path / "log.jsonl"
        self.trackers = self.path / "trackers.json"  # what trackers call the run
        self.eval = self.results / "eval.json"
        self.report = self.results / "report.html"
        self.card = self.path / "README.md"
        self.checksums = self.path / "checksums.json"
        self.checkpoint = self.path / "last.ckpt"
        self.best = self.path / "best"  # a folder: weights, and best.json that says of what
        self.pictures = self.results / "pictures"
        self.predictions = self.results / "predictions"

    def list_evaluations(self) -> list[str]:
        """Return the names of all evaluations after training."""
        return sorted(file.parent.name for file in self.evaluations.glob("*/eval.json"))

    def need(self, file: Path) -> Path:
        """Return a file of the run; raise MissingFileError, which says how to make it."""
        if not self.path.is_dir():
            raise MissingFileError(
                f"no run folder {self.path}: give the folder that `causalseg train` made (run.out)"
            )
        if not file.is_file():
            hint = _MADE_BY.get(file.name, "is the run complete?")
            raise MissingFileError(f"run folder {self.path} has no {file.name}: {hint}")
        return file

    def read_json(self, file: Path) -> Any:
        """Read a JSON file of the run. Raises MissingFileError, or RunError if it is broken."""
        self.need(file)
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(f"{file} is not valid JSON ({error}): make it again") from error

    def read_config(self) -> dict[str, Any]:
        """Read config.yaml. Raises MissingFileError, ConfigError or RunError if it is broken."""
        config = read_yaml(self.need(self.config))
        if not isinstance(config, dict):
            raise RunError(f"{self.config} is not the configuration that training writes")
        return config

    def remove_leftovers(self, is_resumed: bool) -> None:
        """Remove temporary files of a killed process and, unless resumed, earlier best weights."""
        for folder in (self.path, self.best):
            for leftover in folder.glob(".*.tmp"):
                leftover.unlink()
        if not is_resumed:
            shutil.rmtree(self.best, ignore_errors=True)

    def read_log(self) -> list[dict[str, Any]]:
        """Read the events of the log, without a last line that a crash cut short.

        Raises MissingFileError without a log, RunError if another line is no event.
        """
        events = []
        lines = self.need(self.log).read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                event = None
                if number == len(lines):
                    break
            if not _is_event(event):
                raise RunError(
                    f"{self.log} has no event of training in line {number}: {line[:60]!r}; remove "
                    "the line, or bring the file back"
                )
            events.append(event)
        return events


def _is_event(event: Any) -> bool:
    """Whether a line of the log has what every event has."""
    if not isinstance(event, dict) or type(event.get("step")) is not int:
        return False
    kind = event.get("event")
    if kind == "train":
        return type(event.get("loss")) in (int, float)
    return isinstance(kind, str) and (kind != "eval" or isinstance(event.get("miou"), dict))


def open_scored(path: Path | str) -> RunFolder:
    """Return a run folder RUN, or one of its evaluations, RUN/evals/NAME."""
    path = Path(path).expanduser()
    run = RunFolder(path.parent.parent)
    if path.parent == run.evaluations and path.name in run.list_evaluations():
        return RunFolder(run.path, path.name)
    return RunFolder(path)


@contextmanager
def locked(folder: Path, name: str = "", timeout: float = 0) -> Iterator[None]:
    """Keep other processes out of a folder, or of what ``name`` stands for in it.

    The system releases the lock when the process ends, however it ends. Raises InUseError, which
    names the process that has it, after ``timeout`` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(folder / f"{name}.lock", timeout=timeout), folder / f"{name}.owner"
    try:
        lock.acquire()
    except Timeout:
        known = "another process"
        with suppress(FileNotFoundError):
            known = owner.read_text(encoding="utf-8")
        raise InUseError(
            f"{folder} is in use by {known}: wait until it ends, stop it, or choose another folder"
        ) from None
    except NotImplementedError:  # before filelock 4, on a file system without locks
        pass
    try:
        write_text(owner, f"process {os.getpid()} on {platform.node()}")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()
