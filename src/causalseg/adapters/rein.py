"""Rein (Wei et al., CVPR 2024, arXiv 2312.04265): tokens that refine the features of every block.

The method, for the patch tokens X of block l:

    (1) T  = A B                                tokens of block l; or T itself, of full rank
    (2) P  = softmax(X T^T / sqrt(c))           over the m tokens; without softmax P = X T^T
    (3) Z  = P[:, 1:] (T[1:] W1^T + b1) + X     token 0 takes attention and gives no value
    (4) out = X + s (Z W2^T + b2)

Low-rank tokens are never multiplied out, which gives the same values with less work:

    logits       (X B^T) A^T / sqrt(c)          r products per token, not c
    attention    (P [A, 1]) [B W1^T; b1] s W2^T with row 0 of [A, 1] set to zero
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from causalseg.adapters.tokens import BlockTokens, TokenEdit, make_delta
from causalseg.config.adapters import ReinConfig
from causalseg.config.mistakes import check
from causalseg.spectral.grid import GridSize, Tokens


class Rein(TokenEdit):
    """Learnt tokens that every patch attends to; the result is added to its features.

    W1, b1, W2, b2 and s are shared by all blocks; the tokens are per block.
    """

    def __init__(self, width: int, depth: int, *, query_width: int | None = None, **options: Any):
        checked = check(ReinConfig, options)
        super().__init__(width, depth, checked)
        self.use_softmax = checked.use_softmax
        self.tokens = BlockTokens(len(self.layers), width, checked)
        self.token_to_feature = nn.Linear(width, width)  # W1, b1
        self.delta = make_delta(width, checked.init)  # W2, b2
        self.link_queries(query_width, checked)

    def forward(self, tokens: Tokens, layer: int, grid: GridSize) -> Tokens:
        """Return the adapted patch tokens of one block; see `Adapter.forward`."""
        W2, b2 = self.scaled(self.delta.weight), self.scaled(self.delta.bias)
        return self._delta(tokens, layer, W2, b2).to(tokens.dtype).add_(tokens)  # (4)

    def _delta(
        self, X: Float[Tensor, "... c"], layer: int, W2: Tensor, b2: Tensor
    ) -> Float[Tensor, "... c"]:
        """``Z W2^T + b2`` for the features or coefficients X: (1) to (4)."""
        delta = functional.linear(X, W2.to(X.dtype), b2.to(X.dtype))
        weights, values = self._attention(X, layer)
        delta += weights @ (values @ W2.T).to(X.dtype)
        return delta

    def _attention(
        self, X: Float[Tensor, "... c"], layer: int
    ) -> tuple[Float[Tensor, "... k"], Float[Tensor, "k c"]]:
        """Two factors of ``P[:, 1:] (T[1:] W1^T + b1)``: k is m for full tokens, else r + 1."""
        W1, b1 = self.token_to_feature.weight, self.token_to_feature.bias
        if self.tokens.rank is None:
            T = self.tokens.T[layer]
            return self._weights(X @ T.to(X.dtype).T), _without_first(T @ W1.T + b1)
        A, B = self.tokens.A[layer], self.tokens.B[layer]
        P = self._weights((X @ B.to(X.dtype).T) @ A.to(X.dtype).T)
        weights = _without_first(torch.cat([A, torch.ones_like(A[:, :1])], dim=1))
        return P @ weights.to(X.dtype), torch.cat([B @ W1.T, b1[None]])

    def _weights(self, products: Float[Tensor, "... m"]) -> Float[Tensor, "... m"]:
        """Return P of (2) for ``X T^T``."""
        if not self.use_softmax:
            return products
        return torch.softmax(products / math.sqrt(self.width), dim=-1)


def _without_first(rows: Float[Tensor, "m k"]) -> Float[Tensor, "m k"]:
    """Set row 0 to zero: token 0 gives no value, without a copy of P that lacks its column."""
    return torch.cat([torch.zeros_like(rows[:1]), rows[1:]])
