"""Causal-Tune on the sub-bands of a one-level Haar transform; see `literal`."""

import torch

from causalseg.adapters.ablations.literal import LiteralCausalTune, Parts
from causalseg.spectral.grid import Features, GridSize
from causalseg.spectral.haar import haar2, ihaar2


class CausalTuneHaar(LiteralCausalTune):
    """The parts are the sub-bands LL, LH, HL, HH that the band keeps.

    LL is the low band, dropped if R_L is given; LH and HL are causal; HH is the high band, dropped
    if R_H is given. Only whether the radii are None matters.
    """

    transform = "haar"

    def to_parts(self, X: Features) -> Parts:
        """Return the sub-bands that are kept."""
        bands = haar2(X)
        return torch.stack([bands[band] for band in self._list_kept()], dim=1)

    def from_parts(self, D: Parts, grid: GridSize) -> Features:
        """Return the inverse Haar transform, with zeros for the sub-bands that are dropped."""
        bands = [torch.zeros_like(D[:, 0])] * 4
        for part, band in enumerate(self._list_kept()):
            bands[band] = D[:, part]
        return ihaar2(bands, grid)

    def _list_kept(self) -> list[int]:
        is_kept = (self.low is None, True, True, self.high is None)
        return [band for band in range(4) if is_kept[band]]
