"""How much a change of the image moves each band of frequencies of the features.

With x the features of an image on the grid, x' those of the changed image, and B_k what keeps ring
k of the DCT:

    (1) S(k) = E ||B_k (x' - x)||^2 / E ||B_k x||^2      over images, positions and channels

0 where the change moves nothing; 2 where x and x' are unrelated in that band.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from causalseg.spectral.bands import frequencies
from causalseg.spectral.grid import Features, GridSize
from causalseg.spectral.transforms import cache_constant, dct2


@cache_constant
def ring_index(
    grid: GridSize, rings: int, device: torch.device | str = "cpu"
) -> Int[Tensor, "h w"]:
    """Return the ring, 0 to rings - 1, of each DCT coefficient.

    Rings have equal width in ``sqrt((u^2 + v^2) / 2)``, in [0, 1), with u = i / h and v = j / w.
    """
    u, v = (frequencies(n, device) for n in grid)
    radius = ((u[:, None] ** 2 + v[None] ** 2) / 2).sqrt()
    return (radius * rings).long()


class ShiftMeter:
    """S(k) of (1) for the features of several blocks, collected pair by pair."""

    def __init__(self, rings: int):
        self.rings = rings
        self._moved: list[Tensor] = []
        self._power: list[Tensor] = []

    def update(self, clean: Sequence[Features], changed: Sequence[Features]) -> None:
        """Add the features of images, one entry a block, and those of the changed images."""
        moved = [self._sum(b - a) for a, b in zip(clean, changed, strict=True)]
        power = [self._sum(a) for a in clean]
        self._moved = _add(self._moved, moved)
        self._power = _add(self._power, power)

    def shift(self) -> Float[Tensor, "blocks rings"]:
        """Return S(k) of each block; 0 in rings without power."""
        moved, power = torch.stack(self._moved), torch.stack(self._power)
        return torch.where(power > 0, moved / power, 0.0)

    def _sum(self, X: Features) -> Float[Tensor, " rings"]:
        energy = dct2(X).square().sum((0, 3)).double().flatten()
        index = ring_index((X.shape[1], X.shape[2]), self.rings, X.device).flatten()
        return energy.new_zeros(self.rings).index_add(0, index, energy)


def _add(total: list[Tensor], more: list[Tensor]) -> list[Tensor]:
    return [a + b for a, b in zip(total, more, strict=True)] if total else more
