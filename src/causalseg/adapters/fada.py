"""FADA (Bi et al., NeurIPS 2024): tokens for the low and the high frequencies of a Haar transform.

The low-frequency sub-band carries content, the three high-frequency ones style. Each has its
own tokens; the style is instance-normalised first. For the patch tokens X of block l on their grid:

    (1) LL, LH, HL, HH = Haar(X)                 one level, orthonormal, per channel
    (2) Q_L = LL
    (3) Q_H = [IN(LH), IN(HL), IN(HH)]           IN over the positions, per image and channel
    (4) P   = softmax(Q T^T / sqrt(c))           over the m tokens, for L and H each
    (5) D   = (P[:, 1:] (T[1:] W1^T + b1) + Q) W2^T + b2       token 0 gives no value
    (6) out = X + s iHaar(D_L, D_H)

No code of it was ever released: this follows the description in "Learning Frequency-Adapted Vision
Foundation Model for Domain Generalized Semantic Segmentation". Our reading: the normalisation acts
on the style coefficients themselves, and one set of tokens serves the three style bands, whose
coefficients it sees as three times as many positions.
"""

from typing import Any

import torch

from causalseg.adapters.tokens import TokenEdit, TokenRefinement, standardise
from causalseg.config.adapters import FadaConfig
from causalseg.config.mistakes import check
from causalseg.spectral.grid import GridSize, Tokens, grid_to_tokens, tokens_to_grid
from causalseg.spectral.haar import haar2, ihaar2

_STYLE_EPS = 1e-5  # added to variances, the usual value of instance normalisation


class Fada(TokenEdit):
    """Low-rank tokens that refine content and normalised style of every block.

    Content and style each have their own W1, b1, W2, b2, shared by all blocks; s is shared by all.
    It offers no queries.
    """

    def __init__(self, width: int, depth: int, **options: Any):
        checked = check(FadaConfig, options)
        super().__init__(width, depth, checked)
        self.content = TokenRefinement(len(self.layers), width, checked)
        self.style = TokenRefinement(len(self.layers), width, checked)

    def forward(self, tokens: Tokens, layer: int, grid: GridSize) -> Tokens:
        """Return the adapted patch tokens of one block; see `Adapter.forward`."""
        X = tokens_to_grid(tokens, grid)
        with torch.autocast(X.device.type, enabled=False):
            LL, *bands = haar2(X)  # (1)
            half = (LL.shape[1], LL.shape[2])
            content = self.content(grid_to_tokens(LL), layer)  # (2), (4), (5)
            normalised = [standardise(grid_to_tokens(band), _STYLE_EPS) for band in bands]  # (3)
            style = self.style(torch.cat(normalised, dim=1), layer)  # (4), (5)
            refined = (content, *style.chunk(len(bands), dim=1))
            edit = ihaar2([tokens_to_grid(part, half) for part in refined], grid)
            edit = self.scaled(grid_to_tokens(edit))  # (6)
        return tokens + edit.to(tokens.dtype)
