"""The Fourier transform: held to numpy, inverse, energy, gradients, without complex numbers."""

import numpy as np
import pytest
import torch

from causalseg.spectral.transforms import fft2, ifft2

SIZES = [(1, 1), (1, 7), (7, 1), (5, 32), (6, 8), (37, 37)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_it_equals_numpy(size, dtype, tolerance):
    X = torch.randn(2, *size, 3, dtype=dtype)
    expected = torch.from_numpy(np.fft.fft2(X.double().numpy(), axes=(1, 2), norm="ortho"))
    for part, theirs in zip(fft2(X), (expected.real, expected.imag), strict=True):
        assert part.dtype == dtype
        assert torch.allclose(part.double(), theirs, atol=tolerance, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_the_inverse_restores_the_input(size):
    X = torch.randn(2, *size, 3, dtype=torch.float64)
    assert torch.allclose(ifft2(*fft2(X)), X, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_fft_preserves_energy_of_each_channel(size):
    X = torch.randn(2, *size, 3, dtype=torch.float64)
    real, imaginary = fft2(X)
    energy = (real.square() + imaginary.square()).sum((1, 2))
    assert torch.allclose(energy, X.square().sum((1, 2)))


def test_the_real_inverse_drops_what_would_be_imaginary():
    Y = torch.randn(2, 5, 8, 3, dtype=torch.complex128)
    expected = np.fft.ifft2(Y.numpy(), axes=(1, 2), norm="ortho").real
    assert torch.allclose(ifft2(Y.real, Y.imag), torch.from_numpy(expected), atol=1e-12)


def test_a_constant_map_is_dc_alone():
    real, imaginary = fft2(torch.full((1, 4, 6, 1), 2.0))
    assert real[0, 0, 0, 0] == pytest.approx(2 * (4 * 6) ** 0.5)
    assert real.flatten()[1:].abs().max() < 1e-5
    assert imaginary.abs().max() < 1e-5


def test_gradients_are_those_of_finite_differences():
    X = torch.randn(1, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    other = torch.randn_like(X).requires_grad_()
    assert torch.autograd.gradcheck(fft2, X)
    assert torch.autograd.gradcheck(ifft2, (X, other))


def test_half_precision_input_is_transformed_in_single_even_under_autocast():
    X = torch.randn(1, 6, 8, 2).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        real, imaginary = fft2(X)
        back = ifft2(real, imaginary)
    assert real.dtype == imaginary.dtype == back.dtype == torch.float32
    assert torch.allclose(real, fft2(X.float())[0], atol=1e-5)
    assert torch.allclose(back, X.float(), atol=1e-5)
