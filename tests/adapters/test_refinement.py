"""What SET and FADA share: tokens that refine coefficients on any image, with safe gradients."""

import pytest
import torch

from causalseg.adapters.fada import Fada
from causalseg.adapters.refinement import TokenRefinement
from causalseg.adapters.set import SetAdapter

GRIDS = [(1, 1), (1, 7), (5, 8), (6, 4), (9, 3)]
both = pytest.mark.parametrize("make", [SetAdapter, Fada])


def branches(adapter):
    """The two sets of tokens: of amplitude and phase, or of content and style."""
    return [part for part in adapter.children() if isinstance(part, TokenRefinement)]


def small(make):
    """An adapter of a few thousand values, each with a visible effect."""
    torch.manual_seed(0)
    adapter = make(12, 3, num_tokens=8, rank=4, init={"kind": "small", "scale": 0.3})
    for branch in branches(adapter):
        for factor in branch.tokens.parameters():
            torch.nn.init.normal_(factor)
    return adapter


def make_tokens(kind, n):
    return {
        "random": torch.randn(2, n, 12),
        "zero": torch.zeros(2, n, 12),
        "constant": torch.full((2, n, 12), -3.7),
        "one channel": torch.randn(2, n, 12) * torch.eye(12)[4],
        "impulse": torch.eye(n)[:1, :, None].expand(2, n, 12).clone(),
    }[kind]


@both
@pytest.mark.parametrize("kind", ["random", "zero", "constant", "one channel", "impulse"])
@pytest.mark.parametrize("grid", GRIDS)
def test_output_and_gradients_are_finite_on_any_image(make, kind, grid):
    adapter = small(make)
    tokens = make_tokens(kind, grid[0] * grid[1]).requires_grad_()
    output = adapter(tokens, 0, grid)
    gradients = torch.autograd.grad(
        (output * torch.randn_like(output)).sum(), [tokens, *adapter.parameters()]
    )
    assert torch.isfinite(output).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
