"""Causal-Tune on the real and imaginary parts of the Fourier transform; see `literal`."""

import torch
from jaxtyping import Float
from torch import Tensor

from causalseg.adapters.ablations.literal import LiteralCausalTune, Parts
from causalseg.spectral.bands import gaussian_band
from causalseg.spectral.grid import Features, GridSize
from causalseg.spectral.transforms import cache_constant, fft2, ifft2, widest_float


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
