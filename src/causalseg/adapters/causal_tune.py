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
b2 after it. Recipe `full_path`, the default, is `centered` with Y in place of Yc in (5): a linear
path within the band cannot move the low frequencies, in which large regions are; the tokens still
attend within it. Recipe `paper` is the lines above, literally.

What `Band` offers beyond the paper (learnt radii, ...) is in `band`.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from causalseg.adapters.band import Band, BandWeights
from causalseg.adapters.tokens import LowRankTokens, TokenEdit
from causalseg.config.initialisation import Init
from causalseg.errors import ConfigError
from causalseg.spectral.constants import exact, kept
from causalseg.spectral.grid import grid_to_tokens, tokens_to_grid
from causalseg.spectral.transforms import dct2, dct_matrix, idct2

Recipe = Literal["paper", "centered", "full_path"]


class CausalTune(TokenEdit):
    """Low-rank causal tokens that refine the band-passed spectrum of every block.

    W1, b1, W2, b2 and s are shared by all blocks; A and B are per block.

    Args:
        width: c, channels of the backbone.
        depth: number of blocks.
        num_tokens: m, tokens per block; also the number of queries given to the head.
        rank: r of the tokens.
        query_width: width of the head's queries; None leaves the query link out, for a head
            without queries.
        band: which frequencies are causal.
        recipe: `paper`, `centered` or `full_path`; None takes the last of ``recipes``.
        init: how tokens, queries and the edit start.
        layers: the blocks it works on; None for all.

    Raises:
        ConfigError: for sizes below 1 (tokens below 2) or an unknown recipe.
    """

    recipes: tuple[Recipe, ...] = get_args(Recipe)

    def __init__(
        self,
        width: int,
        depth: int,
        num_tokens: int = 100,
        rank: int = 16,
        query_width: int | None = None,
        band: Band = Band(),  # noqa: B008 (frozen)
        recipe: Recipe | None = None,
        init: Init = Init(),  # noqa: B008 (frozen)
        layers: Sequence[int] | None = None,
    ):
        super().__init__(width, depth, layers)
        recipe = self.recipes[-1] if recipe is None else recipe
        if recipe not in self.recipes:
            raise ConfigError(f"recipe = {recipe!r}: allowed are {', '.join(self.recipes)}")
        self.check_band(band)
        self.recipe = recipe
        self.tokens = LowRankTokens(len(self.layers), num_tokens, rank, width)
        self.token_to_feature = nn.Linear(width, width)  # W1, b1
        self.delta = nn.Linear(width, width)  # W2, b2
        self.band = BandWeights(band, len(self.layers), width)
        self.start(init, [self.delta], query_width)

    def forward(
        self, tokens: Float[Tensor, "b n c"], layer: int, grid: tuple[int, int]
    ) -> Float[Tensor, "b n c"]:
        """Return the adapted patch tokens of one block, in the dtype given.

        Args:
            tokens: patch tokens of block ``layer``, without prefix tokens.
            layer: number of the block among ``layers``, from 0.
            grid: ``(h, w)`` in patches.
        """
        X = tokens_to_grid(tokens, grid)
        with torch.autocast(X.device.type, enabled=False):
            wide = X if X.dtype == torch.float64 else X.float()
            attention, linear = map(grid_to_tokens, self._paths(wide, layer))
            rest = self.band.rest(wide, layer) if self.band.options.suppress else None
        W1, b1 = self.token_to_feature.weight, self.token_to_feature.bias
        scaled = self.scaled(self.delta.weight)  # s W2
        values = torch.cat([self.tokens.B[layer] @ W1.T, b1[None]]) @ scaled.T  # [B W1^T; b1] sW2^T
        values = torch.cat([values, self.scaled(self.delta.bias)[None].to(values.dtype)])
        edit = linear.to(scaled.dtype) @ scaled.T  # (6) and s of (7), summed in place
        edit.baddbmm_(attention.to(edit.dtype), values.to(edit.dtype).expand(edit.shape[0], -1, -1))
        out = edit.to(tokens.dtype).add_(tokens)
        return out if rest is None else out - grid_to_tokens(rest).to(out.dtype)

    @staticmethod
    def check_band(band: Band) -> None:
        """Raise ConfigError for a band this transform cannot have; here any will do."""

    def _paths(
        self, X: Float[Tensor, "b h w c"], layer: int
    ) -> tuple[Float[Tensor, "b h w r2"], Float[Tensor, "b h w c"]]:
        """Return the attention path, with a channel for b2 at its end, and the linear path."""
        A, B = self.tokens.A[layer].to(X.dtype), self.tokens.B[layer].to(X.dtype)
        G = self.band.mask(X, layer)
        if self.band.options.gains:  # G depends on the channel: nothing commutes with it
            Yc = G * dct2(X)  # (1), (2)
            query = Yc @ B.T
        else:
            query = G * dct2(X @ B.T)
        attention = self._attend(query, A)
        if self.recipe == "full_path":
            return attention, X
        return attention, idct2(Yc) if self.band.options.gains else self.band.passed(X, layer)

    def _attend(
        self, query: Float[Tensor, "b h w r"], A: Float[Tensor, "m r"]
    ) -> Float[Tensor, "b h w r2"]:
        """Inverse transform of ``P[:, 1:] [A[1:], 1]``: (3) to (5), r + 1 channels wide."""
        P = torch.softmax(query @ (A.T / math.sqrt(self.width)), dim=-1)  # (4)
        # Token 0 gives no value: a zero row of [A, 1] spares a copy of P without it.
        weights = torch.cat([A, torch.ones_like(A[:, :1])], dim=1)
        mixed = P @ torch.cat([torch.zeros_like(weights[:1]), weights[1:]])
        grid = (query.shape[1], query.shape[2])
        if self.recipe != "paper":
            mixed = mixed - mixed.mean((1, 2), keepdim=True)
        bias = _bias_pattern(grid, self.recipe, mixed.device, mixed.dtype)
        return torch.cat([idct2(mixed), bias.expand(mixed.shape[0], -1, -1, -1)], dim=-1)


@kept
def _bias_pattern(
    grid: tuple[int, int], recipe: Recipe, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "h w 1"]:
    """What b2 becomes on the grid: iDCT(1), a spike near (0, 0), for `paper`, else 1."""
    if recipe != "paper":
        return torch.ones(*grid, 1, device=device, dtype=dtype)
    sums = [dct_matrix(n, device, exact(device)).sum(0) for n in grid]
    return torch.outer(*sums)[:, :, None].to(dtype)
