"""How much a change of the image moves each band of frequencies of the features.

With x the features of an image on the grid, x' those of the changed image, and B_k what keeps ring
k of the DCT:

    (1) S(k) = E ||B_k (x' - x)||^2 / E ||B_k (x - mean x)||^2    over images and channels
    (2) G(k) = E ||B_k (x' - x)||^2 / E ||B_k x||^2

S is 0 where the change moves nothing, and 2 where x and x' are as different as two images are. What
all images have in common, the mean of x at each coefficient, tells nothing of them, but it is 80 %
of the energy of the lowest frequencies. G has it in: it is the variance of a gain on the features
that changes them as much.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from causalseg.analysis.rings import ring_energy
from causalseg.spectral.grid import Features
from causalseg.spectral.transforms import dct2


class ShiftMeter:
    """G(k) of (2) for the features of several blocks, collected pair by pair.

    ``moved`` and ``power`` are the sums of numerator and denominator of (2), (blocks, rings).
    """

    def __init__(self, rings: int):
        self.rings, self.images = rings, 0
        self.moved = self.power = torch.zeros(0, rings, dtype=torch.float64)

    def update(self, clean: Sequence[Features], changed: Sequence[Features]) -> None:
        """Add the features of images, one entry a block, and those of the changed images."""
        moved = self._sum([b - a for a, b in zip(clean, changed, strict=True)])
        power = self._sum(clean)
        is_first = not self.images
        self.images += len(clean[0])
        self.moved = moved if is_first else self.moved + moved
        self.power = power if is_first else self.power + power

    def gains(self) -> Float[Tensor, "blocks rings"]:
        """Return G(k) of each block; 0 in rings without power."""
        return torch.where(self.power > 0, self.moved / self.power, 0.0)

    def _sum(self, blocks: Sequence[Features]) -> Float[Tensor, "blocks rings"]:
        return torch.stack([ring_energy(dct2(X), self.rings).sum(0).cpu() for X in blocks])


class CommonMeter:
    """What the features of all images have in common: their mean at each coefficient."""

    def __init__(self, rings: int):
        self.rings = rings
        self._sums: list[Tensor] = []
        self._images = 0

    def update(self, clean: Sequence[Features]) -> None:
        """Add the features of images of one size, one entry a block."""
        sums = [dct2(X).sum(0).cpu() for X in clean]
        self._sums = (
            [a + b for a, b in zip(self._sums, sums, strict=True)] if self._images else sums
        )
        self._images += len(clean[0])

    def energy(self) -> Float[Tensor, "blocks rings"]:
        """Return the energy of the mean in each ring, to subtract from that of every image."""
        means = [total[None] / self._images for total in self._sums]
        return torch.stack([ring_energy(mean, self.rings)[0] for mean in means])
