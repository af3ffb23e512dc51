"""The Haar transform: inverse, energy, odd sizes, what each sub-band sees."""

import pytest
import torch
from torch.nn import functional

from causalseg.spectral.haar import haar2, ihaar2

SIZES = [(1, 1), (1, 7), (7, 1), (2, 2), (3, 4), (5, 32), (37, 37)]


@pytest.mark.parametrize("size", SIZES)
def test_inverse_restores_the_input(size):
    X = torch.randn(2, *size, 3, dtype=torch.float64)
    parts = haar2(X)
    assert {tuple(part.shape) for part in parts} == {(2, -(-size[0] // 2), -(-size[1] // 2), 3)}
    assert torch.allclose(ihaar2(parts, size), X, atol=1e-12)


@pytest.mark.parametrize("size", [(2, 2), (4, 6), (2, 32)])
def test_energy_of_each_channel_is_preserved_for_even_sizes(size):
    X = torch.randn(2, *size, 3, dtype=torch.float64)
    energy = sum(part.square().sum((1, 2)) for part in haar2(X))
    assert torch.allclose(energy, X.square().sum((1, 2)))


@pytest.mark.parametrize("size", SIZES)
def test_a_constant_grid_lives_in_ll_alone(size):
    LL, *others = haar2(torch.full((1, *size, 2), 3.0))
    assert torch.allclose(LL, torch.tensor(6.0))
    assert all((part == 0).all() for part in others)


def test_parts_are_the_outer_products_of_the_two_filters():
    X = torch.randn(2, 6, 8, 1, dtype=torch.float64)
    L, H = (torch.tensor(taps, dtype=torch.float64) / 2**0.5 for taps in ([1, 1], [-1, 1]))
    for part, (rows, columns) in zip(haar2(X), [(L, L), (L, H), (H, L), (H, H)], strict=True):
        kernel = torch.outer(rows, columns)[None, None]
        expected = functional.conv2d(X.movedim(-1, 1), kernel, stride=2).movedim(1, -1)
        assert torch.allclose(part, expected, atol=1e-12)


@pytest.mark.parametrize("size", [(5, 7), (4, 7), (5, 2)])
def test_an_odd_side_is_extended_by_reflection(size):
    X = torch.randn(1, *size, 2, dtype=torch.float64)
    pad = (0, size[1] % 2, 0, size[0] % 2)
    extended = functional.pad(X.movedim(-1, 1), pad, mode="reflect").movedim(1, -1)
    for part, expected in zip(haar2(X), haar2(extended), strict=True):
        assert torch.equal(part, expected)


@pytest.mark.parametrize("size", [(4, 6), (3, 5), (1, 3)])
def test_gradients_are_those_of_finite_differences(size):
    X = torch.randn(1, *size, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(haar2, X)
    parts = [part.detach().requires_grad_() for part in haar2(X)]
    assert torch.autograd.gradcheck(lambda *parts: ihaar2(parts, size), parts)


def test_half_precision_input_is_transformed_in_single_even_under_autocast():
    X = torch.randn(1, 5, 8, 2).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = haar2(X)
        back = ihaar2(parts, (5, 8))
    assert {part.dtype for part in (*parts, back)} == {torch.float32}
    assert torch.allclose(back, X.float(), atol=1e-6)
