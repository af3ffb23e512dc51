"""The stream of training batches: a pure function of seed and step.

Sample number p of a run (p = step x batch + position) is an image chosen by `Draws`, augmented with
a generator seeded by (seed, p). No state is carried from step to step, so a run may stop and resume
at any step, and use any number of workers or processes.

    PermutedDraws    position p mod N of the permutation of epoch p div N
    WeightedDraws    any image by its sampling weight, independently of all other draws
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from causalseg.data.amplitude import change_amplitude
from causalseg.data.augment import Augment, mix_classes
from causalseg.data.dataset import Sample
from causalseg.data.workers import leave_signals

Draws = Callable[[int], int]
"""The index of the image that is sample number p of a run."""


class AugmentedData(Dataset[Sample]):
    """A data set indexed by (index, seed): the sample, augmented with that seed.

    With probability ``class_mix`` of the augmentation, half of the classes of another image are
    pasted into the crop (ClassMix, Olsson et al., WACV 2021); then comes its ``spectral`` change.
    ``draws`` chooses the other image; None draws uniformly.
    """

    def __init__(self, data: Dataset[Sample], augment: Augment, draws: Draws | None = None):
        self.data, self.augment, self.draws = data, augment, draws

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        index, seed = key
        generator = torch.Generator().manual_seed(seed)
        options = self.augment.options
        sample = self.augment(self.data[index], generator)
        if _happens(options.class_mix, generator):
            sample = mix_classes(sample, self._draw_other(generator), generator)
        if options.spectral and _happens(options.spectral.p, generator):
            other = self._draw_other(generator).image if options.spectral.kind == "mix" else None
            image = change_amplitude(sample.image, options.spectral, generator, other)
            sample = sample._replace(image=image)
        return sample

    def _draw_other(self, generator: torch.Generator) -> Sample:
        """Return the augmented crop of another image."""
        number = int(torch.randint(2**31, (), generator=generator))
        other = self.draws(number) if self.draws else number % len(self)
        return self.augment(self.data[other], generator)


class PermutedDraws:
    """Every one of ``length`` images once an epoch, in a new order each time."""

    def __init__(self, length: int, seed: int):
        self.length, self.seed = length, seed
        self._epoch, self._order = -1, np.empty(0, dtype=int)

    def __call__(self, p: int) -> int:
        """Return the index of the image."""
        if p // self.length != self._epoch:
            self._epoch = p // self.length
            rng = np.random.default_rng((self.seed, self._epoch))
            self._order = rng.permutation(self.length)
        return int(self._order[p % self.length])


class WeightedDraws:
    """Any image at any time, by its sampling weight, from 0."""

    def __init__(self, weights: Sequence[float] | np.ndarray, seed: int):
        self.limits, self.seed = np.cumsum(weights), seed

    def __call__(self, p: int) -> int:
        """Return the index of the image."""
        number = np.random.default_rng((self.seed, p)).random() * self.limits[-1]
        return int(np.searchsorted(self.limits, number, side="right"))


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Yields this process's (index, seed) pairs of every step.

    ``batch`` is images a step over all processes, ``steps`` the first and the one after the last,
    ``process`` rank and number of processes; the latter divides ``batch``.
    """

    def __init__(
        self,
        draws: Draws,
        batch: int,
        steps: tuple[int, int],
        seed: int,
        process: tuple[int, int] = (0, 1),
    ):
        self.draws, self.batch, self.steps = draws, batch, range(*steps)
        self.seed, self.process = seed, process

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rank, count = self.process
        for step in self.steps:
            numbers = range(step * self.batch + rank, (step + 1) * self.batch, count)
            yield [(self.draws(p), derive_seed(self.seed, p)) for p in numbers]


def _happens(probability: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < probability


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
        pin_memory=is_pinned,
        worker_init_fn=leave_signals,
    )
