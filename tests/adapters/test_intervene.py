"""Interventions: off in eval, exact effects on spectra and statistics, seeded, finite, undone."""

import copy
import pickle

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from causalseg.adapters.base import Attachment, install_after_blocks
from causalseg.adapters.intervene import Dsu, Intervention, MixStyle, SpectralIntervention
from causalseg.errors import ConfigError
from causalseg.spectral.bands import band_mask
from causalseg.spectral.grid import grid_to_tokens, tokens_to_grid
from causalseg.spectral.transforms import dct2, idct2
from tiny_vit import SIZE, make_vit

EDITS = {
    "spectral": lambda p=1: SpectralIntervention(p=p, low_gain=(0.5, 1.5)),
    "mixstyle": lambda p=1: MixStyle(p=p),
    "dsu": lambda p=1: Dsu(p=p),
}
GRID = (5, 8)
edits = pytest.mark.parametrize("make", EDITS.values(), ids=EDITS)


def make_tokens(batch=4, grid=GRID, width=6, dtype=torch.float64):
    """Features whose mean and scale differ between images and channels."""
    generator = torch.Generator().manual_seed(3)
    X = torch.randn(batch, grid[0] * grid[1], width, generator=generator, dtype=dtype)
    scale = 0.5 + torch.rand(batch, 1, width, generator=generator, dtype=dtype)
    return X * scale + 2 * torch.randn(batch, 1, width, generator=generator, dtype=dtype)


def run(edit, tokens, grid=GRID, seed=0):
    torch.manual_seed(seed)
    return edit(tokens, 0, grid)


def normalise(tokens):
    """Return instance-normalised features: mean 0 and deviation 1 per image and channel."""
    centered = tokens - tokens.mean(1, keepdim=True)
    return centered / centered.square().mean(1, keepdim=True).sqrt()


@edits
def test_in_eval_mode_the_same_tensor_returns(make):
    tokens = make_tokens()
    assert make().eval()(tokens, 0, GRID) is tokens
    assert not torch.allclose(run(make(), tokens), tokens, atol=1e-2)


@edits
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_draw_that_leaves_the_edit_out_gives_equal_bits(make, dtype):
    tokens = make_tokens(dtype=dtype)
    assert torch.equal(run(make(1e-12), tokens), tokens)


@edits
def test_the_edit_happens_as_often_as_its_probability_says(make):
    edit, tokens = make(0.3), make_tokens(6, (2, 2), 2)
    torch.manual_seed(0)
    edited = sum(not torch.equal(edit(tokens, 0, (2, 2)), tokens) for _ in range(1000))
    assert 250 < edited < 350


@edits
def test_the_same_seed_gives_the_same_edit_and_another_seed_another(make):
    tokens = make_tokens()
    assert torch.equal(run(make(), tokens, seed=5), run(make(), tokens, seed=5))
    assert not torch.allclose(run(make(), tokens, seed=5), run(make(), tokens, seed=6), atol=1e-2)


@edits
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_dtype_is_kept_and_the_arithmetic_is_wide(make, dtype):
    tokens = make_tokens(dtype=torch.float32).to(dtype)
    edited = run(make(), tokens)
    assert edited.dtype == dtype
    expected = run(make(), tokens if dtype == torch.float64 else tokens.float())
    assert torch.equal(edited, expected.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(run(make(), tokens), edited)


@edits
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_constant_features_give_finite_values_and_gradients(make, batch, dtype):
    tokens = torch.full((batch, 40, 6), 0.3, dtype=dtype, requires_grad=True)
    edited = run(make(), tokens)
    edited.square().sum().backward()
    assert torch.isfinite(edited).all()
    assert torch.isfinite(tokens.grad).all()


@edits
def test_recomputed_under_checkpointing_gradients_are_equal(make):
    edit, gradients = make(0.5), []
    for is_checkpointed in (False, True):
        tokens = make_tokens().requires_grad_()
        torch.manual_seed(1)
        edited = tokens.sin()
        for layer in range(6):
            if is_checkpointed:
                edited = checkpoint(edit, edited, layer, GRID, use_reentrant=False)
            else:
                edited = edit(edited, layer, GRID)
        torch.rand(7)  # the generator has moved on when the backward pass recomputes
        (edited.square() * torch.linspace(0, 1, 6)).sum().backward()
        gradients.append(tokens.grad)
    assert torch.equal(*gradients)


@edits
@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (9, 4)])
def test_any_grid_works(make, grid):
    tokens = make_tokens(grid=grid)
    edited = run(make(), tokens, grid)
    assert edited.shape == tokens.shape
    assert torch.isfinite(edited).all()


@edits
@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_a_copy_does_the_same(make, copy_of):
    edit, tokens = make(), make_tokens()
    assert torch.equal(run(copy_of(edit), tokens), run(edit, tokens))
    assert list(edit.parameters()) == []
    assert edit.state_dict() == {}


