"""The shift of bands: its value where it is known, and where a planted shift is found."""

import pytest
import torch

from causalseg.analysis.domains import describe_rings, probe_domains
from causalseg.analysis.rings import ring_index, scale_ring
from causalseg.analysis.shift import CommonMeter, ShiftMeter
from causalseg.spectral.transforms import idct2
from toytown import generator


def test_the_shift_of_a_scaled_ring_is_the_square_of_the_change():
    Y = torch.randn(2, 6, 7, 5, generator=generator(), dtype=torch.float64)
    gains = torch.tensor([1.0, 1.5, 0.0], dtype=torch.float64)
    changed = Y * gains[ring_index((6, 7), 3)][..., None]
    meter = ShiftMeter(3)
    for a, b in zip(Y.split(1), changed.split(1), strict=True):  # in two parts
        meter.update([idct2(a), idct2(b)], [idct2(b), idct2(b)])
    expected = torch.tensor([[0.0, 0.25, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(meter.gains(), expected)


def test_unrelated_features_have_a_shift_of_2():
    a, b = torch.randn(2, 40, 16, 16, 8, generator=generator())
    meter = ShiftMeter(4)
    meter.update([a], [b])
    assert torch.allclose(meter.gains(), torch.tensor(2.0).double(), rtol=0.1)


def test_what_all_images_have_in_common_is_no_part_of_the_shift():
    """Two images are as different as their change: S is 2, whatever is added to all."""
    common = 50 * torch.randn(1, 12, 12, 8, generator=generator(3))
    meter, shared = ShiftMeter(3), CommonMeter(3)
    for seed in range(60):
        a, b = torch.randn(2, 1, 12, 12, 8, generator=generator(seed))
        meter.update([a + common], [b + common])
        shared.update([a + common])
    varied = meter.power - 60 * shared.energy()
    assert torch.allclose(meter.moved / varied, torch.tensor(2.0).double(), rtol=0.1)
    assert (meter.gains() < 0.01).all()


@pytest.mark.parametrize("grid", [(12, 12), (9, 14)])
def test_unpaired_sets_are_told_apart_by_the_planted_ring_alone(grid):
    # Of 100 channels: more than the directions to which they are projected.
    a, b = torch.randn(2, 60, *grid, 100, generator=generator())
    described = [describe_rings(X, 5) for X in (a, scale_ring(b, 3, 5, 1.5))]
    auc, mixing = probe_domains(*described)
    assert auc.argmax() == 3
    assert auc[3] > 0.95
    assert mixing.argmin() == 3
    assert mixing[3] < 0.2
    others = [0, 1, 2, 4]
    assert ((auc[others] - 0.5).abs() < 0.2).all()
    assert ((mixing[others] - 1).abs() < 0.35).all()


def test_sets_of_few_images_cannot_be_told_apart():
    a = describe_rings(torch.randn(4, 6, 6, 3, generator=generator()), 2)
    with pytest.raises(ValueError, match="4 images"):
        probe_domains(a, a.repeat(3, 1, 1))
