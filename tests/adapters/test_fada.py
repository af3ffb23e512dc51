"""FADA: the formula restated with kernels, style removal, safe gradients."""

import pytest
import torch
from torch.nn import functional

from causalseg.adapters.fada import Fada
from causalseg.errors import ConfigError
from causalseg.spectral.grid import grid_to_tokens, tokens_to_grid
from causalseg.spectral.haar import haar2, ihaar2

GRIDS = [(1, 1), (1, 7), (5, 8), (6, 4), (9, 3)]


def small(trained=True):
    """An adapter of a few thousand numbers; `trained` gives every part a visible effect."""
    torch.manual_seed(0)
    adapter = Fada(12, 3, 8, 4)
    if trained:
        with torch.no_grad():
            adapter.scale.fill_(0.3)
            for branch in (adapter.content, adapter.style):
                branch.tokens.A.normal_()
                branch.tokens.B.normal_()
    return adapter


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


def test_the_edit_is_small_at_the_start():
    tokens = torch.randn(2, 40, 12)
    edit = small(trained=False)(tokens, 0, (5, 8)) - tokens
    assert 0 < edit.norm() < 0.01 * tokens.norm()


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


def test_an_image_does_not_depend_on_its_neighbours():
    adapter = small()
    tokens = torch.randn(3, 40, 12)
    together = adapter(tokens, 0, (5, 8))
    alone = torch.cat([adapter(image[None], 0, (5, 8)) for image in tokens])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("kind", ["random", "zero", "constant"])
@pytest.mark.parametrize("grid", GRIDS)
def test_output_and_gradients_are_finite_on_any_image(kind, grid):
    adapter = small()
    shape = (2, grid[0] * grid[1], 12)
    tokens = {
        "random": torch.randn(shape),
        "zero": torch.zeros(shape),
        "constant": torch.full(shape, -3.7),
    }[kind].requires_grad_()
    output = adapter(tokens, 0, grid)
    gradients = torch.autograd.grad(
        (output * torch.randn_like(output)).sum(), [tokens, *adapter.parameters()]
    )
    assert torch.isfinite(output).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_every_parameter_gets_a_gradient_at_the_start():
    adapter = Fada(12, 2, 8, 4)
    tokens = torch.randn(2, 40, 12)
    for layer in (0, 1):
        tokens = adapter(tokens, layer, (5, 8))
    tokens.square().sum().backward()
    for name, parameter in adapter.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    for branch in (adapter.content, adapter.style):
        assert (branch.tokens.A.grad.abs().sum(-1) > 0).all()  # each token of each block


def test_it_offers_no_queries():
    assert small().queries() is None


def test_half_precision_features_come_back_in_half_precision_and_close():
    adapter = small()
    tokens = torch.randn(2, 40, 12).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = adapter(tokens, 0, (5, 8))
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), adapter(tokens.float(), 0, (5, 8)), atol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_tokens": 1}, "two tokens at least"), ({"rank": 0}, "rank = 0"), ({"layers": [2]}, "2")],
)
def test_impossible_options_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        Fada(8, 2, **options)
