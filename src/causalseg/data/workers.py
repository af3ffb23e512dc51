"""Values computed by loading processes: in order, with errors as if raised in this process."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from torch.utils.data import DataLoader, Dataset

from causalseg.errors import CausalsegError

Item = TypeVar("Item")


def compute_in_order(
    function: Callable[[int], Item], indices: Sequence[int], workers: int
) -> Iterator[Item]:
    """Yield the function's value of every index, in their order.

    The function is copied to ``workers`` processes; 0 computes in this one.
    """
    computed = DataLoader(
        _Computed(function, indices), batch_size=None, num_workers=workers, collate_fn=_keep
    )
    return strip_worker_errors(computed)


def strip_worker_errors(loader: Iterable[Item]) -> Iterator[Item]:
    """Yield the items of a loader; remove the worker's traceback from our errors."""
    try:
        yield from loader
    except CausalsegError as error:
        kind = type(error)
        message = str(error).rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2]
        raise kind(message.strip()) from None


class _Computed(Dataset[Item]):
    """The values of a function as a data set."""

    def __init__(self, function: Callable[[int], Item], indices: Sequence[int]):
        self.function, self.indices = function, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Item:
        return self.function(self.indices[i])


def _keep(value: Item) -> Item:
    """Keep arrays, which a loader would turn into tensors."""
    return value
