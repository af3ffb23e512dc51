"""The Fourier transform: held to numpy, inverse, energy, gradients, with and without complex."""

import numpy as np
import pytest
import torch

from causalseg.spectral.transforms import fft2, fft2_parts, ifft2, ifft2_real

SIZES = [(1, 1), (1, 7), (7, 1), (5, 32), (6, 8), (37, 37)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_both_forms_equal_numpy(size, dtype, tolerance):
    X = torch.randn(2, *size, 3, dtype=dtype)
    expected = torch.from_numpy(np.fft.fft2(X.double().numpy(), axes=(1, 2), norm="ortho"))
    parts = torch.complex(*fft2_parts(X))
    for Y in (fft2(X), parts):
        assert Y.dtype == (torch.complex64 if dtype == torch.float32 else torch.complex128)
        assert torch.allclose(Y.to(expected.dtype), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_inverses_restore_the_input(size):
    X = torch.randn(2, *size, 3, dtype=torch.float64)
    assert torch.allclose(ifft2(fft2(X)), X.to(torch.complex128), atol=1e-12)
    assert torch.allclose(ifft2_real(*fft2_parts(X)), X, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_fft_preserves_energy_of_each_channel(size):
    X = torch.randn(2, *size, 3, dtype=torch.float64)
    real, imaginary = fft2_parts(X)
    energy = (real.square() + imaginary.square()).sum((1, 2))
    assert torch.allclose(energy, X.square().sum((1, 2)))
    assert torch.allclose(fft2(X).abs().square().sum((1, 2)), energy)


def test_the_real_inverse_drops_what_would_be_imaginary():
    Y = torch.randn(2, 5, 8, 3, dtype=torch.complex128)
    expected = np.fft.ifft2(Y.numpy(), axes=(1, 2), norm="ortho").real
    assert torch.allclose(ifft2_real(Y.real, Y.imag), torch.from_numpy(expected), atol=1e-12)
    assert torch.allclose(ifft2(Y).real, torch.from_numpy(expected), atol=1e-12)


def test_a_constant_map_is_dc_alone():
    real, imaginary = fft2_parts(torch.full((1, 4, 6, 1), 2.0))
    assert real[0, 0, 0, 0] == pytest.approx(2 * (4 * 6) ** 0.5)
    assert real.flatten()[1:].abs().max() < 1e-5
    assert imaginary.abs().max() < 1e-5


def test_gradients_are_those_of_finite_differences():
    X = torch.randn(1, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    other = torch.randn_like(X).requires_grad_()
    assert torch.autograd.gradcheck(fft2, X)
    assert torch.autograd.gradcheck(lambda X: ifft2(fft2(X) * 2j), X)
    assert torch.autograd.gradcheck(fft2_parts, X)
    assert torch.autograd.gradcheck(ifft2_real, (X, other))


def test_half_precision_input_is_transformed_in_single_even_under_autocast():
    X = torch.randn(1, 6, 8, 2).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        real, imaginary = fft2_parts(X)
        back = ifft2_real(real, imaginary)
        Y = fft2(X)
    assert real.dtype == imaginary.dtype == back.dtype == torch.float32
    assert torch.allclose(torch.complex(real, imaginary), fft2(X.float()), atol=1e-5)
    assert torch.allclose(Y, fft2(X.float()), atol=1e-6)
    assert torch.allclose(back, X.float(), atol=1e-5)
