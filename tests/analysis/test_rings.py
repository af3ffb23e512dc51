"""Rings: they cover the spectrum, add up, and hold what is put into them."""

import math

import pytest
import torch

from causalseg.analysis.power import bootstrap_mean, measure_directions, measure_power
from causalseg.analysis.rings import (
    SECTORS,
    count_coefficients,
    ring_edge,
    ring_energy,
    ring_index,
    scale_ring,
    sector_index,
    split_rings,
)
from causalseg.spectral.transforms import dct2, idct2
from toytown import generator

GRIDS = [(8, 8), (5, 9)]


@pytest.mark.parametrize(("grid", "rings"), [((8, 8), 4), ((5, 9), 3), ((1, 6), 2)])
def test_rings_cover_all_frequencies_from_the_lowest(grid, rings):
    index = ring_index(grid, rings)
    assert (index.shape, index[0, 0], index.min()) == (grid, 0, 0)
    assert index.max() <= rings - 1
    assert (index.diff(dim=0) >= 0).all()
    assert (index.diff(dim=1) >= 0).all()


def test_rings_have_equal_width():
    index = ring_index((100, 100), 4)
    diagonal = index.diagonal()  # there the radius is u
    assert [int((diagonal == ring).sum()) for ring in range(4)] == [25, 25, 25, 25]
    assert ring_edge(1, 4) == pytest.approx(math.hypot(0.25, 0.25))


@pytest.mark.parametrize("grid", GRIDS)
def test_rings_add_up_to_the_features_and_to_their_energy(grid):
    X = torch.randn(2, *grid, 3, generator=generator(), dtype=torch.float64)
    assert torch.allclose(sum(split_rings(X, 5)), X)
    assert torch.allclose(ring_energy(dct2(X), 5).sum(1), X.square().sum((1, 2, 3)))


@pytest.mark.parametrize("grid", GRIDS)
def test_scaling_a_ring_changes_that_ring_alone(grid):
    X = torch.randn(1, *grid, 3, generator=generator(), dtype=torch.float64)
    before, after = (ring_energy(dct2(Z), 4)[0] for Z in (X, scale_ring(X, 2, 4, 0.5)))
    assert torch.allclose(after, before * torch.tensor([1, 1, 0.25, 1], dtype=torch.float64))


def test_white_noise_has_the_same_power_in_every_ring_and_direction():
    X = 2 * torch.randn(60, 18, 24, 16, generator=generator())
    power = measure_power(X, 6)
    assert torch.allclose(power.mean(0), torch.tensor(4.0).double(), rtol=0.05)
    directions = measure_directions(X, 3).mean(0)
    assert torch.allclose(directions, torch.tensor(4.0).double(), rtol=0.1)
    low, high = bootstrap_mean(power)
    inside = (low < 4) & (high > 4)
    assert inside.sum() >= 5  # of six intervals of 95 %
    assert (high - low).max() < 0.2


@pytest.mark.parametrize("grid", [(12, 12), (9, 16)])
def test_a_cosine_is_in_one_ring_and_direction(grid):
    Y = torch.zeros(1, *grid, 2, dtype=torch.float64)
    Y[:, 6, 1] = 3.0  # varies along rows, from top to bottom
    X = idct2(Y)
    power = measure_power(X, 6)[0]
    ring = int(ring_index(grid, 6)[6, 1])
    assert power.argmax() == ring
    assert power.sum() == pytest.approx(float(power[ring]))
    directions = measure_directions(X, 6)[0, ring].nan_to_num()
    assert SECTORS[int(directions.argmax())] == "vertical"
    assert SECTORS[int(sector_index((4, 4))[3, 3])] == "diagonal"
    assert SECTORS[int(sector_index((4, 4))[0, 3])] == "horizontal"


def test_a_ring_that_the_grid_does_not_have_has_no_power():
    assert count_coefficients((2, 2), 4).tolist() == [1, 2, 1, 0]
    power = measure_power(torch.ones(1, 2, 2, 1), 4)[0]
    assert power[0] == pytest.approx(4.0)
    assert power.isnan().tolist() == [False, False, False, True]


def test_a_shift_by_whole_patches_changes_power_at_the_border_alone():
    wave = torch.linspace(0, 6 * math.pi, 48).cos()
    rows = wave[:, None] * torch.ones(1, 20)
    here, there = (rows[start : start + 40][None, ..., None].double() for start in (0, 4))
    # One period: the same content but for what leaves at one end and enters at the other.
    a, b = (measure_power(Z, 4)[0] for Z in (here, there))
    assert torch.allclose(a, b, rtol=0.25, atol=0.02 * float(a.max()))
    assert a.argmax() == b.argmax()
