"""Causal-Tune (Zhang et al., AAAI 2026, arXiv 2512.16567): adapt features in the frequency domain.

For the patch tokens X of block l on their h x w grid, with D_n the orthonormal DCT-II matrix of
size n, and G the Gaussian band between the radii R_L and R_H of `spectral.bands`:

    (1) Y  = D_h X D_w^T                        per channel; frequencies u of rows, v of columns
    (2) Yc = G * Y                              the causal part; the rest is dropped
    (3) T  = A B                                causal tokens of block l
    (4) P  = softmax(Yc T^T / sqrt(c))          over the m tokens
    (5) Z  = P[:, 1:] (T[1:] W1^T + b1) + Yc    token 0 takes attention and gives no value
    (6) D  = Z W2^T + b2
    (7) out = X + s iDCT(D)                     without s if init.kind = zero

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

from causalseg.adapters.tokens import BlockTokens, TokenEdit, make_delta
from causalseg.config.adapters import CausalTuneConfig
from causalseg.config.mistakes import check
from causalseg.errors import ConfigError
from causalseg.spectral import transforms
from causalseg.spectral.bands import band_mask, band_pass
from causalseg.spectral.grid import Features, GridSize, Tokens, grid_to_tokens, tokens_to_grid
from causalseg.spectral.transforms import cache_constant, dct2, dct_matrix, idct2, widen


class CausalTune(TokenEdit):
    """Low-rank causal tokens that refine the band-passed spectrum of every block.

    W1, b1, W2, b2 and s are shared by all blocks; A and B are per block.
    """

    transform: ClassVar[Literal["dct", "fft", "haar"]] = "dct"

    def __init__(self, width: int, depth: int, *, query_width: int | None = None, **options: Any):
        checked = check(CausalTuneConfig, {"transform": self.transform, **options})
        if checked.transform != self.transform or checked.recipe == "released":
            raise ConfigError(
                f"{type(self).__name__} has transform = {self.transform} and the recipes paper, "
                "centered and full_path; for others take CausalTuneFFT, CausalTuneHaar or "
                "ReleasedCausalTune of causalseg.adapters.ablations"
            )
        super().__init__(width, depth, checked)
        self.recipe, self.low, self.high = checked.recipe, checked.band.low, checked.band.high
        self.tokens = BlockTokens(len(self.layers), width, checked)
        self.token_to_feature = nn.Linear(width, width)  # W1, b1
        self.delta = make_delta(width, checked.init)  # W2, b2
        # Named after its place in saved weights, band.beta.
        self.band = Suppression(len(self.layers), width) if checked.suppress else None
        self.link_queries(query_width, checked)

    def forward(self, tokens: Tokens, layer: int, grid: GridSize) -> Tokens:
        """Return the adapted patch tokens of one block; see `Adapter.forward`.

        The same as `literal`: mixing channels commutes with a transform over positions, so the
        order of the products is free, and the transforms can run on few channels.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            X = widen(tokens_to_grid(tokens, grid))
            # (1) to (5): the attention path before W1, W2 and b2, on r + 2 channels instead of c.
            attention = grid_to_tokens(self._attend(X, layer))
            # The linear path of (5) before W2; Y itself needs no transform, since iDCT(Y) = X.
            linear = X if self.recipe == "full_path" else band_pass(X, self.low, self.high)
            linear = grid_to_tokens(linear)
            rest = None if self.band is None else self.band(X, layer, self.low, self.high)
        # s of (7) on W2 and b2: scaling the weights is cheaper than scaling the features.
        W1, b1 = self.token_to_feature.weight, self.token_to_feature.bias
        W2, b2 = self.scaled(self.delta.weight), self.scaled(self.delta.bias)
        # (T[1:] W1^T + b1) W2^T of (5), (6) is [A[1:], 1] values; the last row is for b2.
        values = torch.cat([self.tokens.B[layer] @ W1.T, b1[None]]) @ W2.T
        values = torch.cat([values, b2[None].to(values.dtype)])
        # (6), (7): both paths, summed in place: one temporary of the size of the features.
        edit = linear.to(W2.dtype) @ W2.T
        edit.baddbmm_(attention.to(edit.dtype), values.to(edit.dtype).expand(edit.shape[0], -1, -1))
        out = edit.to(tokens.dtype).add_(tokens)
        return out if rest is None else out - grid_to_tokens(rest).to(out.dtype)

    def is_decayed(self, name: str) -> bool:
        """Decay all but the learnt factor of `suppress`."""
        return not name.startswith("band.")

    def _attend(self, X: Features, layer: int) -> Float[Tensor, "b h w r_2"]:
        """Return ``iDCT(P[:, 1:] [A[1:], 1])``, r + 1 channels, and one more for b2: r + 2."""
        grid = (X.shape[1], X.shape[2])
        A, B = self.tokens.A[layer].to(X.dtype), self.tokens.B[layer].to(X.dtype)
        G = band_mask(grid, self.low, self.high, X.device, X.dtype)
        query = G[:, :, None] * dct2(X @ B.T)  # Yc B^T: the DCT of r channels, not c
        P = torch.softmax(query @ (A.T / math.sqrt(self.width)), dim=-1)
        # Token 0 gives no value: a zero row is cheaper than a copy of P without a column.
        weights = torch.cat([A, torch.ones_like(A[:, :1])], dim=1)
        mixed = P @ torch.cat([torch.zeros_like(weights[:1]), weights[1:]])
        if self.recipe != "paper":
            mixed = mixed - mixed.mean((1, 2), keepdim=True)
        bias = _bias_map(grid, self.recipe, X.device, X.dtype)
        return torch.cat([idct2(mixed), bias.expand(X.shape[0], -1, -1, -1)], dim=-1)


class Suppression(nn.Module):
    """What `suppress` subtracts: ``beta_l * iDCT((1 - G / max G) * Y)``.

    beta has a value for each block and channel, 0 at first. In the paper the rest of the spectrum
    is dropped from the edit only and stays in X.
    """

    def __init__(self, num_layers: int, width: int):
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(num_layers, width))

    def forward(self, X: Features, layer: int, low: float | None, high: float | None) -> Features:
        """Return it for the features X of a block."""
        peak = band_mask((X.shape[1], X.shape[2]), low, high, X.device, X.dtype).amax()
        peak = torch.where(peak > 0, peak, torch.ones_like(peak))  # G = 0 on a grid of 1 x 1
        return self.beta[layer].to(X.dtype) * (X - band_pass(X, low, high) / peak)


def literal(adapter: CausalTune, tokens: Tokens, layer: int, grid: GridSize) -> Tokens:
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
    grid: GridSize, recipe: str, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "h w 1"]:
    """Return the factor of b2 at each patch: iDCT(1), a spike near (0, 0), for `paper`, else 1."""
    if recipe != "paper":
        return torch.ones(*grid, 1, device=device, dtype=dtype)
    sums = [dct_matrix(n, device, transforms.widest_float(device)).sum(0) for n in grid]
    return torch.outer(*sums)[:, :, None].to(dtype)
