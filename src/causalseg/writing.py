"""Files written whole or not at all: beside their place, then renamed into it.

A reader sees the old file or the new one, never a half.
"""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from causalseg.errors import RunError

_UMASK = os.umask(0o077)  # read once, since reading it sets it for all threads
os.umask(_UMASK)


@contextmanager
def replacing(path: Path, is_durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it into place if the block succeeds.

    ``is_durable``: the content is on the disk before the rename, so that a power cut leaves the old
    file or the new one.

    Raises:
        RunError: if the disk is full or the folder cannot be written; the old file stays whole.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.chmod(0o666 & ~_UMASK)  # some writers make files that only their owner can read
        if is_durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror or error}. What was there before is untouched; "
            "free some space or choose another folder"
        ) from error
    finally:
        with suppress(OSError):  # it may never have been there: a file in place of a folder
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")
