"""Rein (Wei et al., CVPR 2024, arXiv 2312.04265): tokens that refine the features of every block.

The method, for the patch tokens X of block l:

    (1) T  = A B                                tokens of block l; or T itself, of full rank
    (2) P  = softmax(X T^T / sqrt(c))           over the m tokens; without softmax P = X T^T
    (3) Z  = P[:, 1:] (T[1:] W1^T + b1) + X     token 0 takes attention and gives no value
    (4) out = X + s (Z W2^T + b2)

Low-rank tokens are never multiplied out, which gives the same numbers with less work:

    logits       (X B^T) A^T / sqrt(c)          r products for a token, not c
    attention    (P [A, 1]) [B W1^T; b1] s W2^T with row 0 of [A, 1] set to zero
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from causalseg.adapters.tokens import FullTokens, LowRankTokens, TokenEdit
from causalseg.config.initialisation import Init


class Rein(TokenEdit):
    """Learnt tokens that every patch attends to; what it reads is added to its features.

    W1, b1, W2, b2 and s are shared by all blocks; the tokens are per block.

    Args:
        width: c, channels of the backbone.
        depth: number of blocks.
        num_tokens: m, tokens per block; also the number of queries given to the head.
        rank: r of the tokens; None for tokens of full rank.
        query_width: width of the head's queries; None leaves the query link out, for a head
            without queries.
        init: how tokens, queries and the edit start.
        use_softmax: False takes the plain products ``X T^T`` as weights, not divided by sqrt(c).
        layers: the blocks it works on; None for all.

    Raises:
        ConfigError: for sizes below 1 (tokens below 2), layers that are not there.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        num_tokens: int = 100,
        rank: int | None = 16,
        query_width: int | None = None,
        init: Init = Init(),  # noqa: B008 (frozen)
        use_softmax: bool = True,
        layers: Sequence[int] | None = None,
    ):
        super().__init__(width, depth, layers)
        self.use_softmax = use_softmax
        self.tokens: LowRankTokens | FullTokens
        if rank is None:
            self.tokens = FullTokens(len(self.layers), num_tokens, width)
        else:
            self.tokens = LowRankTokens(len(self.layers), num_tokens, rank, width)
        self.token_to_feature = nn.Linear(width, width)  # W1, b1
        self.delta = nn.Linear(width, width)  # W2, b2
        self.start(init, [self.delta], query_width)

    def forward(
        self, tokens: Float[Tensor, "b n c"], layer: int, grid: tuple[int, int]
    ) -> Float[Tensor, "b n c"]:
        """Return the adapted patch tokens of one block, in the dtype given.

        Args:
            tokens: patch tokens of the block, without prefix tokens.
            layer: number of the block among ``layers``, from 0.
            grid: ``(h, w)`` in patches; makes no difference here.
        """
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
        if isinstance(self.tokens, FullTokens):
            T = self.tokens.T[layer]
            return self._weights(X @ T.to(X.dtype).T), _without_first(T @ W1.T + b1)
        A, B = self.tokens.A[layer], self.tokens.B[layer]
        P = self._weights((X @ B.to(X.dtype).T) @ A.to(X.dtype).T)
        weights = _without_first(torch.cat([A, torch.ones_like(A[:, :1])], dim=1))
        return P @ weights.to(X.dtype), torch.cat([B @ W1.T, b1[None]])

    def _weights(self, products: Float[Tensor, "... m"]) -> Float[Tensor, "... m"]:
        """P from ``X T^T``: (2)."""
        if not self.use_softmax:
            return products
        return torch.softmax(products / math.sqrt(self.width), dim=-1)


def _without_first(rows: Float[Tensor, "m k"]) -> Float[Tensor, "m k"]:
    """Set row 0 to zero: token 0 gives no value, and P needs no copy without its column."""
    return torch.cat([torch.zeros_like(rows[:1]), rows[1:]])
