"""Published formulas transcribed literally: slow, readable, what the fast code must equal."""

import torch
from torch import Tensor

from causalseg.adapters.causal_tune import CausalTune
from causalseg.spectral.bands import band_mask
from causalseg.spectral.transforms import dct2, idct2


def causal_tune(adapter: CausalTune, tokens: Tensor, layer: int, grid: tuple[int, int]) -> Tensor:
    """Equations (1) to (7) of `causalseg.adapters.causal_tune`, line by line."""
    h, w = grid
    c = tokens.shape[-1]
    X = tokens.reshape(-1, h, w, c)
    W1, b1 = adapter.token_to_feature.weight, adapter.token_to_feature.bias
    W2, b2 = adapter.delta.weight, adapter.delta.bias
    Y = dct2(X)
    G = band_mask(grid, adapter.low, adapter.high, "cpu", X.dtype)
    Yc = G[:, :, None] * Y
    T = adapter.tokens.A[layer] @ adapter.tokens.B[layer]
    P = torch.softmax(Yc @ T.T / c**0.5, dim=-1)
    attention = P[..., 1:] @ (T[1:] @ W1.T + b1)
    if adapter.recipe == "centered":
        attention = attention - attention.mean((1, 2), keepdim=True)
        delta = idct2((attention + Yc) @ W2.T) + b2
    else:
        delta = idct2((attention + Yc) @ W2.T + b2)
    return tokens + (adapter.scale * delta).reshape(tokens.shape)
