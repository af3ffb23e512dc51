"""Repair of features: what is an outlier, what replaces it, and the mean over shifts."""

import copy
import pickle

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from causalseg.adapters.base import attach, install_after_blocks
from causalseg.adapters.causal_tune import CausalTune
from causalseg.analysis.artifacts import find_outliers
from causalseg.backbones.repair import _SHIFTS, average_shifts, replace_outliers
from causalseg.backbones.timm import FrozenBackbone, build_backbone
from causalseg.config.backbone import BackboneConfig
from causalseg.errors import ConfigError
from tiny_vit import make_small, make_vit

REPAIRS = ("shift_average", "defect")
PATCH = 4  # of the toy models


def smooth(h, w, batch=2, c=6):
    """A map whose values change by at most 0.05 from a cell to the next."""
    rows, columns = torch.linspace(0, 0.05 * h, h), torch.linspace(0, 0.05 * w, w)
    channel = torch.linspace(1, 2, c)
    ramp = (rows.sin()[:, None] + columns.cos()[None])[..., None] / 1.5 + channel
    return ramp.expand(batch, h, w, c).contiguous()


def planted(clean, cells):
    """Return the map with spikes in the second image, and where they are."""
    X, where = clean.clone(), torch.zeros(clean.shape[:3], dtype=torch.bool)
    for y, x in cells:
        X[1, y, x] *= -30
        where[1, y, x] = True
    return X, where


def make_images(h=9, w=11, patch=14, batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, 3, h * patch, w * patch, generator=generator)


def all_equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class Equivariant(nn.Module):
    """Patches, then 3 x 3 cells: four maps that move with the image; ``mark`` is added in place."""

    def __init__(self, mark=None):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embed = torch.randn(5, 3, PATCH, PATCH, generator=generator)
        self.mix = torch.randn(5, 5, 3, 3, generator=generator) / 7
        self.mark = mark

    def forward(self, images):
        cells = F.conv2d(F.conv2d(images, self.embed, stride=PATCH), self.mix, padding=1)
        if self.mark is not None:
            cells = cells + self.mark
        return [cells, cells.repeat_interleave(2, -1).repeat_interleave(2, -2)]


@pytest.mark.parametrize(
    ("grid", "cells"),
    [
        ((8, 8), [(3, 4)]),
        ((6, 13), [(4, 9)]),
        ((13, 6), [(0, 0)]),
        ((6, 13), [(5, 12)]),
        ((8, 8), [(2, 2), (2, 3)]),
        ((6, 13), [(0, 3), (3, 0), (3, 1)]),
    ],
)
def test_spikes_are_found_and_become_what_is_around_them(grid, cells):
    clean = smooth(*grid)
    X, where = planted(clean, cells)
    assert torch.equal(find_outliers(X), where)
    repaired = replace_outliers(X)
    assert torch.equal(repaired[~where], clean[~where])
    assert (repaired[where] - clean[where]).abs().max() < 0.06


def test_a_spike_becomes_the_gaussian_mean_of_its_neighbours():
    torch.manual_seed(0)
    X = torch.randn(1, 7, 7, 4, dtype=torch.float64) + 3
    X[0, 3, 2] = 200
    weights = {1: torch.tensor(-0.5).double().exp(), 2: torch.tensor(-1.0).double().exp()}
    total, count = torch.zeros(4, dtype=torch.float64), 0.0
    for dy, dx in [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]:
        weight = weights[abs(dy) + abs(dx)]
        total, count = total + weight * X[0, 3 + dy, 2 + dx], count + weight
    assert torch.allclose(replace_outliers(X)[0, 3, 2], total / count, atol=1e-12)


