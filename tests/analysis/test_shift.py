"""The shift of bands: its rings, and its value where it is known."""

import pytest
import torch

from causalseg.analysis.shift import ShiftMeter, ring_index
from causalseg.spectral.transforms import idct2
from toytown import generator


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


def test_the_shift_of_a_scaled_ring_is_the_square_of_the_change():
    Y = torch.randn(2, 6, 7, 5, generator=generator(), dtype=torch.float64)
    gains = torch.tensor([1.0, 1.5, 0.0], dtype=torch.float64)
    changed = Y * gains[ring_index((6, 7), 3)][..., None]
    meter = ShiftMeter(3)
    for a, b in zip(Y.split(1), changed.split(1), strict=True):  # in two parts
        meter.update([idct2(a), idct2(b)], [idct2(b), idct2(b)])
    expected = torch.tensor([[0.0, 0.25, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(meter.shift(), expected)


def test_unrelated_features_have_a_shift_of_2():
    a, b = torch.randn(2, 40, 16, 16, 8, generator=generator())
    meter = ShiftMeter(4)
    meter.update([a], [b])
    assert torch.allclose(meter.shift(), torch.tensor(2.0).double(), rtol=0.1)
