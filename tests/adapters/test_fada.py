"""FADA: the formula restated with kernels and style removal."""

from functools import partial

import pytest
import torch
from torch.nn import functional

from causalseg.adapters.fada import Fada
from causalseg.spectral.grid import grid_to_tokens, tokens_to_grid
from causalseg.spectral.haar import haar2, ihaar2
from tiny_vit import make_small

GRIDS = [(1, 1), (1, 7), (5, 8), (6, 4), (9, 3)]
small = partial(make_small, Fada, 12, 3, scale=0.3)


def refined(branch, Q, layer):
    """Token attention on coefficients Q (p, c) of one image, one position after the other."""
    W1, b1 = branch.token_to_feature.weight, branch.token_to_feature.bias
    W2, b2 = branch.delta.weight, branch.delta.bias
    T = branch.tokens.A[layer] @ branch.tokens.B[layer]
    rows = []
    for query in Q:
        P = torch.softmax(T @ query / len(query) ** 0.5, dim=0)
        attention = sum(P[i] * (W1 @ T[i] + b1) for i in range(1, len(T)))
        rows.append(W2 @ (attention + query) + b2)
    return torch.stack(rows)


def literal(adapter, tokens, layer, grid):
    """Equations (1) to (6), the Haar transform as convolutions with its four kernels."""
    c = tokens.shape[-1]
    L, H = (torch.tensor(taps, dtype=tokens.dtype) / 2**0.5 for taps in ([1, 1], [-1, 1]))
    pairs = [(L, L), (L, H), (H, L), (H, H)]
    kernels = torch.stack([torch.outer(*pair) for pair in pairs])[:, None]
    outputs = []
    for image in tokens:
        X = image.reshape(*grid, c).movedim(-1, 0)[:, None]
        for axis, size in ((-2, grid[0]), (-1, grid[1])):
            if size % 2:
                X = torch.cat([X, X.select(axis, max(size - 2, 0)).unsqueeze(axis)], dim=axis)
        bands = functional.conv2d(X, kernels, stride=2)  # (c, 4, h2, w2)
        LL, style = bands[:, :1], bands[:, 1:]
        mean = style.mean((2, 3), keepdim=True)
        variance = style.var((2, 3), keepdim=True, correction=0)
        style = (style - mean) / (variance + 1e-5).sqrt()
        changes = [
            refined(branch, part.flatten(1).T, layer).T.unflatten(1, part.shape[1:])
            for branch, part in ((adapter.content, LL), (adapter.style, style))
        ]
        inverse = functional.conv_transpose2d(torch.cat(changes, dim=1), kernels, stride=2)
        edit = inverse[:, 0, : grid[0], : grid[1]].movedim(0, -1).reshape(-1, c)
        outputs.append(image + adapter.scale * edit)
    return torch.stack(outputs)


@pytest.mark.parametrize("grid", GRIDS)
def test_it_equals_the_formula_with_kernels(grid):
    adapter = small().double()
    tokens = torch.randn(2, grid[0] * grid[1], 12, dtype=torch.float64)
    for layer in (0, 2):
        expected = literal(adapter, tokens, layer, grid)
        assert torch.allclose(adapter(tokens, layer, grid), expected, atol=1e-9)
    assert not torch.allclose(expected, tokens, atol=0.1)


def restyled(tokens, grid, gains):
    """Multiply the sub-bands LL, LH, HL, HH by positive factors."""
    parts = haar2(tokens_to_grid(tokens, grid))
    return grid_to_tokens(
        ihaar2([gain * part for gain, part in zip(gains, parts, strict=True)], grid)
    )


def test_the_edit_does_not_see_a_rescaled_style_band_but_sees_content():
    adapter = small().double()
    tokens = 10 * torch.randn(2, 48, 12, dtype=torch.float64)

    def edit(tokens):
        return adapter(tokens, 0, (6, 8)) - tokens

    per_channel = torch.rand(12, dtype=torch.float64) + 0.5
    for gains in ((1, 3.0, 1, 1), (1, 1, per_channel, 1), (1, 2.0, 0.5, per_channel)):
        other = restyled(tokens, (6, 8), gains)
        assert not torch.allclose(other, tokens, atol=1)
        assert torch.allclose(edit(other), edit(tokens), atol=1e-4)
    assert not torch.allclose(edit(restyled(tokens, (6, 8), (2, 1, 1, 1))), edit(tokens), atol=1)
