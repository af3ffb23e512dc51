"""Values computed by loading processes: in order, with errors as if raised in this process."""

import re
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

from torch.utils.data import DataLoader

from causalseg.errors import END_SIGNALS, CausalsegError, TrainingError

Item = TypeVar("Item")
_DIED = re.compile(r"DataLoader worker .*(killed by signal|exited unexpectedly)")  # by torch


def leave_signals(worker: int) -> None:
    """Let the main process decide when to end: a signal to all would kill this one first."""
    for number in END_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def compute_in_order(
    function: Callable[[int], Item], indices: Sequence[int], workers: int
) -> Iterator[Item]:
    """Yield the function's value of every index, in their order.

    The function is copied to ``workers`` processes; 0 computes in this one.
    """
    # Without batches, a loader's "collate" function is what its processes apply to each item.
    items, apply = cast(Any, indices), cast(Any, function)
    return strip_worker_errors(
        DataLoader(items, None, num_workers=workers, collate_fn=apply, worker_init_fn=leave_signals)
    )


def strip_worker_errors(loader: Iterable[Item]) -> Iterator[Item]:
    """Yield the items of a loader; remove the worker's traceback from our errors."""
    try:
        yield from loader
    except CausalsegError as error:
        kind = type(error)
        message = str(error).rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2]
        raise kind(message.strip()) from None
    except RuntimeError as error:
        if (told := explain_death(error)) is None:
            raise
        raise told from None


def explain_death(error: RuntimeError) -> TrainingError | None:
    """Return the error for a loading process that was killed; None for another error.

    Torch raises it wherever the main process is at that moment.
    """
    if not _DIED.search(str(error)):
        return None
    return TrainingError(
        f"a loading process was killed ({str(error).splitlines()[0]}), mostly for lack of "
        "memory: lower train.workers, train.batch or train.crop, or give the job more memory"
    )
