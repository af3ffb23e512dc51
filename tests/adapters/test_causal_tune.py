"""Causal-Tune: golden numbers, the literal formula, the count, the spike."""

from functools import partial

import pytest
import torch

from causalseg.adapters.ablations.literal import CausalTuneFFT
from causalseg.adapters.causal_tune import CausalTune, literal
from causalseg.errors import ConfigError
from causalseg.spectral.grid import tokens_to_grid
from golden_modules import PAPER_NAMES, errors, load
from tiny_vit import make_small

SIZES = {"width": 24, "depth": 3, "num_tokens": 8, "rank": 4}
small = partial(make_small, CausalTune, **SIZES, recipe="centered")


@pytest.mark.parametrize("name", ["paper_formula_8x8_b1", "paper_formula_7x7_b2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_paper_recipe_equals_the_golden_numbers(golden, name, dtype):
    data = load(golden / f"{name}.npz")
    adapter = CausalTune(**SIZES, recipe="paper", init="small")
    outputs, gradients = errors(adapter, data, tuple(data["mask"].shape), dtype, PAPER_NAMES)
    assert max(*outputs.values(), *gradients.values()) <= 2e-6, (outputs, gradients)


def both_forms(adapter, grid):
    """Pairs of outputs and gradients, of the fast form and of the literal one, in float64."""
    tokens = torch.randn(2, grid[0] * grid[1], 24, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(tokens)
    results = []
    for form in (lambda: adapter(tokens, 1, grid), lambda: literal(adapter, tokens, 1, grid)):
        output = form()
        gradients = torch.autograd.grad((output * weights).sum(), [tokens, *adapter.parameters()])
        results.append((output, *gradients))
    return list(zip(*results, strict=True))


@pytest.mark.parametrize("recipe", ["paper", "centered", "full_path"])
@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (5, 8), (9, 4)])
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.7), (None, 0.7), (0.2, None), (None, None)])
def test_fast_form_equals_the_literal_formula(recipe, grid, low, high):
    adapter = small(recipe=recipe, band={"low": low, "high": high}).double()
    for fast, expected in both_forms(adapter, grid):
        assert torch.allclose(fast, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("low", [0.2, None])
@pytest.mark.parametrize("recipe", ["centered", "full_path"])
@pytest.mark.parametrize("grid", [(1, 1), (5, 8)])
def test_the_suppressed_rest_equals_its_formula(low, recipe, grid):
    adapter = small(recipe=recipe, suppress=True, band={"low": low}).double()
    plain = small(recipe=recipe, band={"low": low}).double()
    tokens = torch.randn(2, grid[0] * grid[1], 24, dtype=torch.float64)
    assert torch.equal(adapter(tokens, 1, grid), plain(tokens, 1, grid))
    with torch.no_grad():
        adapter.get_parameter("band.beta").uniform_(0.1, 0.5)
    assert not adapter.is_decayed("band.beta")
    for fast, expected in both_forms(adapter, grid):
        assert torch.allclose(fast, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("recipe", ["paper", "centered", "full_path"])
def test_without_a_scale_the_fast_form_equals_the_literal_formula_too(recipe):
    torch.manual_seed(0)
    adapter = CausalTune(**SIZES, recipe=recipe, init={"token_std": 2}).double()
    with torch.no_grad():
        for parameter in adapter.delta.parameters():
            parameter.normal_()
    assert adapter.scale is None
    for fast, expected in both_forms(adapter, (5, 8)):
        assert torch.allclose(fast, expected, atol=1e-9, rtol=1e-9)


def test_vit_large_has_exactly_the_published_layout_of_parameters():
    adapter = CausalTune(1024, 24, query_width=256, init="small")
    assert sum(p.numel() for p in adapter.parameters()) == 2_990_081


def test_queries_are_the_linked_tokens():
    adapter = small(query_width=12)
    T = torch.stack([a @ b for a, b in zip(adapter.tokens.A, adapter.tokens.B, strict=True)])
    Q = T @ adapter.link.transform.weight.T + adapter.link.transform.bias
    joined = torch.cat([Q.max(0).values, Q.mean(0), Q[2]], dim=-1)
    expected = joined @ adapter.link.merge.weight.T + adapter.link.merge.bias
    assert adapter.queries().shape == (8, 12)
    assert torch.allclose(adapter.queries(), expected, atol=1e-5)
    assert small().queries() is None


@pytest.mark.parametrize(
    ("kind", "width", "most", "least"), [(CausalTune, 384, 1.5, 2), (CausalTuneFFT, 48, 2, 4)]
)
@pytest.mark.parametrize("seed", range(3))
def test_the_literal_formula_starts_with_a_spike_at_the_corner_and_centered_does_not(
    kind, width, most, least, seed
):
    ratio = {}
    for recipe in ("paper", "centered"):
        torch.manual_seed(seed)
        adapter = kind(width, 1, recipe=recipe, init="small")
        tokens = torch.randn(1, 18 * 24, width)
        edit = adapter(tokens, 0, (18, 24)).detach() - tokens
        norms = tokens_to_grid(edit, (18, 24))[0].norm(dim=-1)
        ratio[recipe] = float(norms[0, 0] / norms.median())
    assert ratio["paper"] > least
    assert ratio["centered"] < most


def test_channels_relabelled_before_and_after_give_the_relabelled_output():
    adapter, relabelled = small(), small()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        relabelled.tokens.B.copy_(adapter.tokens.B[:, :, order])
        for name in ("token_to_feature", "delta"):
            ours, theirs = getattr(relabelled, name), getattr(adapter, name)
            ours.weight.copy_(theirs.weight[order][:, order])
            ours.bias.copy_(theirs.bias[order])
    tokens = torch.randn(2, 40, 24)
    expected = adapter(tokens, 0, (5, 8))[..., order]
    assert torch.allclose(relabelled(tokens[..., order], 0, (5, 8)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_tokens": 1}, "num_tokens = 1: .*greater than or equal to 2"),
        ({"rank": 0}, "rank = 0"),
        ({"tokens": 8}, "tokens: no such option; did you mean 'num_tokens'"),
        ({"recipe": "literal"}, "centered, full_path, paper"),
        ({"transform": "fft"}, "transform = dct .*ablations"),
        ({"recipe": "released"}, "recipes paper, centered.*ablations"),
        ({"layers": [2]}, "blocks from 0 to 1"),
        ({"layers": [0, 0]}, "different blocks"),
        ({"layers": 3}, "at most 2"),
        ({"query_width": 0}, "query_width = 0"),
        ({"band": {"low": 0.9}}, "low = 0.9 must be below"),
        ({"band": {"low": -1}}, "low = -1"),
        ({"band": "all", "suppress": True}, "suppress has no effect"),
        ({"init": {"scale": 0.5}}, "scale = 0.5 has no effect with kind=zero"),
    ],
)
def test_impossible_options_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        CausalTune(8, 2, **options)
