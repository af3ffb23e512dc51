"""Causal-Tune with another transform, literally: the ablations of the paper (arXiv 2512.16567).

The paper does not say how tokens meet coefficients that are complex or come in sub-bands. Here
every transform gives one or more *parts*, real maps of coefficients with c channels, and the tokens
attend all of them alike. On the causal part Yc, for all coefficients of all parts:

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

from causalseg.adapters.causal_tune import CausalTune
from causalseg.spectral.bands import gaussian_band
from causalseg.spectral.grid import Features, GridSize, Tokens, grid_to_tokens, tokens_to_grid
from causalseg.spectral.haar import haar2, ihaar2
from causalseg.spectral.transforms import cache_constant, fft2, ifft2, widen, widest_float

Parts = Float[Tensor, "b p h2 w2 c"]


class LiteralCausalTune(CausalTune):
    """Causal-Tune on the parts of any transform, with the parameters of `CausalTune`.

    The recipes are `paper` and `centered`, the default.
    """

    def to_parts(self, X: Features) -> Parts:
        """Return the causal part of the coefficients."""
        raise NotImplementedError

    def from_parts(self, D: Parts, grid: GridSize) -> Features:
        """Return the features of coefficients."""
        raise NotImplementedError

    def forward(self, tokens: Tokens, layer: int, grid: GridSize) -> Tokens:
        """Return the adapted patch tokens of one block; see `Adapter.forward`."""
        X = widen(tokens_to_grid(tokens, grid))
        with torch.autocast(X.device.type, enabled=False):
            W1, b1 = (p.to(X.dtype) for p in self.token_to_feature.parameters())
            W2, b2 = (p.to(X.dtype) for p in self.delta.parameters())
            T = self.tokens.A[layer].to(X.dtype) @ self.tokens.B[layer].to(X.dtype)
            Yc = self.to_parts(X)
            P = torch.softmax(Yc @ T.T / math.sqrt(X.shape[-1]), dim=-1)
            attention = P[..., 1:] @ (T[1:] @ W1.T + b1)
            if self.recipe == "centered":
                attention = attention - attention.mean((2, 3), keepdim=True)
                edit = self.from_parts((attention + Yc) @ W2.T, grid) + b2
            else:
                edit = self.from_parts((attention + Yc) @ W2.T + b2, grid)
        return tokens + grid_to_tokens(self.scaled(edit)).to(tokens.dtype)


class CausalTuneFFT(LiteralCausalTune):
    """The parts are G Re F and G Im F of the 2-D orthonormal FFT F; the inverse is its real part.

    The linear path stays linear and real. Attention weights of the imaginary part need not be odd
    in the frequency; the inverse drops the part of the attention term that is even there.
    """

    transform = "fft"

    def to_parts(self, X: Features) -> Parts:
        """Return ``G * Re F`` and ``G * Im F``."""
        G = fourier_band((X.shape[1], X.shape[2]), self.low, self.high, X.device, X.dtype)
        return G[:, :, None] * torch.stack(fft2(X), dim=1)

    def from_parts(self, D: Parts, grid: GridSize) -> Features:
        """Return the real part of the inverse Fourier transform."""
        return ifft2(D[:, 0], D[:, 1])


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


@cache_constant
def fourier_band(
    grid: GridSize,
    low: float | None = 0.2,
    high: float | None = 0.7,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "h w"]:
    """Return the band G for every Fourier coefficient, in the order of `torch.fft.fftfreq`.

    It is `gaussian_band` with ``|u| = 2 |fftfreq|``, in [0, 1].
    """
    indices = (torch.arange(n, device=device, dtype=widest_float(device)) for n in grid)
    u, v = (2 * torch.minimum(i, n - i) / n for i, n in zip(indices, grid, strict=True))
    return gaussian_band(u, v, low, high).to(dtype)
