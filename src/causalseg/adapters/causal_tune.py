"""Causal-Tune (Zhang et al., AAAI 2026, arXiv 2512.16567): adapt features in the frequency domain.

For the patch tokens X of block l on their grid, with G the Gaussian band of `spectral.bands`:

    (1) Y  = D_h X D_w^T                        orthonormal DCT-II per channel
    (2) Yc = G * Y                              the causal part; the rest is dropped
    (3) T  = A B                                causal tokens of block l
    (4) P  = softmax(Yc T^T / sqrt(c))          over the m tokens
    (5) Z  = P[:, 1:] (T[1:] W1^T + b1) + Yc    token 0 takes attention and gives no value
    (6) D  = Z W2^T + b2
    (7) out = X + s iDCT(D)

Recipe `paper` is these lines. A constant over frequencies inverts to a spike at patch (0, 0): b2 is
one, and so, nearly, is the attention output at first. `centered` subtracts its mean over (u, v)
before the inverse and adds b2 after it. `full_path`, the default, is `centered` with Y in place of
Yc in (5): a linear path within the band cannot change the low frequencies, in which large regions
are; the tokens still attend within it.

`literal` is the method in this order; `CausalTune.forward` computes the same with less work.
"""

import math
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from causalseg.adapters.tokens import LowRankTokens, TokenEdit, make_delta
from causalseg.config.adapters import CausalTuneConfig
from causalseg.config.mistakes import check
from causalseg.errors import ConfigError
from causalseg.spectral.bands import band_mask, band_pass
from causalseg.spectral.grid import grid_to_tokens, tokens_to_grid
from causalseg.spectral.transforms import (
    cache_constant,
    dct2,
    dct_matrix,
    idct2,
    widen,
    widest_float,
)


class CausalTune(TokenEdit):
    """Low-rank causal tokens that refine the band-passed spectrum of every block.

    W1, b1, W2, b2 and s are shared by all blocks; A and B are per block. The options are the fields
    of `CausalTuneConfig`.
    """

    transform: ClassVar[Literal["dct", "fft", "haar"]] = "dct"

    def __init__(self, width: int, depth: int, *, query_width: int | None = None, **options: Any):
        checked = check(CausalTuneConfig, {"transform": self.transform, **options})
        if checked.transform != self.transform or checked.recipe == "released":
            raise ConfigError(
                f"{type(self).__name__} has transform = {self.transform} and the recipes paper, "
                "centered and full_path; causalseg.adapters.ablations has the others"
            )
        super().__init__(width, depth, checked)
        self.recipe, self.low, self.high = checked.recipe, checked.band.low, checked.band.high
        num_layers, std = len(self.layers), checked.init.token_std
        self.tokens = LowRankTokens(num_layers, checked.num_tokens, checked.rank, width, std)
        self.token_to_feature = nn.Linear(width, width)  # W1, b1
        self.delta = make_delta(width, checked.init)  # W2, b2
        self.band = Suppression(num_layers, width) if checked.suppress else None
        self.link_queries(query_width, checked)

    def forward(
        self, tokens: Float[Tensor, "b n c"], layer: int, grid: tuple[int, int]
    ) -> Float[Tensor, "b n c"]:
        """Return the adapted patch tokens of one block; see `Adapter.forward` and `literal`."""
        with torch.autocast(tokens.device.type, enabled=False):
            X = widen(tokens_to_grid(tokens, grid))
            attention = self._attend(X, layer)
            linear = X if self.recipe == "full_path" else band_pass(X, self.low, self.high)
            rest = None if self.band is None else self.band(X, layer, self.low, self.high)
        attention, linear = grid_to_tokens(attention), grid_to_tokens(linear)
        # Channels are mixed after the inverse, which commutes with it: s in W2 spares a pass over
        # the features, and values for the r + 2 channels of `attention` replace c channels.
        W1, b1 = self.token_to_feature.weight, self.token_to_feature.bias
        W2 = self.scaled(self.delta.weight)
        values = torch.cat([self.tokens.B[layer] @ W1.T, b1[None]]) @ W2.T
        values = torch.cat([values, self.scaled(self.delta.bias)[None].to(values.dtype)])
        # Summed in place: one temporary of the size of the features.
        edit = linear.to(W2.dtype) @ W2.T
        edit.baddbmm_(attention.to(edit.dtype), values.to(edit.dtype).expand(edit.shape[0], -1, -1))
        out = edit.to(tokens.dtype).add_(tokens)
        return out if rest is None else out - grid_to_tokens(rest).to(out.dtype)

    def is_decayed(self, name: str) -> bool:
        """Decay all but the learnt factor of `suppress`."""
        return not name.startswith("band.")

    def _attend(self, X: Float[Tensor, "b h w c"], layer: int) -> Float[Tensor, "b h w r2"]:
        """Return ``iDCT(P[:, 1:] [A[1:], 1])``, which `values` turns into the edit, and b2's map.

        (T[1:] W1^T + b1) W2^T is [A[1:], 1] times a matrix of r + 1 rows: r + 1 channels suffice.
        """
        A, B = self.tokens.A[layer].to(X.dtype), self.tokens.B[layer].to(X.dtype)
        G = band_mask((X.shape[1], X.shape[2]), self.low, self.high, X.device, X.dtype)
        query = G[:, :, None] * dct2(X @ B.T)  # the DCT of r channels, not c
        P = torch.softmax(query @ (A.T / math.sqrt(self.width)), dim=-1)
        # A zero row for token 0 spares a copy of P without it.
        weights = torch.cat([A, torch.ones_like(A[:, :1])], dim=1)
        mixed = P @ torch.cat([torch.zeros_like(weights[:1]), weights[1:]])
        if self.recipe != "paper":
            mixed = mixed - mixed.mean((1, 2), keepdim=True)
        # b2 is one more channel: what it adds to each patch.
        bias = _bias_map((X.shape[1], X.shape[2]), self.recipe, X.device, X.dtype)
        return torch.cat([idct2(mixed), bias.expand(len(X), -1, -1, -1)], dim=-1)


