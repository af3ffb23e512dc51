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

The paper is silent on these: A + s D_A is not clamped, a negative amplitude turns the phase by pi.
The real part drops what is not Hermitian, so a phase shift that is equal at all frequencies acts in
second order only. (7) equals ``Re iFFT(F')``, with X bit for bit at s = 0.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from causalseg.adapters.refinement import TokenRefinement
from causalseg.adapters.tokens import TokenEdit
from causalseg.config.initialisation import Init
from causalseg.spectral.grid import grid_to_tokens, tokens_to_grid
from causalseg.spectral.transforms import fft2, ifft2

_FAINT = 1e-4  # amplitude below which a coefficient has no phase and bounded gradients
_REAL = 1e-5  # |imaginary part| over amplitude that counts as rounding: such a phase is 0 or pi


class SetAdapter(TokenEdit):
    """Low-rank tokens that refine amplitude and phase of the spectrum of every block.

    Args:
        width: c, channels of the backbone.
        depth: number of blocks.
        num_tokens: m, tokens per block and branch; also the number of queries given to the head.
        rank: r of the tokens.
        query_width: width of the head's queries, made from the phase tokens; None leaves the query
            link out, for a head without queries.
        init: how tokens, queries and the edit start.
        layers: the blocks it works on; None for all.

    Raises:
        ConfigError: for sizes below 1 (tokens below 2) or layers that are no blocks.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        num_tokens: int = 100,
        rank: int = 16,
        query_width: int | None = None,
        init: Init = Init(),  # noqa: B008 (frozen)
        layers: Sequence[int] | None = None,
    ):
        super().__init__(width, depth, layers)
        sizes = (len(self.layers), num_tokens, rank, width)
        self.amplitude = TokenRefinement(*sizes, is_normalised=True)
        self.phase = TokenRefinement(*sizes)
        self.start(init, [self.amplitude.delta, self.phase.delta], query_width)

    def forward(
        self, tokens: Float[Tensor, "b n c"], layer: int, grid: tuple[int, int]
    ) -> Float[Tensor, "b n c"]:
        """Return the adapted patch tokens of one block, in the dtype given.

        Args:
            tokens: patch tokens of the block, without prefix tokens.
            layer: number of the block among ``layers``, from 0.
            grid: ``(h, w)`` in patches.
        """
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
        """Return the phase tokens: content makes the queries."""
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
