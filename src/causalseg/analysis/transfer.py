"""What an adapter does to each band: the transfer function of its edit.

With x the features after a block of the frozen model and y those of the adapted one, both computed
from the same input of the block:

    (1) H(k) = <B_k y, B_k x> / <B_k x, B_k x>       1: the ring is kept; 0: removed; above 1: more
    (2) A(k) = ||B_k (y - x)||^2 / ||B_k x||^2       how much is added, in any direction
    (3) spike = ||(y - x) at patch (0, 0)||^2 / ||y - x||^2, over that of an equal spread
"""

import torch
from jaxtyping import Float
from torch import Tensor

from causalseg.analysis.rings import ring_index, sum_by
from causalseg.spectral.grid import Features
from causalseg.spectral.transforms import dct2


class TransferMeter:
    """H, A and the spike of one block, summed over images."""

    def __init__(self, rings: int):
        self.rings = rings
        self._products = torch.zeros(3, rings, dtype=torch.float64)  # <y, x>, <x, x>, ||y - x||^2
        self._corner = torch.zeros(2, dtype=torch.float64)  # at (0, 0), at all patches

    def update(self, frozen: Features, adapted: Features) -> None:
        """Add the features x and y of images."""
        X, Y = dct2(frozen), dct2(adapted)
        index = ring_index((X.shape[1], X.shape[2]), self.rings, X.device)
        parts = (Y * X, X * X, (Y - X).square())
        self._products += torch.stack([sum_by(index, p, self.rings).sum(0) for p in parts]).cpu()
        edit = (adapted - frozen).double().square().sum(3)
        self._corner += torch.stack([edit[:, 0, 0].sum() * edit[0].numel(), edit.sum()]).cpu()

    @property
    def gain(self) -> Float[Tensor, " rings"]:
        """H(k) of (1); NaN in rings without power."""
        return self._products[0] / self._power

    @property
    def added(self) -> Float[Tensor, " rings"]:
        """A(k) of (2), likewise."""
        return self._products[2] / self._power

    @property
    def spike(self) -> float | None:
        """(3): 1 where the corner gets as much as other patches; None without an edit."""
        corner, total = self._corner.tolist()
        return corner / total if total else None

    @property
    def _power(self) -> Tensor:
        return self._products[1].where(self._products[1] > 0, torch.nan)
