"""DCT and Fourier transform: held to scipy and numpy, inverse, energy, gradients, any size."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from causalseg.spectral.transforms import dct2, dct_matrix, fft2, idct2, ifft2

GOLDEN_SIZES = ["1x1", "1x7", "2x2", "4x4", "7x7", "8x8", "6x9", "16x12", "5x32"]
sizes = pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (5, 32), (6, 8), (37, 37)])
TRANSFORMS = {"dct": (lambda X: (dct2(X),), idct2), "fft": (fft2, ifft2)}
transforms = pytest.mark.parametrize(
    ("transform", "inverse"), TRANSFORMS.values(), ids=TRANSFORMS.keys()
)


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


@sizes
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_fft_equals_numpy(size, dtype, tolerance):
    X = torch.randn(2, *size, 3, dtype=dtype)
    expected = torch.from_numpy(np.fft.fft2(X.double().numpy(), axes=(1, 2), norm="ortho"))
    for part, theirs in zip(fft2(X), (expected.real, expected.imag), strict=True):
        assert part.dtype == dtype
        assert torch.allclose(part.double(), theirs, atol=tolerance, rtol=0)


def test_the_real_inverse_drops_what_would_be_imaginary():
    Y = torch.randn(2, 5, 8, 3, dtype=torch.complex128)
    expected = np.fft.ifft2(Y.numpy(), axes=(1, 2), norm="ortho").real
    assert torch.allclose(ifft2(Y.real, Y.imag), torch.from_numpy(expected), atol=1e-12)


@transforms
@sizes
def test_the_inverse_restores_the_input_and_energy_is_preserved(transform, inverse, size):
    X = torch.randn(2, *size, 3, dtype=torch.float64)
    parts = transform(X)
    assert torch.allclose(inverse(*parts), X, atol=1e-12)
    energy = sum(part.square().sum((1, 2)) for part in parts)
    assert torch.allclose(energy, X.square().sum((1, 2)))


@transforms
def test_a_constant_map_is_dc_alone(transform, inverse):
    real, *imaginary = transform(torch.full((1, 4, 6, 1), 2.0))
    assert real[0, 0, 0, 0] == pytest.approx(2 * (4 * 6) ** 0.5)
    assert real.flatten()[1:].abs().max() < 1e-5
    assert all(part.abs().max() < 1e-5 for part in imaginary)


@transforms
def test_gradients_are_those_of_finite_differences(transform, inverse):
    X = torch.randn(1, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(transform, X)
    parts = [torch.randn_like(part).requires_grad_() for part in transform(X)]
    assert torch.autograd.gradcheck(inverse, parts)


@transforms
def test_half_precision_input_is_transformed_in_single_even_under_autocast(transform, inverse):
    X = torch.randn(1, 6, 8, 2).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = transform(X)
        back = inverse(*parts)
    assert {part.dtype for part in (*parts, back)} == {torch.float32}
    assert torch.allclose(parts[0], transform(X.float())[0], atol=1e-5)
    assert torch.allclose(back, X.float(), atol=1e-5)


def test_a_matrix_first_made_in_inference_mode_can_train_later():
    with torch.inference_mode():
        dct2(torch.randn(1, 11, 13, 1))
    X = torch.randn(1, 11, 13, 1, requires_grad=True)
    dct2(X).square().sum().backward()
    assert torch.isfinite(X.grad).all()


def test_constants_made_with_fake_tensors_are_not_kept():
    with FakeTensorMode():
        dct2(torch.randn(1, 17, 19, 1))
    Y = dct2(torch.ones(1, 17, 19, 1))
    assert type(Y) is torch.Tensor
    assert Y.square().sum().item() == pytest.approx(17 * 19)
    with FakeTensorMode():  # nor do real ones get into a graph of fake ones
        assert dct2(torch.randn(1, 17, 19, 1)).shape == (1, 17, 19, 1)


def test_matrix_is_orthogonal():
    D = dct_matrix(37, "cpu", torch.float64)
    assert torch.allclose(D @ D.T, torch.eye(37, dtype=torch.float64), atol=1e-12)
