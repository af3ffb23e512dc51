"""Loading processes: what they yield comes in order, their errors as if raised here."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from torch.utils.data import DataLoader, Dataset

from causalseg.errors import CausalsegError

Item = TypeVar("Item")


def in_order(
    function: Callable[[int], Item], indices: Sequence[int], workers: int
) -> Iterator[Item]:
    """Yield the function's value of every index, in their order.

    Args:
        function: what to compute; it is copied to the processes.
        indices: what it is called with.
        workers: processes that compute; 0 takes this one.
    """
    computed = DataLoader(
        _Computed(function, indices), batch_size=None, num_workers=workers, collate_fn=_as_it_is
    )
    return plain_errors(computed)


def plain_errors(loader: Iterable[Item]) -> Iterator[Item]:
    """Pass on what a loader yields; an error of ours from a worker loses the worker's traceback."""
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

    def __getitem__(self, place: int) -> Item:
        return self.function(self.indices[place])


def _as_it_is(value: Item) -> Item:
    """Keep arrays arrays; a loader would make tensors of them."""
    return value
