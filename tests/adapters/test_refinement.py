"""What SET and FADA share: tokens that refine coefficients on any image, with safe gradients."""

from functools import partial

import pytest
import torch

from causalseg.adapters.fada import Fada
from causalseg.adapters.refinement import TokenRefinement
from causalseg.adapters.set import SetAdapter
from causalseg.config.initialisation import Init
from causalseg.errors import ConfigError

GRIDS = [(1, 1), (1, 7), (5, 8), (6, 4), (9, 3)]
both = pytest.mark.parametrize("make", [SetAdapter, Fada])


def branches(adapter):
    """The two sets of tokens: of amplitude and phase, or of content and style."""
    return [part for part in adapter.children() if isinstance(part, TokenRefinement)]


def small(make):
    """An adapter of a few thousand numbers, every part of which has a visible effect."""
    torch.manual_seed(0)
    adapter = make(12, 3, 8, 4, init=Init(kind="small", scale=0.3))
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


@pytest.mark.parametrize("make", [partial(SetAdapter, query_width=6), Fada])
def test_every_parameter_gets_a_gradient_at_the_start(make):
    adapter = make(12, 2, 8, 4, init=Init(kind="small"))
    tokens = torch.randn(2, 40, 12)
    for layer in (0, 1):
        tokens = adapter(tokens, layer, (5, 8))
    outputs = [tokens] if adapter.queries() is None else [tokens, adapter.queries()]
    sum(output.square().sum() for output in outputs).backward()
    for name, parameter in adapter.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    assert len(branches(adapter)) == 2
    for branch in branches(adapter):
        assert (branch.tokens.A.grad.abs().sum(-1) > 0).all()  # each token of each block


@both
def test_half_precision_features_come_back_in_half_precision_and_close(make):
    adapter = small(make)
    tokens = torch.randn(2, 40, 12).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = adapter(tokens, 0, (5, 8))
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), adapter(tokens.float(), 0, (5, 8)), atol=0.05)


@both
@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_tokens": 1}, "two tokens at least"), ({"rank": 0}, "rank = 0"), ({"layers": [2]}, "2")],
)
def test_impossible_options_are_refused_by_name(make, options, message):
    with pytest.raises(ConfigError, match=message):
        make(8, 2, **options)
