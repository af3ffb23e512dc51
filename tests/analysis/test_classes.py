"""Class information of rings: found where it is planted, and equal to the formula."""

import pytest
import torch

from causalseg.analysis.classes import FisherMeter, ProbeMeter, label_patches
from causalseg.analysis.rings import ring_index, split_rings
from causalseg.spectral.transforms import dct2, idct2
from toytown import generator

RINGS, CLASSES = 5, 3


def planted(grid, ring, number, seed):
    """Noise, with a pattern of each class in one ring; labels are that pattern's largest part."""
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(number, *grid, 6, generator=draw)
    pattern = torch.randn(number, *grid, CLASSES, generator=draw)
    pattern = idct2(dct2(pattern) * (ring_index(grid, RINGS) == ring)[..., None])
    mixing = torch.randn(CLASSES, 6, generator=draw.manual_seed(9))
    return noise + 8 * pattern @ mixing, pattern.argmax(3)


@pytest.mark.parametrize(("grid", "ring"), [((12, 12), 1), ((9, 16), 3)])
def test_class_information_is_found_in_the_planted_ring_alone(grid, ring):
    fisher, probe = FisherMeter(RINGS, CLASSES, groups=2), ProbeMeter(RINGS, CLASSES, groups=2)
    for index in range(20):
        X, labels = planted(grid, ring, 1, seed=index)
        parts = list(split_rings(X, RINGS))
        fisher.update(parts, labels, index % 2)
        if index < 10:
            probe.fit(parts, labels, generator())
        else:
            probe.score(parts, labels, index % 2)
    J = fisher.ratios()
    assert J.argmax() == ring
    others = [k for k in range(RINGS) if k != ring]
    assert J[others].max() < 0.05 * J[ring]
    alone, without, whole = probe.mious()
    assert alone[ring] > 60
    assert alone[others].max() < 30  # a guess has one class
    assert without[ring] < 30
    assert (without[others] - whole).abs().max() < 5
    halves = [probe.mious(left_out)[0][ring] for left_out in (0, 1)]
    assert halves[0] != halves[1]
    assert sum(halves) / 2 == pytest.approx(float(alone[ring]), abs=1)


def test_fisher_ratio_equals_the_formula():
    X = torch.randn(3, 4, 5, 6, generator=generator(), dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (3, 4, 5), generator=generator())
    labels[0, 0, :2] = 255
    meter = FisherMeter(2, CLASSES, groups=3)
    parts = list(split_rings(X, 2))
    for image in range(3):
        meter.update([part[image : image + 1] for part in parts], labels[image][None], image)
    for left_out in (None, 1):
        kept = torch.tensor([image for image in range(3) if image != left_out])
        known = labels[kept] != 255
        for ring, part in enumerate(parts):
            x, y = part[kept][known], labels[kept][known]
            means = torch.stack([x[y == k].mean(0) for k in range(CLASSES)])
            within = (x - means[y]).square().sum()
            between = (means[y] - x.mean(0)).square().sum()
            expected = float(between / within)
            assert float(meter.ratios(left_out)[ring]) == pytest.approx(expected)


def test_a_patch_has_the_class_of_more_than_half_of_its_pixels():
    label = torch.tensor([[0, 0, 1, 1], [0, 2, 2, 255], [1, 1, 255, 255], [2, 2, 255, 0]])
    assert label_patches(label, (2, 2), 3).tolist() == [[0, 255], [255, 255]]