@pytest.mark.slow
@edits
def test_compiled_without_graph_breaks_it_does_the_same(make):
    edit, tokens = make(), make_tokens(dtype=torch.float32)
    compiled = torch.compile(edit, fullgraph=True, backend="aot_eager")
    assert torch.allclose(run(compiled, tokens), run(edit, tokens), atol=1e-5)


# Spectral


@pytest.mark.parametrize("grid", [GRID, (9, 4), (6, 6)])
@pytest.mark.parametrize(("high", "low"), [(0.3, None), (None, 1.7), (0.3, 1.7), (1e-9, 1e-9)])
def test_a_fixed_gain_scales_exactly_the_part_outside_the_band(grid, high, low):
    tokens = make_tokens(grid=grid)
    gains = {"high_gain": high and (high, high), "low_gain": low and (low, low)}
    radii = {"high": 0.6} if high else {}
    radii |= {"low": 0.25} if low else {}
    edit = SpectralIntervention(p=1, **gains, **radii)
    Y = dct2(tokens_to_grid(tokens, grid))
    keeps_high = 1 - band_mask(grid, None, 0.6, dtype=torch.float64)[:, :, None]
    keeps_low = band_mask(grid, None, 0.25, dtype=torch.float64)[:, :, None]
    expected = Y.clone()
    if high:
        expected += (high - 1) * keeps_high * Y
    if low:
        expected += (low - 1) * keeps_low * Y
    expected = grid_to_tokens(idct2(expected))
    assert torch.allclose(run(edit, tokens, grid), expected, atol=1e-12)


@pytest.mark.parametrize(("low", "high", "bound"), [(0.05, 3.0, 0.01), (0.2, 0.7, 0.27)])
def test_the_centre_of_the_band_changes_least_and_little_in_a_wide_band(low, high, bound):
    grid = (32, 32)
    Y = torch.ones(1, *grid, 1, dtype=torch.float64)
    tokens = grid_to_tokens(idct2(Y))
    edit = SpectralIntervention(p=1, high_gain=(0, 0), low_gain=(0, 0), low=low, high=high)
    change = (dct2(tokens_to_grid(run(edit, tokens, grid), grid)) - Y)[0, :, :, 0].abs()
    centre = band_mask(grid, low, high).flatten().argmax()
    assert change.flatten()[centre] == pytest.approx(float(change.min()))
    assert change.min() < bound
    assert change[0, 0] == pytest.approx(1)
    assert change[-1, -1] > 2 * change.min()


def dct_of(tokens):
    return dct2(tokens_to_grid(tokens, GRID))


def test_every_image_and_channel_has_its_own_gain_from_the_whole_range():
    tokens = make_tokens(50, width=40)
    edited = run(SpectralIntervention(p=1, high_gain=None, low_gain=(0.5, 1.5)), tokens)
    gains = (dct_of(edited) / dct_of(tokens))[:, 0, 0].flatten()  # DC has the low gain alone
    assert len(gains.unique()) == 50 * 40
    assert gains.min() >= 0.5
    assert gains.max() <= 1.5
    assert gains.mean() == pytest.approx(1.0, abs=0.03)
    assert gains.std() == pytest.approx(12**-0.5, abs=0.02)


def test_the_gains_of_both_sides_are_drawn_apart():
    tokens = make_tokens(50, width=40)
    gains = {"high_gain": (0.5, 1.5), "low_gain": (0.5, 1.5)}
    edit = SpectralIntervention(p=1, **gains, low=1e-3, high=2e-3)  # low is DC, high the rest
    gains = dct_of(run(edit, tokens)) / dct_of(tokens)
    low, high = gains[:, 0, 0].flatten(), gains[:, 2, 3].flatten()
    assert low.std() > 0.2
    assert high.std() > 0.2
    assert abs(torch.corrcoef(torch.stack([low, high]))[0, 1]) < 0.1


def test_one_image_does_not_see_the_others():
    tokens = make_tokens()
    others = torch.cat([tokens[:1], tokens[1:] + 7])
    edit = EDITS["spectral"]()
    assert torch.equal(run(edit, tokens)[0], run(edit, others)[0])


# Statistics


@pytest.mark.parametrize("make", [MixStyle, Dsu])
def test_content_stays_and_statistics_change(make):
    tokens = make_tokens()
    edited = run(make(p=1), tokens)
    sign = (normalise(edited) * normalise(tokens)).mean(1, keepdim=True).sign()
    assert (sign > 0).all() or make is Dsu  # noise may turn a deviation negative
    assert torch.allclose(normalise(edited), sign * normalise(tokens), atol=1e-4)
    assert not torch.allclose(edited.mean(1), tokens.mean(1), atol=0.05)
    assert not torch.allclose(edited.std(1), tokens.std(1), atol=0.05)


@pytest.mark.parametrize("make", [MixStyle, Dsu])
def test_a_batch_of_one_image_is_left_as_it_is(make):
    tokens = make_tokens(1)
    assert torch.equal(run(make(p=1), tokens), tokens)


