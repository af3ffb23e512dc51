"""The stream of training batches: a pure function of seed and step.

Sample number p of a run (p = step x batch + place) is place p mod N of the permutation of epoch
p div N, augmented with a generator seeded by (seed, p). Nothing is carried from step to step, so a
run may stop anywhere and go on, and may use any number of workers or processes.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from causalseg.data.dataset import Sample
from causalseg.data.transforms import Augment
from causalseg.errors import CausalsegError

Item = TypeVar("Item")


class AugmentedData(Dataset[Sample]):
    """A data set indexed by (index, seed): the sample, augmented with that seed."""

    def __init__(self, data: Dataset[Sample], augment: Augment):
        self.data, self.augment = data, augment

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        index, seed = key
        return self.augment(self.data[index], torch.Generator().manual_seed(seed))


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Yields this process's (index, seed) pairs of every step.

    Args:
        length: N, samples in the data set.
        batch: images a step, over all processes.
        steps: first step and the step after the last.
        seed: seed of the run.
        process: number of this process and how many there are; the latter divides ``batch``.
    """

    def __init__(
        self,
        length: int,
        batch: int,
        steps: tuple[int, int],
        seed: int,
        process: tuple[int, int] = (0, 1),
    ):
        self.length, self.batch, self.steps = length, batch, range(*steps)
        self.seed, self.process = seed, process

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rank, count = self.process
        epoch, order = -1, np.empty(0, dtype=int)
        for step in self.steps:
            pairs = []
            for p in range(step * self.batch + rank, (step + 1) * self.batch, count):
                if p // self.length != epoch:
                    epoch = p // self.length
                    order = np.random.default_rng((self.seed, epoch)).permutation(self.length)
                pairs.append((int(order[p % self.length]), derive_seed(self.seed, p)))
            yield pairs


def derive_seed(*numbers: int) -> int:
    """Return a 32-bit seed from non-negative numbers; different numbers, unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def make_loader(
    data: AugmentedData, sampler: StepSampler, workers: int, is_pinned: bool = False
) -> DataLoader[Sample]:
    """Return the loader of training batches, in the order of steps; pinned for a GPU."""
    return DataLoader(
        data,
        batch_sampler=sampler,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        pin_memory=is_pinned,
    )


def plain_errors(loader: Iterable[Item]) -> Iterator[Item]:
    """Pass on what a loader yields; an error of ours from a worker loses the worker's traceback."""
    try:
        yield from loader
    except CausalsegError as error:
        kind = type(error)
        message = str(error).rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2]
        raise kind(message.strip()) from None
