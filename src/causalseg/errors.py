"""The errors a user can cause. Each says what was given, what is allowed and what to do.

The command line turns every one of them into one message and exit code 2.
"""

import difflib
from collections.abc import Iterable


class CausalsegError(ValueError):
    """Base of all errors that a user can mend."""


class ConfigError(CausalsegError):
    """A wrong key or value in a configuration."""


class DataError(CausalsegError):
    """An image, a label or a folder that cannot be used."""


class WeightsError(CausalsegError):
    """Weights that cannot be found, read or placed."""


class RunError(CausalsegError):
    """A run folder or checkpoint that is incomplete, broken or in use."""


class TrainingError(CausalsegError):
    """Training that cannot go on, such as a loss that is not finite."""


class MissingFileError(CausalsegError, FileNotFoundError):
    """A file or folder that is not there."""


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return ``did you mean 'x'? Allowed: a, b, c`` for a name that is not among ``allowed``."""
    names = sorted(allowed)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}Allowed: {', '.join(names)}"
