"""Checksums of what a run folder holds, so that a changed file is noticed when it is read.

checksums.json has the SHA-256 of weights and scores by their path in the folder. A folder without
it, of an earlier version, is not checked; nor is config.yaml, which may be edited.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from causalseg.errors import RunError
from causalseg.runs.folder import RunFolder
from causalseg.writing import write_json

_is_ignored = ContextVar("_is_ignored", default=False)


def ignore_checksums(is_ignored: bool = True) -> None:
    """Read changed files without an error, in this thread from now on."""
    _is_ignored.set(is_ignored)


@contextmanager
def sealing(run: RunFolder, *files: Path) -> Iterator[None]:
    """Note the checksums of files that the block writes; broken off, they have none."""
    names = {file.relative_to(run.path).as_posix(): file for file in files}
    kept = {name: known for name, known in _read(run).items() if name not in names}
    if kept != _read(run):
        write_json(run.checksums, kept)
    yield
    made = {name: _sum(file) for name, file in names.items() if file.is_file()}
    write_json(run.checksums, {**_read(run), **made})


def sum_of(run: RunFolder, file: Path) -> str | None:
    """Return the checksum of a file as it was written; None where none was noted."""
    return _read(run).get(file.relative_to(run.path).as_posix())


def check_seal(run: RunFolder, file: Path) -> None:
    """Raise RunError if a file of the run is not as it was written."""
    try:
        name = file.resolve().relative_to(run.path.resolve()).as_posix()
    except ValueError:  # of another folder
        return
    if _is_ignored.get() or not file.is_file():
        return
    known = _read(run).get(name)
    if known and _sum(file) != known:
        raise RunError(
            f"{file} is not what was written into the run: it is damaged, edited or of another "
            "run. Bring it back, or read it as it is with --ignore-checksums or without "
            f"{run.checksums.name}"
        )


def _read(run: RunFolder) -> dict[str, str]:
    if not run.checksums.is_file():
        return {}
    content = run.read_json(run.checksums)
    if not isinstance(content, dict):
        raise RunError(f"{run.checksums} holds no checksums: remove it")
    return content


def _sum(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
