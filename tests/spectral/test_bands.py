"""The Gaussian band: golden values, facts, limits, separability."""

import numpy as np
import pytest
import torch

from causalseg.spectral.bands import band_mask, lowpass_matrix
from causalseg.spectral.transforms import dct2, idct2


@pytest.mark.parametrize("size", ["8x8", "7x7", "6x9", "16x16", "32x32", "16x32"])
def test_band_equals_the_formula(golden, size):
    expected = torch.from_numpy(np.load(golden / "masks.npz")[f"paper_{size}"])
    G = band_mask(tuple(map(int, size.split("x"))), dtype=torch.float64)
    assert torch.allclose(G, expected, atol=1e-12)


def test_only_dc_is_below_one_hundredth():
    G = band_mask((32, 32))
    assert G[0, 0] == 0
    assert (G > 0.01).sum() == 32 * 32 - 1


def test_peak_and_corner_are_those_stated():
    G = band_mask((256, 256))
    u = torch.arange(256) / 256
    radius = (u[:, None] ** 2 + u[None] ** 2).sqrt()
    assert G.max() == pytest.approx(0.735, abs=1e-3)
    assert radius.flatten()[G.argmax()] == pytest.approx(0.47, abs=0.01)
    assert G[-1, -1] == pytest.approx(0.13, abs=0.01)


def test_missing_radii_give_low_pass_high_pass_and_all_pass():
    both = band_mask((6, 9), 0.2, 0.7)
    lowpass, highpass = band_mask((6, 9), None, 0.7), band_mask((6, 9), 0.2, None)
    assert lowpass[0, 0] == 1
    assert lowpass[-1, -1] < 0.3
    assert highpass[0, 0] == 0
    assert highpass[-1, -1] > 0.99
    assert torch.equal(band_mask((6, 9), None, None), torch.ones(6, 9))
    assert torch.allclose(both, lowpass + highpass - 1, atol=1e-6)


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (5, 8)])
def test_lowpass_matrices_on_both_axes_equal_the_mask_on_the_spectrum(grid):
    X = torch.randn(2, *grid, 3, dtype=torch.float64)
    H, W = (lowpass_matrix(n, 0.4, "cpu", torch.float64) for n in grid)
    separable = torch.einsum("ih,bhwc,jw->bijc", H, X, W)
    G = band_mask(grid, None, 0.4, "cpu", torch.float64)
    assert torch.allclose(separable, idct2(G[..., None] * dct2(X)), atol=1e-12)
