"""Causal-Tune with FFT and Haar: the formulas restated, the bands, the recipes."""

from functools import partial

import numpy as np
import pytest
import torch

from causalseg.adapters.ablations.literal import CausalTuneFFT, CausalTuneHaar, fourier_band
from causalseg.adapters.causal_tune import CausalTune
from causalseg.errors import ConfigError
from causalseg.spectral.grid import grid_to_tokens
from causalseg.spectral.haar import haar2, ihaar2
from tiny_vit import make_small

GRIDS = [(1, 1), (1, 7), (5, 8), (6, 4), (9, 3)]
BANDS = [(0.2, 0.7), (None, 0.7), (0.2, None), (None, None)]
VARIANTS = [CausalTuneFFT, CausalTuneHaar]
small = partial(make_small, width=12, depth=3, recipe="centered", scale=0.3)


def mask(grid, low, high):
    """The band on every Fourier coefficient, one after the other."""
    G = np.zeros(grid)
    for i in range(grid[0]):
        for j in range(grid[1]):
            f = [min(k, n - k) / n for k, n in ((i, grid[0]), (j, grid[1]))]  # cycles a cell
            square = sum((2 * x) ** 2 for x in f)
            G[i, j] = 1 if high is None else np.exp(-square / (2 * high**2))
            G[i, j] -= 0 if low is None else np.exp(-square / (2 * low**2))
    return G


def refined(adapter, Yc, layer):
    """Tokens on one real map of coefficients (b, h, w, c); the bias of the inverse apart."""
    A, B = (factor[layer].detach().numpy() for factor in (adapter.tokens.A, adapter.tokens.B))
    W1, b1 = (p.detach().numpy() for p in adapter.token_to_feature.parameters())
    W2, b2 = (p.detach().numpy() for p in adapter.delta.parameters())
    T = A @ B
    P = np.exp(Yc @ T.T / np.sqrt(Yc.shape[-1]))
    P = P / P.sum(-1, keepdims=True)
    attention = P[..., 1:] @ (T[1:] @ W1.T + b1)
    if adapter.recipe == "paper":
        return (attention + Yc) @ W2.T + b2, 0
    return (attention - attention.mean((1, 2), keepdims=True) + Yc) @ W2.T, b2


def literal_fft(adapter, X, layer, grid):
    G = mask(grid, adapter.low, adapter.high)[:, :, None]
    F = np.fft.fft2(X, axes=(1, 2), norm="ortho")
    (real, bias), (imaginary, _) = (refined(adapter, G * part, layer) for part in (F.real, F.imag))
    return np.fft.ifft2(real + 1j * imaginary, axes=(1, 2), norm="ortho").real + bias


def literal_haar(adapter, X, layer, grid):
    parts = [part.numpy() for part in haar2(torch.from_numpy(X))]
    is_kept = (adapter.low is None, True, True, adapter.high is None)
    refinements = []
    for part, kept in zip(parts, is_kept, strict=True):
        change, bias = refined(adapter, part, layer)
        refinements.append(torch.from_numpy(change * kept))
    return ihaar2(refinements, grid).numpy() + bias


@pytest.mark.parametrize(
    ("variant", "literal"), [(CausalTuneFFT, literal_fft), (CausalTuneHaar, literal_haar)]
)
@pytest.mark.parametrize("recipe", ["paper", "centered"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("low", "high"), BANDS)
def test_it_equals_the_formula(variant, literal, recipe, grid, low, high):
    adapter = small(variant, recipe=recipe, band={"low": low, "high": high}).double()
    tokens = torch.randn(2, grid[0] * grid[1], 12, dtype=torch.float64)
    X = tokens.numpy().reshape(2, *grid, 12)
    edit = torch.from_numpy(literal(adapter, X, 1, grid).reshape(tokens.shape))
    expected = tokens + adapter.scale * edit
    assert torch.allclose(adapter(tokens, 1, grid), expected, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_and_options_are_those_of_causal_tune(variant):
    adapter, reference = variant(12, 3, query_width=6), CausalTune(12, 3, query_width=6)
    adapter.load_state_dict(dict(reference.state_dict()))
    assert torch.equal(adapter.queries(), reference.queries())
    assert (adapter.low, adapter.high) == (0.2, 0.7)
    assert adapter.recipe == "centered"


def make_linear(adapter):
    """Leave the linear path alone: no tokens, no biases, W2 the identity."""
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.zero_()
        adapter.scale.fill_(1)
        adapter.delta.weight.copy_(torch.eye(adapter.width))
    return adapter.double()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("grid", GRIDS)
def test_an_all_pass_band_equals_no_band(variant, grid):
    adapter = make_linear(small(variant, band={"low": None, "high": None}))
    tokens = torch.randn(2, grid[0] * grid[1], 12, dtype=torch.float64)
    assert torch.allclose(adapter(tokens, 0, grid), 2 * tokens, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_low_given_drops_what_is_constant_and_high_given_what_alternates(variant):
    constant = torch.ones(1, 24, 12, dtype=torch.float64)
    i, j = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    alternating = grid_to_tokens(((-1.0) ** (i + j))[None, :, :, None].expand(1, 4, 6, 12)).double()
    share = {}
    for low, high in BANDS[:3]:
        adapter = make_linear(small(variant, band={"low": low, "high": high}))
        for name, tokens in (("constant", constant), ("alternating", alternating)):
            edit = adapter(tokens, 0, (4, 6)).detach() - tokens
            share[name, low, high] = float(edit.norm() / tokens.norm())
    for high in (0.7, None):
        assert share["constant", 0.2, high] == pytest.approx(0, abs=1e-12)
    assert share["constant", None, 0.7] == pytest.approx(1)
    assert share["alternating", 0.2, None] == pytest.approx(1, abs=1e-6)
    for low in (0.2, None):
        assert share["alternating", low, 0.7] < 0.15


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (6, 9)])
def test_the_fourier_band_peaks_at_middle_frequencies(grid):
    G = fourier_band(grid, dtype=torch.float64)
    assert torch.allclose(G, torch.from_numpy(mask(grid, 0.2, 0.7)), atol=1e-12)
    assert G[0, 0] == 0
    if grid == (6, 9):
        assert torch.allclose(G[1:], G[1:].flip(0))
        assert G.max() > 0.7
        assert G[3, 4] < 0.2


@pytest.mark.parametrize(
    ("variant", "options", "message"),
    [
        (CausalTuneFFT, {"suppress": True}, "suppress has no effect with transform=fft"),
        (CausalTuneHaar, {"suppress": True}, "suppress has no effect with transform=haar"),
        (CausalTuneFFT, {"recipe": "full_path"}, "has the recipes paper and centered"),
        (CausalTuneHaar, {"band": {"low": 0.3}}, "allowed are both, low_removed"),
    ],
)
def test_options_without_effect_are_refused(variant, options, message):
    with pytest.raises(ConfigError, match=message):
        variant(12, 3, **options)
