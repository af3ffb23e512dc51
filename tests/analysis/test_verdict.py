"""The verdict: it returns the planted band, and none where nothing separates."""

import pytest
import torch

from causalseg.analysis.classes import FisherMeter
from causalseg.analysis.rings import ring_edge, ring_index, split_rings
from causalseg.analysis.shift import ShiftMeter
from causalseg.analysis.verdict import GROUPS, judge_rings
from causalseg.spectral.transforms import dct2, idct2
from toytown import generator

RINGS = 8


def measured(classes, shift, missed=(0.0,) * RINGS, noise=0.01):
    """J, what is missed, energy of the change and energy of four blocks.

    Of all images, then without each group.
    """
    shape = (GROUPS + 1, 4, RINGS)
    jitter = [1 + noise * torch.randn(shape, generator=generator(i)) for i in range(2)]
    power = torch.linspace(8, 1, RINGS).expand(shape).double()
    J = torch.tensor(classes).expand(shape).double() * jitter[0]
    lost = torch.tensor(missed).expand(shape).double() * jitter[0]
    moved = torch.tensor(shift).expand(shape).double() * power * jitter[1]
    return J, lost, moved, power, power[0]


def test_the_planted_band_is_returned_within_one_ring():
    numbers = measured(
        [0.01, 0.01, 0.5, 1.0, 1.0, 0.5, 0.01, 0.01], [2.0, 1.8, 0.3, 0.1, 0.1, 0.3, 1.5, 1.5]
    )
    verdict = judge_rings(*numbers)
    assert [ring.is_non_causal for ring in verdict.rings] == [True] * 2 + [False] * 4 + [True] * 2
    assert verdict.low == pytest.approx(ring_edge(2, RINGS))
    assert verdict.high == pytest.approx(ring_edge(6, RINGS))
    assert verdict.low_gain == (0.0, 2.0)  # a variance of 1/3 at most


def test_gains_have_the_variance_of_the_change():
    verdict = judge_rings(*measured([1] * 7 + [0.01], [0.01] * 7 + [0.12], noise=0.001))
    assert (verdict.low, verdict.high) == (None, pytest.approx(ring_edge(7, RINGS)))
    low, high = verdict.high_gain
    assert (high - low) ** 2 / 12 == pytest.approx(0.12, rel=0.02)


@pytest.mark.parametrize(
    ("classes", "shift"),
    [
        ([1.0] * RINGS, [0.1] * 7 + [2.0]),  # nothing is class-poor
        ([1.0] * 4 + [0.0] * 4, [0.5] * RINGS),  # nothing is shift-rich
        ([1.0, 0.01, 1, 1, 1, 1, 0.01, 1.0], [0.1, 2, 0.1, 0.1, 0.1, 0.1, 2, 0.1]),  # not at an end
    ],
)
def test_there_is_no_band_where_no_end_is_class_poor_and_shift_rich(classes, shift):
    verdict = judge_rings(*measured(classes, shift))
    assert (verdict.low, verdict.high, verdict.low_gain) == (None, None, None)
    assert "no band" in verdict.describe()


def test_what_is_not_sure_is_not_removed():
    numbers = measured([1.0] * 7 + [0.01], [0.1] * 7 + [0.25], noise=0.6)
    assert judge_rings(*numbers).high is None


def test_a_ring_that_a_probe_would_miss_is_causal():
    poor, rich = [1.0] * 4 + [0.01] * 4, [0.1] * 4 + [1.0] * 4
    assert judge_rings(*measured(poor, rich)).high == pytest.approx(ring_edge(4, RINGS))
    verdict = judge_rings(*measured(poor, rich, missed=[0.5] * 4 + [0.1] + [0.0] * 3))
    assert verdict.high == pytest.approx(ring_edge(5, RINGS))


@pytest.mark.parametrize("grid", [(16, 16), (12, 20)])
def test_the_band_planted_in_features_is_measured_within_one_ring(grid):
    """Classes in the middle rings; a change moves the others."""
    fisher = FisherMeter(RINGS, 3, GROUPS)
    shifts = [ShiftMeter(RINGS) for _ in range(GROUPS)]
    index = ring_index(grid, RINGS)
    is_middle = ((index >= 2) & (index <= 5))[..., None]
    mixing = torch.randn(3, 12, generator=generator(1))
    for number in range(20):
        draw = generator(number)
        pattern = torch.randn(1, *grid, 3, generator=draw)
        pattern = idct2(dct2(pattern) * is_middle)
        X = torch.randn(1, *grid, 12, generator=draw) + 8 * pattern @ mixing
        change = idct2(dct2(torch.randn(1, *grid, 12, generator=draw)) * ~is_middle)
        fisher.update(list(split_rings(X, RINGS)), pattern.argmax(3), number % GROUPS)
        shifts[number % GROUPS].update([X], [X + change])
    kept = [None, *range(GROUPS)]
    J = torch.stack([fisher.ratios(group)[None] for group in kept])
    sums = [
        [sum(getattr(m, part) for g, m in enumerate(shifts) if g != left) for left in kept]
        for part in ("moved", "power")
    ]
    moved, power = (torch.stack(each) for each in sums)
    verdict = judge_rings(J, torch.zeros_like(J), moved, power, power[0])
    assert verdict.low == pytest.approx(ring_edge(2, RINGS))
    assert verdict.high == pytest.approx(ring_edge(6, RINGS))


def test_rings_that_the_grid_does_not_have_are_passed_over():
    J, missed, moved, power, _ = measured([1.0] * 5 + [0.0] * 3, [0.1] * 5 + [1.0] * 3)
    empty = torch.tensor([1.0] * 7 + [0.0], dtype=torch.float64)
    verdict = judge_rings(J, missed, moved * empty, power * empty, power[0] * empty)
    assert verdict.high == pytest.approx(ring_edge(5, RINGS))
    alone = judge_rings(*measured([1.0] * RINGS, [0.5] * RINGS)[:4], power[0] * empty)
    assert alone.high is None
