"""The DCT: held to scipy, inverse, energy, gradients, any size."""

import numpy as np
import pytest
import torch

from causalseg.spectral.transforms import dct2, dct_matrix, idct2

GOLDEN_SIZES = ["1x1", "1x7", "2x2", "4x4", "7x7", "8x8", "6x9", "16x12", "5x32"]
SIZES = [(1, 1), (1, 7), (7, 1), (5, 32), (37, 37), (64, 128)]


@pytest.mark.parametrize("size", GOLDEN_SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_dct_equals_scipy(golden, size, dtype, tolerance):
    data = np.load(golden / "scipy_dct2.npz")
    channels_last = torch.from_numpy(data[f"x_{size}"]).to(dtype)[..., None]
    for name, transform in (("dct", dct2), ("idct", idct2)):
        expected = torch.from_numpy(data[f"{name}_{size}"])
        assert torch.allclose(
            transform(channels_last)[..., 0].double(), expected, atol=tolerance, rtol=0
        )


@pytest.mark.parametrize("size", SIZES)
def test_inverse_restores_the_input(size):
    X = torch.randn(2, *size, 3, dtype=torch.float64)
    assert torch.allclose(idct2(dct2(X)), X, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_dct_preserves_energy_of_each_channel(size):
    X = torch.randn(2, *size, 3, dtype=torch.float64)
    assert torch.allclose(dct2(X).square().sum((1, 2)), X.square().sum((1, 2)))


def test_a_constant_map_is_dc_alone():
    Y = dct2(torch.full((1, 4, 6, 1), 2.0))
    assert Y[0, 0, 0, 0] == pytest.approx(2 * (4 * 6) ** 0.5)
    assert Y.flatten()[1:].abs().max() < 1e-5


def test_gradients_are_those_of_finite_differences():
    X = torch.randn(1, 3, 5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(dct2, X)
    assert torch.autograd.gradcheck(idct2, X)


def test_half_precision_input_is_transformed_in_single_even_under_autocast():
    X = torch.randn(1, 8, 8, 2).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        Y = dct2(X)
    assert Y.dtype == torch.float32
    assert torch.allclose(Y, dct2(X.float()), atol=1e-6)


def test_a_matrix_first_made_in_inference_mode_can_train_later():
    with torch.inference_mode():
        dct2(torch.randn(1, 11, 13, 1))
    X = torch.randn(1, 11, 13, 1, requires_grad=True)
    dct2(X).square().sum().backward()
    assert torch.isfinite(X.grad).all()


def test_matrix_is_orthogonal():
    D = dct_matrix(37, "cpu", torch.float64)
    assert torch.allclose(D @ D.T, torch.eye(37, dtype=torch.float64), atol=1e-12)
