"""SET (Yi et al., ACM MM 2024, arXiv 2407.18568): tokens for amplitude and phase.

The amplitude of a spectrum carries style, its phase content. Each gets its own tokens, and the
attention of the amplitude tokens is instance-normalised, which removes style from it. For the patch
tokens X of block l on their grid:

    (1) F   = FFT(X)                                  2-D, orthonormal, per channel
    (2) A   = |F|,  phi = angle(F)
    (3) P_A = softmax(IN(A T_A^T / sqrt(c)))          IN over the positions, per image and token
    (4) P_f = softmax(phi T_f^T / sqrt(c))            over the m tokens
    (5) D   = (P[:, 1:] (T[1:] W1^T + b1) + Q) W2^T + b2       Q = A or phi; token 0 gives no value
    (6) F'  = (A + s D_A) exp(i (phi + s D_f))
    (7) out = X + Re iFFT(F' - F)

The code released with the paper transforms over batch and channels. Here the transform runs over
the patch grid, as the paper's idea asks: an image never depends on its neighbours in the batch.

Where the paper is silent: A + s D_A is not clamped, a negative amplitude turns the phase by pi. The
real part drops what is not Hermitian, so a phase shift that is equal at all frequencies acts in
second order only. (7) equals ``Re iFFT(F')``, with X bit for bit at s = 0.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from causalseg.adapters.tokens import TokenEdit, TokenRefinement
from causalseg.config.adapters import SetConfig
from causalseg.config.mistakes import check
from causalseg.spectral.grid import GridSize, Tokens, grid_to_tokens, tokens_to_grid
from causalseg.spectral.transforms import fft2, ifft2

_FAINT = 1e-4  # amplitude below which a coefficient has no phase and bounded gradients
_REAL = 1e-5  # |imaginary part| over amplitude that counts as rounding: such a phase is 0 or pi


class SetAdapter(TokenEdit):
    """Low-rank tokens that refine amplitude and phase of the spectrum of every block.

    Queries are made of the phase tokens.
    """

    def __init__(self, width: int, depth: int, *, query_width: int | None = None, **options: Any):
        checked = check(SetConfig, options)
        super().__init__(width, depth, checked)
        self.amplitude = TokenRefinement(len(self.layers), width, checked, is_normalised=True)
        self.phase = TokenRefinement(len(self.layers), width, checked)
        self.link_queries(query_width, checked)

    def forward(self, tokens: Tokens, layer: int, grid: GridSize) -> Tokens:
        """Return the adapted patch tokens of one block; see `Adapter.forward`."""
        X = tokens_to_grid(tokens, grid)
        with torch.autocast(X.device.type, enabled=False):
            real, imaginary = (grid_to_tokens(part) for part in fft2(X))  # (1)
            A, phi = _polar(real, imaginary)  # (2)
            # (6): F' = F (1 + s D_A / A) exp(i s D_f)
            growth = self.scaled(self.amplitude(A, layer)) / A
            turn = self.scaled(self.phase(phi, layer))
            grown_real, grown_imaginary = real + growth * real, imaginary + growth * imaginary
            cosine, sine = turn.cos(), turn.sin()
            change = (
                grown_real * cosine - grown_imaginary * sine - real,
                grown_real * sine + grown_imaginary * cosine - imaginary,
            )
            edit = ifft2(*(tokens_to_grid(part, grid) for part in change))  # (7)
        return tokens + grid_to_tokens(edit).to(tokens.dtype)

    def linked_tokens(self) -> Float[Tensor, "l m c"]:
        """Return the phase tokens, which carry the content."""
        return self.phase.tokens()


def _polar(
    real: Float[Tensor, "b n c"], imaginary: Float[Tensor, "b n c"]
) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n c"]]:
    """Return amplitude and phase in (-pi, pi], with finite gradients everywhere.

    Root and angle have no gradient at 0. So the amplitude is at least `_FAINT`, and fainter
    coefficients have phase 0. A negative real coefficient has phase pi whatever the sign of an
    imaginary part that is only rounding; DC and the highest frequency are always real.
    """
    power = real.square() + imaginary.square()
    is_faint = power < _FAINT**2
    A = power.clamp_min(_FAINT**2).sqrt()
    is_real = is_faint | (imaginary.abs() <= _REAL * A)
    angle = torch.atan2(imaginary.masked_fill(is_real, 1.0), real)
    real_angle = math.pi * ((real < 0) & ~is_faint).to(A.dtype)
    return A, torch.where(is_real, real_angle, angle)