@pytest.mark.parametrize("corner", [False, True])
def test_a_spike_among_spikes_becomes_the_mean_of_the_others(corner):
    clean = smooth(14, 15)
    side = 2 if corner else 3
    first = 0 if corner else 5
    cells = [(first + i, first + j) for i in range(side) for j in range(side)]
    X, where = planted(clean, cells)
    assert torch.equal(find_outliers(X), where)
    middle = (0, 0) if corner else (6, 6)
    expected = clean[1][~where[1]].mean(0)
    assert torch.allclose(replace_outliers(X)[1][middle], expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_maps_without_outliers_are_returned_bit_for_bit(dtype):
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(3, 9, 14, 16, generator=generator).to(dtype)
    for X in (noise, torch.full((2, 9, 14, 16), 0.1, dtype=dtype), torch.zeros_like(noise)):
        for view in (X, X.movedim(-1, 1).contiguous().movedim(1, -1)):
            assert not find_outliers(view).any()
            repaired = replace_outliers(view)
            assert torch.equal(repaired, X)
            assert repaired.dtype == dtype


def test_images_are_repaired_by_themselves():
    X, _ = planted(smooth(8, 8), [(3, 4)])
    assert torch.equal(replace_outliers(X)[1:], replace_outliers(X[1:]))
    assert torch.equal(replace_outliers(X)[0], X[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_token_that_is_not_finite_is_left_for_others_to_report(value):
    X, _ = planted(smooth(8, 8), [(3, 4)])
    X[1, 0, 0, 0] = value
    assert not find_outliers(X)[1].any()
    assert torch.equal(replace_outliers(X)[1, 1:], X[1, 1:])


def test_seventeen_tokens_have_no_outlier_and_eighteen_may_have_one():
    for n, count in ((17, 0), (18, 1)):
        X = torch.ones(1, 1, n, 2)
        X[0, 0, 5] = 1000
        assert find_outliers(X).sum() == count


def test_gradients_reach_neighbours_and_not_the_outlier():
    X, where = planted(smooth(8, 8), [(3, 4)])
    X.requires_grad_()
    replace_outliers(X).sum().backward()
    assert (X.grad[where] == 0).all()
    assert (X.grad[1, 2:5, 3:6].sum((0, 1)) - 9).abs().max() < 1e-5
    assert (X.grad[0] == 1).all()


def test_the_mean_over_shifts_of_an_equivariant_model_is_the_model():
    model, images = Equivariant(), make_images(patch=PATCH)
    for mean, plain in zip(average_shifts(model, images, PATCH), model(images), strict=True):
        margin = 3 * plain.shape[-1] // 11  # cells: what a shift uncovers, and one around it
        inside = (..., slice(margin, -margin), slice(margin, -margin))
        assert mean.shape == plain.shape
        assert (mean[inside] - plain[inside]).abs().max() < 1e-5


def test_an_artifact_at_a_place_of_the_frame_keeps_a_fifth():
    mark = torch.zeros(9, 11)
    mark[4, 5] = 10
    images = make_images(patch=PATCH)
    marked = average_shifts(Equivariant(mark), images, PATCH)[0]
    plain = average_shifts(Equivariant(), images, PATCH)[0]
    assert len(_SHIFTS) == 5
    expected = torch.zeros(9, 11)
    for dy, dx in _SHIFTS:
        expected[4 - dy, 5 - dx] += 10 / 5
    assert (marked - plain - expected).abs().max() < 1e-4
    assert expected.max() == 2


def test_an_edge_is_the_mean_over_the_shifts_that_show_it():
    passes = []

    def number(images):
        passes.append(len(passes))
        return [torch.full((1, 1, 9, 11), float(passes[-1]))]

    (mean,) = average_shifts(number, make_images(patch=PATCH, batch=1), PATCH)
    for y, x in ((0, 0), (0, 10), (8, 0), (8, 10), (1, 4), (4, 5)):
        seen = [i for i, (dy, dx) in enumerate(_SHIFTS) if 0 <= y + dy < 9 and 0 <= x + dx < 11]
        assert mean[0, 0, y, x] == pytest.approx(sum(seen) / len(seen))


def test_shifts_that_leave_nothing_of_a_small_image_are_left_out():
    for h, w, passes in ((1, 1, 1), (2, 2, 1), (2, 3, 3), (3, 3, 5)):
        images, seen = make_images(h, w, PATCH), []
        model = Equivariant()

        def watched(images, model=model, seen=seen):
            seen.append(images)
            return model(images)

        maps = average_shifts(watched, images, PATCH)
        assert len(seen) == passes
        assert all(each.shape == images.shape for each in seen)
        assert all(z.isfinite().all() for z in maps)


def test_the_option_reaches_the_model_and_an_unknown_one_is_refused():
    options = {"name": "test_vit", "weights": "random"}
    images = make_images(patch=16)
    plain = build_backbone(BackboneConfig(**options))
    assert plain.repair == "none"
    for repair in REPAIRS:
        backbone = build_backbone(BackboneConfig(**options, repair=repair))
        assert backbone.repair == repair
        assert [z.shape for z in backbone(images)] == [z.shape for z in plain(images)]
    with pytest.raises(ConfigError, match="did you mean 'defect'"):
        FrozenBackbone(make_vit(), repair="defekt")
    with pytest.raises(ValueError, match="shift_average"):
        BackboneConfig(repair="average")


def test_without_repair_the_levels_are_those_of_the_model():
    backbone, images = FrozenBackbone(make_vit()), make_images()
    expected = backbone.vit.forward_intermediates(
        (images - backbone.mean) / backbone.std, [0, 1], norm=False, intermediates_only=True
    )
    assert all_equal(backbone(images), [expected[0], expected[0], expected[1], expected[1]])


def test_a_defect_of_a_model_is_repaired_in_its_levels_and_not_between_its_blocks():
    class Spike(nn.Module):
        def forward(self, tokens, layer, grid):
            where = torch.arange(tokens.shape[1]) == 37
            return torch.where(where[:, None], 200.0, tokens)

    images = make_images()
    plain, repaired = (FrozenBackbone(make_vit(), repair=name) for name in ("none", "defect"))
    inputs = []
    for backbone in (plain, repaired):
        install_after_blocks(backbone.vit, Spike(), [0])
        backbone.vit.blocks[1].register_forward_pre_hook(lambda _m, args: inputs.append(args[0]))
    before, after = plain(images)[0], repaired(images)[0]
    assert torch.equal(*inputs)
    assert (before[:, :, 3, 4] == 200).all()
    assert after[:, :, 3, 4].abs().max() < 10
    same = torch.ones(9, 11, dtype=torch.bool)
    same[3, 4] = False
    assert torch.equal(before[..., same], after[..., same])


@pytest.mark.parametrize("repair", REPAIRS)
def test_a_repaired_model_is_copied_pickled_and_computed_in_bfloat16(repair):
    backbone, images = FrozenBackbone(make_vit(), repair=repair), make_images()
    attach(backbone.vit, make_small(CausalTune, 48, 2))
    expected = backbone(images)
    for clone in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert clone.repair == repair
        assert all_equal(clone(images), expected)
    with torch.autocast("cpu", torch.bfloat16):
        low = backbone(images)
    for rounded, exact in zip(low, expected, strict=True):
        assert rounded.isfinite().all()
        assert (rounded - exact).abs().mean() < 0.05 * exact.std()


@pytest.mark.parametrize("repair", REPAIRS)
def test_adapters_in_a_repaired_model_get_the_gradients_of_checkpointed_blocks(repair):
    found = []
    for checkpointing in (False, True):
        backbone = FrozenBackbone(make_vit(), checkpointing=checkpointing, repair=repair)
        adapter = make_small(CausalTune, 48, 2)
        with attach(backbone.vit, adapter):
            torch.stack([z.square().mean() for z in backbone(make_images())]).sum().backward()
        found.append([p.grad for p in adapter.parameters() if p.grad is not None])
    assert found[0]
    assert any(gradient.abs().sum() > 0 for gradient in found[0])
    for plain, recomputed in zip(*found, strict=True):
        assert torch.allclose(plain, recomputed, atol=1e-6)


@pytest.mark.parametrize("repair", REPAIRS)
def test_stages_are_repaired_at_their_strides(repair):
    torch.manual_seed(0)
    sizes = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20)}
    model = timm.create_model("convnext_tiny", num_classes=0, **sizes)
    images = make_images(5, 6, 32, batch=1)
    plain = FrozenBackbone(model)(images)
    repaired = FrozenBackbone(model, repair=repair)(images)
    assert [z.shape[-2:] for z in repaired] == [(40, 48), (20, 24), (10, 12), (5, 6)]
    for ours, theirs in zip(repaired, plain, strict=True):
        assert ours.shape == theirs.shape
    # Shifts are whole steps of every stride: inside, the first stage hardly sees the edges.
    inside = (..., slice(18, 22), slice(20, 28))
    assert (repaired[0][inside] - plain[0][inside]).abs().max() < 1e-4
