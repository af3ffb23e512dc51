"""Causal-Tune (Zhang et al., AAAI 2026, arXiv 2512.16567): adapt features in the frequency domain.

The method, for the patch tokens X of block l on their grid, with G the Gaussian band of `bands`:

    (1) Y  = D_h X D_w^T                        orthonormal DCT-II per channel
    (2) Yc = G * Y                              the causal part; the rest is dropped
    (3) T  = A B                                causal tokens of block l
    (4) P  = softmax(Yc T^T / sqrt(c))          over the m tokens
    (5) Z  = P[:, 1:] (T[1:] W1^T + b1) + Yc    token 0 takes attention and gives no value
    (6) D  = Z W2^T + b2
    (7) out = X + s iDCT(D)

Mixing channels commutes with a spatial transform, so the code computes the same with less work:

    logits       (G * DCT(X B^T)) A^T / sqrt(c)               a DCT on r channels, not c
    attention    (P[:, 1:] [A[1:], 1]) [B W1^T; b1]           an inverse on r + 1 channels
    linear path  iDCT(G * DCT X) = H_h X H_w - L_h X L_w      two separable Gaussians

Recipe `centered`: a constant over frequencies inverts to a spike at patch (0, 0). The attention
weights are nearly constant at the start and b2 always is, so the literal formula adds an artifact
there. `centered` subtracts the mean over (u, v) of the attention output before the inverse and adds
b2 after it. Recipe `paper` is the lines above, literally.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from causalseg.adapters.base import Adapter
from causalseg.adapters.tokens import LowRankTokens, QueryLink
from causalseg.errors import ConfigError
from causalseg.spectral.bands import band_mask, check_radii, lowpass_matrix
from causalseg.spectral.grid import grid_to_tokens, tokens_to_grid
from causalseg.spectral.transforms import dct2, dct_matrix, idct2

Recipe = Literal["paper", "centered"]


class CausalTune(Adapter):
    """Low-rank causal tokens that refine the band-passed spectrum of every block.

    W1, b1, W2, b2 and s are shared by all blocks; A and B are per block.

    Args:
        width: c, channels of the backbone.
        depth: number of blocks.
        num_tokens: m, tokens per block; also the number of queries given to the head.
        rank: r of the tokens.
        query_width: width of the head's queries; None leaves the query link out, for a head
            without queries.
        low: R_L, fraction of the grid's highest frequency; None keeps the low frequencies.
        high: R_H, likewise; None keeps the high frequencies.
        recipe: `paper` or `centered`.
        scale: starting value of s.
        layers: the blocks it works on; None for all.

    Raises:
        ConfigError: for sizes below 1 (tokens below 2), radii out of order, an unknown recipe.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        num_tokens: int = 100,
        rank: int = 16,
        query_width: int | None = None,
        low: float | None = 0.2,
        high: float | None = 0.7,
        recipe: Recipe = "centered",
        scale: float = 0.001,
        layers: Sequence[int] | None = None,
    ):
        super().__init__(width, depth, layers)
        if num_tokens < 2 or min(width, depth, rank) < 1:
            raise ConfigError(
                f"num_tokens = {num_tokens}, rank = {rank}, width = {width}, depth = {depth}: "
                "two tokens at least (the first gives no value), the others positive"
            )
        if recipe not in get_args(Recipe):
            raise ConfigError(f"recipe = {recipe!r}: allowed are {', '.join(get_args(Recipe))}")
        check_radii(low, high)
        self.low, self.high, self.recipe = low, high, recipe
        self.tokens = LowRankTokens(len(self.layers), num_tokens, rank, width)
        self.token_to_feature = nn.Linear(width, width)  # W1, b1
        self.delta = nn.Linear(width, width)  # W2, b2
        self.scale = nn.Parameter(torch.tensor(float(scale)))  # s
        self.link = None if query_width is None else QueryLink(width, query_width)

    def forward(
        self, tokens: Float[Tensor, "b n c"], layer: int, grid: tuple[int, int]
    ) -> Float[Tensor, "b n c"]:
        """Return the adapted patch tokens of one block, in the dtype given.

        Args:
            tokens: patch tokens of block ``layer``, without prefix tokens.
            layer: index of the block, from 0.
            grid: ``(h, w)`` in patches.
        """
        X = tokens_to_grid(tokens, grid)
        with torch.autocast(X.device.type, enabled=False):
            wide = X if X.dtype == torch.float64 else X.float()
            attention = grid_to_tokens(self._attention(wide, layer))
            linear = grid_to_tokens(self._linear_path(wide))
            bias = grid_to_tokens(self._bias(grid)[None])
        W1, b1 = self.token_to_feature.weight, self.token_to_feature.bias
        scaled = self.scale * self.delta.weight  # s W2
        values = torch.cat([self.tokens.B[layer] @ W1.T, b1[None]]) @ scaled.T  # [B W1^T; b1] sW2^T
        linear, attention = linear.to(scaled.dtype), attention.to(scaled.dtype)
        delta = linear @ scaled.T  # (6) and s of (7), summed in place: no copies of b n c numbers
        delta += attention @ values
        delta += bias
        return delta.to(tokens.dtype).add_(tokens)

    def queries(self) -> Float[Tensor, "m d"] | None:
        """Return the queries for the head, or None without a query link."""
        return None if self.link is None else self.link(self.tokens())

    def _attention(self, X: Float[Tensor, "b h w c"], layer: int) -> Float[Tensor, "b h w r1"]:
        """Inverse transform of ``P[:, 1:] [A[1:], 1]``: (1) to (5), r + 1 channels wide."""
        A, B = self.tokens.A[layer].to(X.dtype), self.tokens.B[layer].to(X.dtype)
        G = band_mask((X.shape[1], X.shape[2]), self.low, self.high, X.device, X.dtype)
        logits = (G[:, :, None] * dct2(X @ B.T)) @ (A.T / math.sqrt(X.shape[-1]))
        P = torch.softmax(logits, dim=-1)  # (4)
        # Token 0 gives no value: a zero row of [A, 1] spares a copy of P without it.
        weights = torch.cat([A, torch.ones_like(A[:, :1])], dim=1)
        weights = torch.cat([torch.zeros_like(weights[:1]), weights[1:]])
        mixed = P @ weights
        if self.recipe == "centered":
            mixed = mixed - mixed.mean((1, 2), keepdim=True)
        return idct2(mixed)

    def _linear_path(self, X: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """``iDCT(G * DCT X)`` as a difference of separable Gaussians, without the spectrum."""
        h, w = X.shape[1:3]
        radii = [self.high] if self.low is None else [self.high, self.low]
        # Rows (i, band) times h, then columns (band, w): two products and no temporary per band.
        rows = torch.stack([lowpass_matrix(h, R, X.device, X.dtype) for R in radii], dim=1)
        signed = [lowpass_matrix(w, R, X.device, X.dtype) * (-1) ** i for i, R in enumerate(radii)]
        columns = torch.cat(signed, dim=1)
        stacked = rows.flatten(0, 1) @ X.flatten(2)
        return columns @ stacked.unflatten(1, (h, len(radii))).unflatten(-1, (w, -1)).flatten(2, 3)

    def _bias(self, grid: tuple[int, int]) -> Float[Tensor, "#h #w c"]:
        """``s iDCT(b2)``: a spike near patch (0, 0) for `paper`, the plain bias for `centered`."""
        bias = self.scale * self.delta.bias
        if self.recipe == "centered":
            return bias[None, None]
        ones = [dct_matrix(n, bias.device, bias.dtype).sum(0) for n in grid]
        return torch.outer(*ones)[:, :, None] * bias
