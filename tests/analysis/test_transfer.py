"""The transfer function of an edit, and outlier tokens, where they are known."""

import pytest
import torch

from causalseg.analysis.artifacts import ArtifactMeter, fill_outliers, find_outliers
from causalseg.analysis.rings import ring_energy, scale_ring
from causalseg.analysis.transfer import TransferMeter
from causalseg.spectral.transforms import dct2
from toytown import generator


def test_the_transfer_function_of_a_scaled_ring_is_its_gain():
    meter = TransferMeter(4)
    for seed in range(3):
        X = torch.randn(1, 7, 9, 5, generator=generator(seed), dtype=torch.float64)
        meter.update(X, scale_ring(X, 2, 4, 1.5))
    one = torch.ones(4, dtype=torch.float64)
    assert torch.allclose(meter.gain, one + torch.tensor([0, 0, 0.5, 0.0]))
    assert torch.allclose(meter.added, torch.tensor([0, 0, 0.25, 0.0]).double())


def test_a_spike_at_the_corner_counts_as_many_times_as_there_are_patches():
    X = torch.randn(2, 4, 6, 3, generator=generator())
    spiked = X.clone()
    spiked[:, 0, 0] += 5
    meter, even, none = TransferMeter(2), TransferMeter(2), TransferMeter(2)
    meter.update(X, spiked)
    even.update(X, X + 1)
    none.update(X, X)
    assert meter.spike == pytest.approx(24.0)
    assert even.spike == pytest.approx(1.0)
    assert none.spike is None


@pytest.mark.parametrize("place", [(3, 4), (0, 0)])
def test_outliers_are_found_described_and_filled(place):
    X = torch.randn(6, 8, 10, 16, generator=generator())
    clean, direction = X.clone(), torch.zeros(16)
    direction[2] = 60.0
    X[:, place[0], place[1]] = direction
    is_outlier = find_outliers(X)
    assert is_outlier.nonzero().tolist() == [[i, *place] for i in range(6)]
    assert not find_outliers(clean).any()
    assert not find_outliers(torch.ones(1, 4, 4, 2)).any()
    meter = ArtifactMeter()
    meter.update(X, is_outlier)
    assert meter.share == pytest.approx(1 / 80)
    assert meter.angle == pytest.approx(0, abs=0.1)
    assert meter.norms[0] == pytest.approx(60)
    assert int(meter.positions[place]) == 6
    # A spike is in all frequencies: without it they fall.
    filled = ring_energy(dct2(fill_outliers(X, is_outlier)), 4)[:, 1:].sum(1)
    assert (filled < 0.5 * ring_energy(dct2(X), 4)[:, 1:].sum(1)).all()