class Suppression(nn.Module):
    """What `suppress` subtracts: ``beta_l * iDCT((1 - G / max G) * Y)``.

    beta has a value for each block and channel, 0 at first. In the paper the rest of the spectrum
    is dropped from the edit only and stays in X.
    """

    def __init__(self, num_layers: int, width: int):
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(num_layers, width))

    def forward(
        self, X: Float[Tensor, "b h w c"], layer: int, low: float | None, high: float | None
    ) -> Float[Tensor, "b h w c"]:
        """Return it for the features X of a block."""
        peak = band_mask((X.shape[1], X.shape[2]), low, high, X.device, X.dtype).amax()
        peak = torch.where(peak > 0, peak, torch.ones_like(peak))  # G = 0 on a grid of 1 x 1
        return self.beta[layer].to(X.dtype) * (X - band_pass(X, low, high) / peak)


def literal(
    adapter: CausalTune, tokens: Float[Tensor, "b n c"], layer: int, grid: tuple[int, int]
) -> Float[Tensor, "b n c"]:
    """Return what ``adapter(tokens, layer, grid)`` does, by the equations, in one precision."""
    X, (low, high) = tokens_to_grid(tokens, grid), (adapter.low, adapter.high)
    W1, b1 = adapter.token_to_feature.weight, adapter.token_to_feature.bias
    W2, b2 = adapter.delta.weight, adapter.delta.bias
    Y = dct2(X)  # (1)
    G = band_mask(grid, low, high, X.device, X.dtype)[:, :, None]
    Yc = G * Y  # (2)
    T = adapter.tokens.A[layer] @ adapter.tokens.B[layer]  # (3)
    P = torch.softmax(Yc @ T.T / math.sqrt(X.shape[-1]), dim=-1)  # (4)
    attention = P[..., 1:] @ (T[1:] @ W1.T + b1)  # (5), without its linear path
    if adapter.recipe == "paper":
        edit = idct2((attention + Yc) @ W2.T + b2)  # (5), (6) and the inverse of (7)
    else:
        linear = Y if adapter.recipe == "full_path" else Yc
        attention = attention - attention.mean((1, 2), keepdim=True)
        edit = idct2((attention + linear) @ W2.T) + b2
    out = X + adapter.scaled(edit)  # (7)
    if adapter.band is not None:  # option `suppress`
        rest = Y if G.max() == 0 else (1 - G / G.max()) * Y
        out = out - adapter.band.beta[layer] * idct2(rest)
    return grid_to_tokens(out)


@cache_constant
def _bias_map(
    grid: tuple[int, int], recipe: str, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "h w 1"]:
    """Return the factor of b2 at each patch: iDCT(1), a spike near (0, 0), for `paper`, else 1."""
    if recipe != "paper":
        return torch.ones(*grid, 1, device=device, dtype=dtype)
    sums = [dct_matrix(n, device, widest_float(device)).sum(0) for n in grid]
    return torch.outer(*sums)[:, :, None].to(dtype)
