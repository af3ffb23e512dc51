"""Causal-Tune: golden numbers, the literal formula, the count, the spike."""

import copy

import numpy as np
import pytest
import torch

from causalseg.adapters.band import Band
from causalseg.adapters.causal_tune import CausalTune
from causalseg.config.initialisation import Init
from causalseg.errors import ConfigError
from causalseg.spectral.grid import tokens_to_grid
from oracle import causal_tune as literal


def small(recipe="centered", width=24, depth=3, query_width=None, trained=True, band=Band()):  # noqa: B008
    """An adapter of a few thousand numbers; `trained` gives every part a visible effect."""
    torch.manual_seed(0)
    adapter = CausalTune(width, depth, 8, 4, query_width, band, recipe, Init(kind="small"))
    if trained:
        with torch.no_grad():
            adapter.scale.fill_(0.5)
            adapter.tokens.A.normal_()
            adapter.tokens.B.normal_()
    return adapter


@pytest.mark.parametrize("name", ["paper_formula_8x8_b1", "paper_formula_7x7_b2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_paper_recipe_equals_the_golden_numbers(golden, name, dtype):
    data = {k: torch.from_numpy(v) for k, v in np.load(golden / f"{name}.npz").items()}
    grid = tuple(data["mask"].shape)
    adapter = CausalTune(24, 3, 8, 4, recipe="paper", init=Init(kind="small")).to(dtype)
    names = {
        "a": adapter.tokens.A,
        "b": adapter.tokens.B,
        "w1": adapter.token_to_feature.weight,
        "b1": adapter.token_to_feature.bias,
        "w2": adapter.delta.weight,
        "b2": adapter.delta.bias,
        "scale": adapter.scale,
    }
    with torch.no_grad():
        for key, parameter in names.items():
            parameter.copy_(data[f"param/{key}"])
    x = data["x"].to(dtype).requires_grad_()
    y = x
    for layer in range(3):
        y = torch.cat([y[:, :1], adapter(y[:, 1:], layer, grid)], dim=1)
    (y * data["grad_out"].to(dtype)).sum().backward()
    assert torch.allclose(y.double(), data["out"], atol=1e-5, rtol=0)
    gradients = {"grad_x": x.grad, **{f"grad/{k}": p.grad for k, p in names.items()}}
    for key, gradient in gradients.items():
        expected = data[key]
        assert (gradient.double() - expected).norm() <= 1e-4 * expected.norm(), key


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
    for fast, expected in both_forms(small(recipe, band=Band(low, high)).double(), grid):
        assert torch.allclose(fast, expected, atol=1e-9, rtol=1e-9)


BEYOND = {
    "suppressed rest": {"suppress": True},
    "learnt radii": {"learnable": True},
    "gains": {"gains": True},
    "normalised peak": {"peak_normalised": True},
    "learnt high radius": {"low": None, "learnable": True, "suppress": True},
    "everything": dict.fromkeys(("suppress", "learnable", "gains", "peak_normalised"), True),
}


@pytest.mark.parametrize("options", BEYOND.values(), ids=BEYOND)
@pytest.mark.parametrize("recipe", ["centered", "full_path"])
@pytest.mark.parametrize("grid", [(5, 8), (9, 4)])
def test_what_goes_beyond_the_paper_equals_its_formula(options, grid, recipe):
    adapter = small(recipe, band=Band(**options)).double()
    with torch.no_grad():
        for parameter in adapter.band.parameters():  # away from where it does nothing
            parameter.add_(0.3 * torch.rand_like(parameter))
    for fast, expected in both_forms(adapter, grid):
        assert torch.allclose(fast, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("options", [{"suppress": True}, {"learnable": True}, {"gains": True}])
def test_what_is_learnt_of_a_band_starts_as_the_plain_method(options):
    plain, beyond = small(), small(band=Band(**options))
    beyond.load_state_dict(plain.state_dict(), strict=False)
    tokens = torch.randn(2, 40, 24)
    assert torch.allclose(beyond(tokens, 1, (5, 8)), plain(tokens, 1, (5, 8)), atol=1e-5)


def test_learnt_radii_start_as_given_and_stay_ordered():
    weights = small(band=Band(0.1, 0.5, learnable=True)).band
    low, high = weights.radii(0)
    assert (low.item(), high.item()) == pytest.approx((0.1, 0.5))
    for below, above in ((3, -9), (-60, -30), (-200, 5)):
        with torch.no_grad():
            weights.raw_low.fill_(below)
            weights.raw_high.fill_(above)
        low, high = weights.radii(0)
        assert 0 < low < high
        assert weights.mask(torch.zeros(1, 4, 6, 24), 0).isfinite().all()
    assert small(band=Band(0.1, 1000, learnable=True)).band.radii(0)[1].item() == pytest.approx(1e3)


@pytest.mark.parametrize("recipe", ["paper", "centered", "full_path"])
def test_without_a_scale_the_fast_form_equals_the_literal_formula_too(recipe):
    torch.manual_seed(0)
    adapter = CausalTune(24, 3, 8, 4, recipe=recipe, init=Init(token_std=2.0)).double()
    with torch.no_grad():
        for parameter in adapter.delta.parameters():
            parameter.normal_()
    assert adapter.scale is None
    for fast, expected in both_forms(adapter, (5, 8)):
        assert torch.allclose(fast, expected, atol=1e-9, rtol=1e-9)


def test_vit_large_has_exactly_the_published_layout_of_parameters():
    adapter = CausalTune(1024, 24, 100, 16, query_width=256, init=Init(kind="small"))
    assert sum(p.numel() for p in adapter.parameters()) == 2_990_081


@pytest.mark.parametrize(("std", "expected"), [(None, 0.002), (1.0, 1.0)])
def test_linked_queries_start_as_far_apart_as_asked(std, expected):
    """Nearly equal as Rein's code draws them, else with the standard deviation given."""
    torch.manual_seed(0)
    queries = CausalTune(384, 12, query_width=256, init=Init(query_std=std)).queries()
    assert queries.std(0).square().mean().sqrt().item() == pytest.approx(expected, rel=0.2)


def test_queries_are_spread_by_one_factor_of_one_weight():
    torch.manual_seed(0)
    adapter = small(query_width=12, trained=False)
    before = {name: value.clone() for name, value in adapter.named_parameters()}
    adapter.link.set_std(adapter.tokens(), 0.7)
    after = dict(adapter.named_parameters())
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["link.transform.weight"]
    factor = after[changed[0]] / before[changed[0]]
    torch.testing.assert_close(factor, factor[:1, :1].expand_as(factor))
    queries = adapter.queries()
    assert queries.std(0, correction=0).square().mean().sqrt().item() == pytest.approx(0.7)
    assert after[changed[0]].requires_grad


def test_queries_are_the_linked_tokens():
    adapter = small(query_width=12)
    T = torch.stack([a @ b for a, b in zip(adapter.tokens.A, adapter.tokens.B, strict=True)])
    Q = T @ adapter.link.transform.weight.T + adapter.link.transform.bias
    joined = torch.cat([Q.max(0).values, Q.mean(0), Q[2]], dim=-1)
    expected = joined @ adapter.link.merge.weight.T + adapter.link.merge.bias
    assert adapter.queries().shape == (8, 12)
    assert torch.allclose(adapter.queries(), expected, atol=1e-5)
    assert small().queries() is None


def spike(recipe, seed):
    """Norm of the edit at patch (0, 0) over the median patch, at initialisation."""
    torch.manual_seed(seed)
    adapter = CausalTune(384, 1, recipe=recipe, init=Init(kind="small"))
    tokens = torch.randn(1, 18 * 24, 384)
    with torch.no_grad():
        edit = tokens_to_grid(adapter(tokens, 0, (18, 24)) - tokens, (18, 24))[0].norm(dim=-1)
    return float(edit[0, 0] / edit.median())


@pytest.mark.parametrize("seed", range(3))
def test_the_literal_formula_starts_with_a_spike_at_the_corner_and_centered_does_not(seed):
    assert spike("paper", seed) > 2
    assert spike("centered", seed) < 1.5


def test_the_edit_is_small_at_the_start():
    adapter = small(trained=False)
    tokens = torch.randn(2, 40, 24)
    edit = adapter(tokens, 0, (5, 8)) - tokens
    assert 0 < edit.norm() < 0.01 * tokens.norm()


def test_half_precision_features_come_back_in_half_precision_and_close():
    adapter = small()
    tokens = torch.randn(2, 40, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = adapter(tokens.bfloat16(), 0, (5, 8))
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), adapter(tokens, 0, (5, 8)), atol=0.1)


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


def test_recipes_differ_and_share_their_parameters():
    paper, centered = small("paper"), small("centered")
    centered.load_state_dict(copy.deepcopy(paper.state_dict()))
    tokens = torch.randn(1, 40, 24)
    assert not torch.allclose(paper(tokens, 0, (5, 8)), centered(tokens, 0, (5, 8)), atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_tokens": 1}, "two tokens at least"),
        ({"rank": 0}, "rank = 0"),
        ({"recipe": "literal"}, "allowed are paper, centered, full_path"),
        ({"layers": [2]}, "blocks from 0 to 1"),
        ({"layers": [0, 0]}, "different blocks"),
    ],
)
def test_impossible_options_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        CausalTune(8, 2, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0.9}, "not below high"),
        ({"low": None, "high": None, "suppress": True}, "passes all"),
    ],
)
def test_impossible_bands_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        Band(**options)


def test_on_some_blocks_it_has_tokens_for_these_alone():
    adapter = CausalTune(24, 6, 8, 4, layers=[5, 2])
    assert adapter.layers == (2, 5)
    assert adapter.tokens.A.shape == (2, 8, 4)
