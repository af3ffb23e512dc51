"""Causal-Tune with another transform: FFT or Haar wavelets in place of the DCT.

The ablations of the paper (arXiv 2512.16567). It does not say how tokens meet coefficients that are
complex or come in sub-bands; here every transform gives one or more *parts*, real maps of
coefficients with c channels, and the tokens attend all of them alike:

    FFT    parts Re F and Im F of the 2-D orthonormal FFT F, both weighted by G, the Gaussian band
           of the DCT at radius sqrt(u^2 + v^2), with u and v the frequencies in units of the
           highest, |u| = 2 |fftfreq|. The inverse keeps the real part.
    Haar   parts LL, LH, HL, HH of one level. LL is the low band, dropped if R_L is given; LH and
           HL are the causal band; HH is the high band, dropped if R_H is given. Only whether the
           radii are None matters.

On the causal part Yc, for all coefficients of all parts:

    P   = softmax(Yc T^T / sqrt(c))
    D   = (P[:, 1:] (T[1:] W1^T + b1) + Yc) W2^T + b2
    out = X + s inverse(D)

Recipe `centered` subtracts the mean over the coefficients of each part from the attention term and
adds b2 after the inverse: a constant part inverts to a fixed pattern, a spike or stripes.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from causalseg.adapters.band import Band
from causalseg.adapters.causal_tune import CausalTune
from causalseg.errors import ConfigError
from causalseg.spectral.constants import exact, kept
from causalseg.spectral.grid import grid_to_tokens, tokens_to_grid
from causalseg.spectral.haar import haar2, ihaar2
from causalseg.spectral.transforms import fft2, ifft2, widen

Parts = Float[Tensor, "b p h2 w2 c"]


class _CausalTuneVariant(CausalTune):
    """Causal-Tune in its literal form, on the parts of any transform.

    Parameters and queries are those of `CausalTune`.

    Args:
        width: c, channels of the backbone.
        depth: number of blocks.
        num_tokens: m, tokens per block; also the number of queries given to the head.
        rank: r of the tokens.
        query_width: width of the head's queries; None leaves the query link out.
        band: R_L (`low`) and R_H (`high`), fractions of the grid's highest frequency; None keeps
            that side. The other options of a band are refused.
        recipe: `paper` or `centered`, which None takes.
        init: how tokens, queries and the edit start.
        layers: the blocks it works on; None for all.

    Raises:
        ConfigError: for sizes below 1 (tokens below 2), another recipe, a band with more than its
            radii.
    """

    recipes = ("paper", "centered")

    @staticmethod
    def check_band(band: Band) -> None:
        """Raise ConfigError for a band with more than its radii."""
        if band != Band(band.low, band.high):
            raise ConfigError(
                f"{band}: with another transform than the DCT a band has low and high only; leave "
                "the other options at their defaults, or take the DCT"
            )

    def transform(self, X: Float[Tensor, "b h w c"]) -> Parts:
        """Return the causal part of the coefficients."""
        raise NotImplementedError

    def inverse(self, D: Parts, grid: tuple[int, int]) -> Float[Tensor, "b h w c"]:
        """Return the features of coefficients."""
        raise NotImplementedError

    def forward(
        self, tokens: Float[Tensor, "b n c"], layer: int, grid: tuple[int, int]
    ) -> Float[Tensor, "b n c"]:
        """Return the adapted patch tokens of one block, in the dtype given.

        Args:
            tokens: patch tokens of the block, without prefix tokens.
            layer: number of the block among ``layers``, from 0.
            grid: ``(h, w)`` in patches.
        """
        X = widen(tokens_to_grid(tokens, grid))
        with torch.autocast(X.device.type, enabled=False):
            W1, b1, W2, b2, A, B = (
                parameter.to(X.dtype)
                for parameter in (
                    *self.token_to_feature.parameters(),
                    *self.delta.parameters(),
                    self.tokens.A[layer],
                    self.tokens.B[layer],
                )
            )
            Yc = self.transform(X)
            T = A @ B
            P = torch.softmax(Yc @ T.T / math.sqrt(X.shape[-1]), dim=-1)
            attention = P[..., 1:] @ (T[1:] @ W1.T + b1)
            if self.recipe == "centered":
                attention = attention - attention.mean((2, 3), keepdim=True)
                edit = self.inverse((attention + Yc) @ W2.T, grid) + b2
            else:
                edit = self.inverse((attention + Yc) @ W2.T + b2, grid)
        return tokens + grid_to_tokens(self.scaled(edit)).to(tokens.dtype)


class CausalTuneFFT(_CausalTuneVariant):
    """Causal-Tune on real and imaginary part of the Fourier transform; as `CausalTune` otherwise.

    The linear path stays linear and real. Attention weights of the imaginary part need not be odd
    in the frequency; the part of the attention term that is even there is dropped by the inverse.
    """

    def transform(self, X: Float[Tensor, "b h w c"]) -> Parts:
        """Return ``G * Re F`` and ``G * Im F``."""
        low, high = self.band.options.low, self.band.options.high
        G = fourier_band((X.shape[1], X.shape[2]), low, high, X.device, X.dtype)
        return G[:, :, None] * torch.stack(fft2(X), dim=1)

    def inverse(self, D: Parts, grid: tuple[int, int]) -> Float[Tensor, "b h w c"]:
        """Return the real part of the inverse Fourier transform."""
        return ifft2(D[:, 0], D[:, 1])


class CausalTuneHaar(_CausalTuneVariant):
    """Causal-Tune on the sub-bands of a one-level Haar transform; as `CausalTune` otherwise."""

    def transform(self, X: Float[Tensor, "b h w c"]) -> Parts:
        """Return the sub-bands that are kept, of LL, LH, HL, HH."""
        bands = haar2(X)
        return torch.stack([bands[band] for band in self._kept()], dim=1)

    def inverse(self, D: Parts, grid: tuple[int, int]) -> Float[Tensor, "b h w c"]:
        """Return the inverse Haar transform, with zeros for the sub-bands that are dropped."""
        bands = [torch.zeros_like(D[:, 0])] * 4
        for part, band in enumerate(self._kept()):
            bands[band] = D[:, part]
        return ihaar2(bands, grid)

    def _kept(self) -> list[int]:
        is_kept = (self.band.options.low is None, True, True, self.band.options.high is None)
        return [band for band in range(4) if is_kept[band]]


@kept
def fourier_band(
    grid: tuple[int, int],
    low: float | None = 0.2,
    high: float | None = 0.7,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "h w"]:
    """Return the weight G of every Fourier coefficient, in the order of `torch.fft.fftfreq`.

    ``exp(-(u^2 + v^2) / (2 high^2)) - exp(-(u^2 + v^2) / (2 low^2))``, |u| and |v| in [0, 1]. A
    radius of None makes the first term 1, the second 0: both None pass everything.
    """
    indices = (torch.arange(n, device=device, dtype=exact(device)) for n in grid)
    u, v = (2 * torch.minimum(i, n - i) / n for i, n in zip(indices, grid, strict=True))
    square = u[:, None] ** 2 + v**2
    passed = torch.ones_like(square) if high is None else torch.exp(-square / (2 * high**2))
    dropped = torch.zeros_like(square) if low is None else torch.exp(-square / (2 * low**2))
    return (passed - dropped).to(dtype)
