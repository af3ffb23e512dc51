"""Band gains: the formula, the start at the identity, what is saved."""

import pytest
import torch
from safetensors.torch import save_file

from causalseg.adapters.band_gains import BandGains
from causalseg.errors import WeightsError
from causalseg.spectral.bands import band_mask
from causalseg.spectral.grid import grid_to_tokens, tokens_to_grid
from causalseg.spectral.transforms import dct2, idct2

GRIDS = [(4, 4), (3, 7), (1, 5), (8, 2)]


def gains_of(*rows):
    gains = BandGains(len(rows))
    gains.values.data.copy_(torch.tensor(rows))
    return gains


@pytest.mark.parametrize("grid", GRIDS)
def test_gains_are_those_of_the_formula_on_any_grid(grid):
    X = torch.randn(2, grid[0] * grid[1], 6, dtype=torch.float64)
    low, causal, high = 0.5, -0.25, 2.0
    L, H = (band_mask(grid, None, radius, dtype=torch.float64)[..., None] for radius in (0.2, 0.7))
    factor = 1 + low * L + causal * (H - L) + high * (1 - H)
    expected = grid_to_tokens(idct2(factor * dct2(tokens_to_grid(X, grid))))
    edited = gains_of((0.0, 0.0, 0.0), (low, causal, high)).double()(X, 1, grid)
    assert torch.allclose(edited, expected, atol=1e-12)


@pytest.mark.parametrize("grid", GRIDS)
def test_equal_gains_scale_the_features_since_the_bands_add_up_to_all(grid):
    X = torch.randn(2, grid[0] * grid[1], 6)
    assert torch.allclose(gains_of((0.5, 0.5, 0.5))(X, 0, grid), 1.5 * X, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gains_of_0_change_no_bit(dtype):
    X = torch.randn(2, 12, 6).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        edited = BandGains(2)(X, 1, (3, 4))
    assert edited.dtype == dtype
    assert torch.equal(edited, X)


def test_gains_have_a_gradient_at_0_and_those_of_other_blocks_none():
    gains = BandGains(3)
    gains(torch.randn(1, 12, 6), 1, (3, 4)).square().sum().backward()
    assert (gains.values.grad[1] > 0).all()  # more of a band is more energy
    assert not gains.values.grad[[0, 2]].any()


def test_saved_gains_keep_values_and_radii(tmp_path):
    file = tmp_path / "gains.safetensors"
    gains = BandGains(2, low=0.1, high=0.6)
    torch.nn.init.normal_(gains.values)
    gains.save(file)
    loaded = BandGains.load(file, 2)
    assert (loaded.low, loaded.high) == (0.1, 0.6)
    assert torch.equal(loaded.values, gains.values)
    with pytest.raises(WeightsError, match=r"values: file \(2, 3\), model \(12, 3\)"):
        BandGains.load(file, 12)


def test_a_file_without_radii_is_refused(tmp_path):
    file = tmp_path / "gains.safetensors"
    save_file({"values": torch.zeros(2, 3)}, file)
    with pytest.raises(WeightsError, match="of which bands"):
        BandGains.load(file, 2)
