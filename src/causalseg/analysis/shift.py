"""How much a change of the image moves each band of frequencies of the features.

With x the features of an image on the grid, x' those of the changed image, and B_k what keeps ring
k of the DCT:

    (1) S(k) = E ||B_k (x' - x)||^2 / E ||B_k x||^2      over images, positions and channels

0 where the change moves nothing; 2 where x and x' are unrelated in that band.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from causalseg.analysis.rings import ring_energy
from causalseg.spectral.grid import Features
from causalseg.spectral.transforms import dct2


class ShiftMeter:
    """S(k) of (1) for the features of several blocks, collected pair by pair.

    ``moved`` and ``power`` are the sums of its numerator and denominator, (blocks, rings).
    """

    def __init__(self, rings: int):
        self.rings = rings
        self.moved = self.power = torch.zeros(0, rings, dtype=torch.float64)

    def update(self, clean: Sequence[Features], changed: Sequence[Features]) -> None:
        """Add the features of images, one entry a block, and those of the changed images."""
        moved = self._sum([b - a for a, b in zip(clean, changed, strict=True)])
        power = self._sum(clean)
        is_first = not len(self.moved)
        self.moved = moved if is_first else self.moved + moved
        self.power = power if is_first else self.power + power

    def shift(self) -> Float[Tensor, "blocks rings"]:
        """Return S(k) of each block; 0 in rings without power."""
        return torch.where(self.power > 0, self.moved / self.power, 0.0)

    def _sum(self, blocks: Sequence[Features]) -> Float[Tensor, "blocks rings"]:
        return torch.stack([ring_energy(dct2(X), self.rings).sum(0).cpu() for X in blocks])
