"""The errors a user can cause. Each says what was given, what is allowed and what to do.

The command line turns every one of them into one message and exit code 2.
"""

import difflib
import signal
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

_CLOSE = 0.5  # share of letters that a name meant has in common with the one given


END_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class CausalsegError(ValueError):
    """Base of all errors that a user can mend.

    Attributes:
        is_repeated: whether the first of several processes reports the same error.
    """

    is_repeated = False


class ConfigError(CausalsegError):
    """A wrong key or value in a configuration."""


class DataError(CausalsegError):
    """An image, a label or a folder that cannot be used."""


class WeightsError(CausalsegError):
    """Weights that cannot be found, read or placed."""


class RunError(CausalsegError):
    """A run folder or checkpoint that is incomplete, broken or in use."""


class InUseError(RunError):
    """A folder that another process keeps locked."""


class TrainingError(CausalsegError):
    """Training that cannot go on, such as a loss that is not finite."""


class Terminated(KeyboardInterrupt):
    """The system asked the process to end, by the signal ``number``."""

    def __init__(self, number: int, message: str = ""):
        super().__init__(message)
        self.number = number


class MissingFileError(CausalsegError, FileNotFoundError):
    """A file or folder that is not there."""


def import_extra(extra: str, name: str) -> Any:
    """Import a package that only an extra installs; ConfigError says how to install it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f"this needs {error.name}: pip install 'causalseg[{extra}]'") from None


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return ``did you mean 'x'? Allowed: a, b, c`` for a name that is not among ``allowed``."""
    names = sorted(allowed)
    return f"{guess(name, names)}Allowed: {', '.join(names)}"


def guess(name: str, names: Iterable[str]) -> str:
    """Return ``did you mean 'x' or 'y'? `` with the closest names, or nothing if none is close."""
    likeness = {each: difflib.SequenceMatcher(None, each, name).ratio() for each in names}
    best = max(likeness.values(), default=0)
    close = [repr(each) for each in likeness if likeness[each] == best >= _CLOSE][:3]
    return f"did you mean {' or '.join(close)}? " if close else ""


def list_some(names: Sequence[str], most: int) -> str:
    """Return the first few names and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
