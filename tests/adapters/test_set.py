"""SET: the formula restated with numpy and style removal."""

from functools import partial

import numpy as np
import pytest
import torch

from causalseg.adapters.set import SetAdapter
from tiny_vit import make_small

GRIDS = [(1, 1), (1, 7), (5, 8), (6, 4), (9, 3)]
small = partial(make_small, SetAdapter, 12, 3, scale=0.3)


def refined(branch, Q, layer, is_normalised):
    """Equations (3) to (5) for coefficients Q (b, h, w, c), with numpy."""
    A, B = (factor[layer].detach().numpy() for factor in (branch.tokens.A, branch.tokens.B))
    W1, b1 = (p.detach().numpy() for p in branch.token_to_feature.parameters())
    W2, b2 = (p.detach().numpy() for p in branch.delta.parameters())
    T = A @ B
    logits = Q @ T.T / np.sqrt(Q.shape[-1])
    if is_normalised:
        logits = logits - logits.mean((1, 2), keepdims=True)
        logits = logits / np.sqrt((logits**2).mean((1, 2), keepdims=True) + 1e-10)
    P = np.exp(logits - logits.max(-1, keepdims=True))
    P = P / P.sum(-1, keepdims=True)
    return (P[..., 1:] @ (T[1:] @ W1.T + b1) + Q) @ W2.T + b2


def literal(adapter, tokens, layer, grid):
    """Equations (1) to (7) with numpy's complex numbers."""
    X = tokens.detach().numpy().reshape(-1, *grid, tokens.shape[-1])
    F = np.fft.fft2(X, axes=(1, 2), norm="ortho")
    A, phi = np.abs(F), np.angle(F)
    phi[phi < -np.pi + 1e-6] = np.pi  # real and negative, but for rounding
    s = adapter.scale.item()
    new_A = A + s * refined(adapter.amplitude, A, layer, is_normalised=True)
    new_phi = phi + s * refined(adapter.phase, phi, layer, is_normalised=False)
    out = np.fft.ifft2(new_A * np.exp(1j * new_phi), axes=(1, 2), norm="ortho").real
    return torch.from_numpy(out.reshape(tokens.shape))


@pytest.mark.parametrize("grid", GRIDS)
def test_it_equals_the_formula_with_complex_numbers(grid):
    adapter = small().double()
    tokens = torch.randn(2, grid[0] * grid[1], 12, dtype=torch.float64)
    for layer in (0, 2):
        expected = literal(adapter, tokens, layer, grid)
        assert torch.allclose(adapter(tokens, layer, grid), expected, atol=1e-9)
    assert not torch.allclose(expected, tokens, atol=0.1)


def test_with_scale_zero_it_is_the_identity_bit_for_bit():
    adapter = small()
    torch.nn.init.zeros_(adapter.scale)
    tokens = torch.randn(2, 40, 12)
    assert torch.equal(adapter(tokens, 0, (5, 8)), tokens)


def test_amplitude_attention_does_not_see_a_rescaled_amplitude_and_phase_attention_would():
    adapter = small().double()
    A = torch.rand(2, 40, 12, dtype=torch.float64)
    gain = torch.tensor([0.3, 5.0], dtype=torch.float64)[:, None, None]
    for branch, is_invariant in ((adapter.amplitude, True), (adapter.phase, False)):
        # The linear path scales; what is left is the attention term.
        linear = (gain * A - A) @ branch.delta.weight.T
        attention = branch(gain * A, 0) - branch(A, 0) - linear
        assert (attention.abs().max() < 1e-5) == is_invariant


def test_the_phase_of_a_negative_real_coefficient_does_not_hang_on_rounding():
    adapter = small().double()
    tokens = torch.randn(1, 24, 12, dtype=torch.float64) - 5  # DC is negative
    nudged = tokens + 1e-13 * torch.randn_like(tokens)
    assert torch.allclose(adapter(tokens, 0, (6, 4)), adapter(nudged, 0, (6, 4)), atol=1e-9)


def test_queries_are_made_from_the_phase_tokens():
    adapter = small(query_width=6)
    assert torch.equal(adapter.queries(), adapter.link(adapter.phase.tokens()))
    assert adapter.queries().shape == (8, 6)
    assert small().queries() is None
