"""Values computed by loading processes: in order, with errors as if raised in this process."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

from torch.utils.data import DataLoader

from causalseg.errors import CausalsegError, TrainingError

Item = TypeVar("Item")
_DIED = re.compile(r"DataLoader worker .*(killed by signal|exited unexpectedly)")  # by torch


def compute_in_order(
    function: Callable[[int], Item], indices: Sequence[int], workers: int
) -> Iterator[Item]:
    """Yield the function's value of every index, in their order.

    The function is copied to ``workers`` processes; 0 computes in this one.
    """
    # Without batches, a loader's "collate" function is what its processes apply to each item.
    items, apply = cast(Any, indices), cast(Any, function)
    return strip_worker_errors(DataLoader(items, None, num_workers=workers, collate_fn=apply))


def strip_worker_errors(loader: Iterable[Item]) -> Iterator[Item]:
    """Yield the items of a loader; remove the worker's traceback from our errors."""
    try:
        yield from loader
    except CausalsegError as error:
        kind = type(error)
        message = str(error).rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2]
        raise kind(message.strip()) from None
    except RuntimeError as error:
        if not _DIED.search(str(error)):
            raise
        raise TrainingError(
            f"a loading process was killed ({str(error).splitlines()[0]}), mostly for lack of "
            "memory: lower train.workers, train.batch or train.crop, or give the job more memory"
        ) from None