def test_mixstyle_mixes_mean_and_deviation_with_one_weight_and_partner_an_image():
    tokens = make_tokens(6)
    edited = run(MixStyle(p=1, alpha=1), tokens)
    is_mixed = 0
    for image in range(6):
        fits = []
        for partner in set(range(6)) - {image}:
            statistics = [
                torch.cat([x.mean(0), x.std(0, correction=0)])
                for x in (tokens[image], tokens[partner], edited[image])
            ]
            own, other, mixed = statistics
            weight = float((mixed - own) @ (other - own) / (other - own).square().sum())
            fits.append((float((own + weight * (other - own) - mixed).norm()), weight))
        residual, weight = min(fits)
        assert residual < 1e-4
        assert -1e-6 < weight < 1 + 1e-6
        is_mixed += weight > 1e-3
    assert is_mixed >= 3


def test_mixstyle_lets_no_gradient_through_the_statistics():
    tokens = make_tokens().requires_grad_()
    edited = run(MixStyle(p=1), tokens)
    (gradient,) = torch.autograd.grad(edited.sum(), tokens)
    ratio = edited.std(1, keepdim=True) / tokens.std(1, keepdim=True)
    assert torch.allclose(gradient, ratio.expand_as(gradient), atol=1e-4)


def test_the_noise_of_dsu_is_as_large_as_the_statistics_vary_over_the_batch():
    tokens, edit = make_tokens(8, width=2), Dsu(p=1, factor=0.7)
    torch.manual_seed(0)
    draws = torch.stack([edit(tokens, 0, GRID) for _ in range(400)])
    m, s = tokens.mean(1), tokens.std(1, correction=0)
    content = normalise(tokens)
    # A product with the content gives the deviation with its sign, which noise may turn.
    for drawn, plain in ((draws.mean(2), m), ((draws * content).mean(2), s)):
        shifts = (drawn - plain) / (0.7 * plain.std(0, correction=0))
        assert torch.allclose(shifts.std((0, 1)), torch.ones(2).double(), rtol=0.05)
        assert shifts.mean((0, 1)).abs().max() < 0.1
        # Images and channels have noise of their own.
        correlations = torch.corrcoef(shifts.flatten(1).T) - torch.eye(16)
        assert correlations.abs().max() < 0.25


def test_dsu_gradients_are_those_of_the_formula():
    tokens = make_tokens(3, (2, 2), 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: run(Dsu(p=1), x, (2, 2)), tokens)


# At work on a model


@edits
def test_on_a_vit_prefix_tokens_stay_and_detaching_restores(make):
    vit = make_vit(reg_tokens=4)
    images = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(2))
    before, outputs = vit(images), []
    vit.blocks[0].register_forward_hook(lambda _m, _i, output: outputs.append(output))
    edit = make()
    with Attachment(install_after_blocks(vit, edit, [0, 1])):
        vit.blocks[0].register_forward_hook(lambda _m, _i, output: outputs.append(output))
        torch.manual_seed(0)
        vit(images)
        plain, edited = outputs
        assert plain.shape[1] == 5 + 3 * 5
        assert torch.equal(plain[:, :5], edited[:, :5])
        assert (plain[:, 5:] != edited[:, 5:]).any(-1).all()
        edit.eval()
        assert torch.equal(vit(images), before)
        edit.train()
    assert torch.equal(vit(images), before)


# Options


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (SpectralIntervention, {"p": 1.2}, "p = 1.2"),
        (MixStyle, {"p": 0}, "p = 0"),
        (Dsu, {"p": float("nan")}, "p = nan"),
        (SpectralIntervention, {"high_gain": None}, "nothing would change"),
        (SpectralIntervention, {"high_gain": (1.5, 0.5)}, r"high_gain = \[1.5, 0.5\]"),
        (SpectralIntervention, {"low_gain": (1, 1)}, "low_gain = .* changes nothing"),
        (SpectralIntervention, {"low_gain": (-0.5, 0.5)}, "low_gain.* = -0.5"),
        (SpectralIntervention, {"low_gain": (0.5, float("inf"))}, "low_gain.* = inf"),
        (SpectralIntervention, {"low": 0.8, "low_gain": (0.5, 1)}, "low = 0.8 must be below"),
        (SpectralIntervention, {"high": -1}, "high = -1"),
        (SpectralIntervention, {"alpha": 0.3}, "alpha has no effect with kind=spectral"),
        (MixStyle, {"alpha": 0}, "alpha = 0"),
        (Dsu, {"factor": 0}, "factor = 0"),
    ],
)
def test_impossible_options_are_refused_by_name(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        kind(**options)


def test_an_own_edit_needs_only_its_formula():
    class Negate(Intervention):
        def edit(self, X, grid, is_on):
            return torch.where(is_on, -X, X)

    tokens = make_tokens()
    assert torch.equal(run(Negate(p=1), tokens), -tokens)
    with pytest.raises(NotImplementedError, match="Intervention has no edit"):
        run(Intervention(p=1), tokens)
