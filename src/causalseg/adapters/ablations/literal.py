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
from causalseg.spectral.grid import Features, GridSize, Tokens, grid_to_tokens, tokens_to_grid
from causalseg.spectral.transforms import widen

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
