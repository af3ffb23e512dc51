"""The causal band of every block: fixed as in the paper, or with parts that are learnt.

    G = exp(-(u^2 + v^2) / (2 R_H^2)) - exp(-(u^2 + v^2) / (2 R_L^2))        see `spectral.bands`

Beyond the paper, each off by default:

- suppress: ``out = X + s iDCT(D) - beta_l * iDCT((1 - G / max G) * Y)``, beta one number for each
  block and channel, starting at 0: the rest is taken out as far as training wants it.
- learnable: ``R_L = softplus(a_l)`` and ``R_H = R_L + softplus(b_l)`` for each block l, softplus
  at least 0.001: positive and ordered whatever a and b are.
- gains: G times one number for each block, bin of the radius ``sqrt(u^2 + v^2)`` and channel,
  starting at 1.
- peak_normalised: ``G / max G``, so that the best frequency passes whole (the paper's peak is
  about 0.73).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from causalseg.errors import ConfigError
from causalseg.spectral.bands import Radius, band_mask, band_pass, check_radii
from causalseg.spectral.constants import kept

NUM_BINS = 8  # of the radius, over [0, sqrt 2)
_LEAST = 1e-3  # of a learnt radius, and of the distance between two


@dataclass(frozen=True)
class Band:
    """Which frequencies are causal, and what is done with them; see the module.

    Args:
        low: R_L, fraction of the grid's highest frequency; None keeps the low frequencies.
        high: R_H, likewise; None keeps the high frequencies.
        suppress: take the rest out of the features, as far as learnt.
        learnable: learn the radii that are given.
        gains: learn a gain for each radius bin and channel.
        peak_normalised: divide G by its largest weight.

    Raises:
        ConfigError: for radii out of order, or an option that would change nothing with them.
    """

    low: float | None = 0.2
    high: float | None = 0.7
    suppress: bool = False
    learnable: bool = False
    gains: bool = False
    peak_normalised: bool = False

    def __post_init__(self) -> None:
        check_radii(self.low, self.high)
        if self.low is None and self.high is None and (self.learnable or self.suppress):
            raise ConfigError(
                "a band without low and high passes all: nothing to learn or suppress"
            )
        if self.low is None and self.peak_normalised:
            raise ConfigError("peak_normalised has no effect without low: the largest weight is 1")


class BandWeights(nn.Module):
    """The weights of a band's coefficients on any grid, block by block."""

    raw_low: nn.Parameter
    raw_high: nn.Parameter

    def __init__(self, band: Band, num_layers: int, width: int):
        super().__init__()
        self.options = band
        floor = 0.0
        for name, radius in (("raw_low", band.low), ("raw_high", band.high)):
            if band.learnable and radius is not None:
                start = radius - floor
                start += math.log(-math.expm1(-start))  # the inverse of softplus
                setattr(self, name, nn.Parameter(torch.full((num_layers,), start)))
                floor = radius
        if band.gains:
            self.gain = nn.Parameter(torch.ones(num_layers, NUM_BINS, width))
        if band.suppress:
            self.beta = nn.Parameter(torch.zeros(num_layers, width))

    def radii(self, layer: int) -> tuple[Radius | None, Radius | None]:
        """Return R_L and R_H of a block."""
        band = self.options
        if not band.learnable:
            return band.low, band.high
        low = None if band.low is None else _positive(self.raw_low[layer])
        if band.high is None:
            return low, None
        above = _positive(self.raw_high[layer])
        return low, above if low is None else low + above

    def mask(self, X: Float[Tensor, "b h w c"], layer: int) -> Float[Tensor, "h w #c"]:
        """Return the weight of every coefficient of X; it depends on the channel with gains."""
        G = self._gaussians(X, layer)[:, :, None]
        if self.options.peak_normalised:
            G = G / self.peak(X, layer)
        if self.options.gains:
            bins = _bins((X.shape[1], X.shape[2]), X.device)
            G = G * self.gain[layer].to(X.dtype)[bins]
        return G

    def passed(self, X: Float[Tensor, "b h w c"], layer: int) -> Float[Tensor, "b h w c"]:
        """Return ``iDCT(G * DCT X)``, without gains."""
        passed = band_pass(X, *self.radii(layer))
        return passed / self.peak(X, layer) if self.options.peak_normalised else passed

    def rest(self, X: Float[Tensor, "b h w c"], layer: int) -> Float[Tensor, "b h w c"]:
        """Return ``beta * iDCT((1 - G / max G) * DCT X)``."""
        passed = band_pass(X, *self.radii(layer)) / self.peak(X, layer)
        return self.beta[layer].to(X.dtype) * (X - passed)

    def peak(self, X: Float[Tensor, "b h w c"], layer: int) -> Float[Tensor, ""]:
        """Return the largest G on the grid of X; 1 where none is positive (a grid of 1 x 1)."""
        peak = self._gaussians(X, layer).amax()
        return torch.where(peak > 0, peak, torch.ones_like(peak))

    def _gaussians(self, X: Tensor, layer: int) -> Float[Tensor, "h w"]:
        return band_mask((X.shape[1], X.shape[2]), *self.radii(layer), X.device, X.dtype)


def _positive(raw: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return softplus(raw), or the least radius, so that rounding leaves none at 0."""
    return nn.functional.softplus(raw).clamp(min=_LEAST)


@kept
def _bins(grid: tuple[int, int], device: torch.device) -> Int[Tensor, "h w"]:
    """The radius bin of every coefficient."""
    u, v = (torch.arange(n, device=device) / n for n in grid)
    return ((u[:, None] ** 2 + v[None] ** 2).sqrt() / math.sqrt(2) * NUM_BINS).long()
