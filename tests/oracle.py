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
    options = adapter.band.options
    Y = dct2(X)
    gaussians = band_mask(grid, *adapter.band.radii(layer), "cpu", X.dtype)
    peak = gaussians.max() if gaussians.max() > 0 else 1.0
    G = (gaussians / peak if options.peak_normalised else gaussians)[:, :, None]
    if options.gains:
        u, v = torch.arange(h)[:, None] / h, torch.arange(w)[None] / w
        bins = ((u**2 + v**2).sqrt() / 2**0.5 * 8).long()
        G = G * adapter.band.gain[layer][bins]
    Yc = G * Y
    T = adapter.tokens.A[layer] @ adapter.tokens.B[layer]
    P = torch.softmax(Yc @ T.T / c**0.5, dim=-1)
    attention = P[..., 1:] @ (T[1:] @ W1.T + b1)
    linear = Y if adapter.recipe == "full_path" else Yc
    if adapter.recipe != "paper":
        attention = attention - attention.mean((1, 2), keepdim=True)
        delta = idct2((attention + linear) @ W2.T) + b2
    else:
        delta = idct2((attention + linear) @ W2.T + b2)
    out = X + adapter.scaled(delta)
    if options.suppress:
        out = out - adapter.band.beta[layer] * idct2((1 - gaussians / peak)[:, :, None] * Y)
    return out.reshape(tokens.shape)
