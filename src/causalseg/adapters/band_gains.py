"""Band gains: after every block, each frequency band of the patch features is amplified or damped.

    (1)  x' = x + sum over k of s_k B_k x,   k in {low, causal, high}

B_low is a Gaussian low-pass of radius R_L, B_high the identity minus that of radius R_H, B_causal
the rest, so the three add up to the identity (`spectral.bands.split_bands`). Every block has three
gains s of its own. They are 0 at first, which leaves the features as they are, bit for bit.
"""

from pathlib import Path
from typing import Self

import torch
from torch import nn

from causalseg.adapters.saved import load_tensors, read_tensors, save_tensors
from causalseg.errors import WeightsError
from causalseg.spectral.bands import split_bands
from causalseg.spectral.grid import GridSize, Tokens, grid_to_tokens, tokens_to_grid
from causalseg.spectral.transforms import widen


class BandGains(nn.Module):
    """Three gains for each block, an edit for `install_after_blocks`.

    Args:
        depth: number of blocks.
        low: R_L, as a fraction of the grid's highest frequency (Causal-Tune, arXiv 2512.16567).
        high: R_H, likewise.
    """

    def __init__(self, depth: int, low: float = 0.2, high: float = 0.7):
        super().__init__()
        self.low, self.high = low, high
        self.values = nn.Parameter(torch.zeros(depth, 3))  # of the low, causal and high band

    def forward(self, tokens: Tokens, layer: int, grid: GridSize) -> Tokens:
        """Return the edited tokens of block ``layer``, in their dtype."""
        with torch.autocast(tokens.device.type, enabled=False):
            X = edited = tokens_to_grid(widen(tokens), grid)
            bands = split_bands(X, self.low, self.high)
            for s, band in zip(self.values[layer], bands, strict=True):
                edited = edited + s * band  # (1)
            return grid_to_tokens(edited).to(tokens.dtype)

    def save(self, file: Path) -> None:
        """Write gains and radii whole or not at all."""
        save_tensors(file, self.state_dict(), {"low": self.low, "high": self.high})

    @classmethod
    def load(cls, file: Path, depth: int) -> Self:
        """Read what `save` wrote; raise WeightsError if it is broken or of another depth."""
        tensors, radii = read_tensors(file)
        if not isinstance(radii, dict) or radii.keys() != {"low", "high"}:
            raise WeightsError(
                f"{file} does not say of which bands its gains are: make it again with "
                "`causalseg adapt`"
            )
        gains = cls(depth, **radii)
        load_tensors(gains, tensors, file)
        return gains
