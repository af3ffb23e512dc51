"""Adapters that edit spectra have finite outputs and gradients on any image."""

import pytest
import torch

from causalseg.adapters.ablations.literal import CausalTuneFFT, CausalTuneHaar
from causalseg.adapters.fada import Fada
from causalseg.adapters.set import SetAdapter

IMAGES = {
    "random": lambda n: torch.randn(2, n, 12),
    "zero": lambda n: torch.zeros(2, n, 12),
    "constant": lambda n: torch.full((2, n, 12), -3.7),
    "one channel": lambda n: torch.randn(2, n, 12) * torch.eye(12)[4],
    "impulse": lambda n: torch.eye(n)[:1, :, None].expand(2, n, 12).clone(),
}


@pytest.mark.parametrize("make", [SetAdapter, Fada, CausalTuneFFT, CausalTuneHaar])
@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (5, 8), (6, 4), (9, 3)])
def test_output_and_gradients_are_finite_on_any_image(make, kind, grid):
    torch.manual_seed(0)
    init = {"kind": "small", "scale": 0.3, "token_std": 2}
    adapter = make(12, 3, num_tokens=8, rank=4, init=init)
    tokens = IMAGES[kind](grid[0] * grid[1]).requires_grad_()
    output = adapter(tokens, 0, grid)
    gradients = torch.autograd.grad(
        (output * torch.randn_like(output)).sum(), [tokens, *adapter.parameters()]
    )
    assert torch.isfinite(output).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
