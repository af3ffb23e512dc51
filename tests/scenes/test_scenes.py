import itertools

import numpy as np
import pytest
import torch

from causalseg.corruptions import corrupt
from causalseg.data.classes import CITYSCAPES19
from causalseg.errors import DataError
from causalseg.scenes import DOMAINS, SKY_DEPTH, render

SMALL = (96, 128)
SKY, ROAD = CITYSCAPES19.names.index("sky"), CITYSCAPES19.names.index("road")


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_domain_changes_the_image_and_nothing_else(domain):
    for seed in (0, 5, 11):
        clear, scene, again = (render(seed, SMALL, d) for d in ("clear", domain, domain))
        for one, two in zip(scene, again, strict=True):
            np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(clear.label, scene.label)
        np.testing.assert_array_equal(clear.depth, scene.depth)
        change = np.abs(clear.image.astype(float) - scene.image).mean()
        assert change == 0 if domain == "clear" else change > 8


def test_fog_is_the_fog_of_the_corruptions_with_the_exact_depth():
    clear, fog = render(3, SMALL), render(3, SMALL, "fog")
    image = torch.from_numpy(clear.image).movedim(-1, 0) / 255
    depth = torch.from_numpy(clear.depth)
    candidates = [corrupt(image, "fog_depth", severity, 3, depth) for severity in (3, 4, 5)]
    pixels = [(255 * c).round().byte().movedim(0, -1).numpy() for c in candidates]
    assert sum(np.array_equal(fog.image, expected) for expected in pixels) == 1


def test_another_seed_gives_another_scene():
    assert np.mean(render(1, SMALL).label != render(2, SMALL).label) > 0.05


@pytest.mark.parametrize("size", [SMALL, (64, 64), (65, 131), (201, 67), (64, 300)])
@pytest.mark.parametrize("domain", DOMAINS)
def test_a_scene_of_any_size_has_the_stated_types_and_ranges(size, domain):
    for seed in range(3):
        image, label, depth = render(seed, size, domain)
        assert image.shape == (*size, 3)
        assert label.shape == depth.shape == size
        assert (image.dtype, label.dtype, depth.dtype) == (np.uint8, np.uint8, np.float32)
        assert label.max() < len(CITYSCAPES19.names)
        assert np.isfinite(depth).all()
        assert depth.min() > 0.5
        np.testing.assert_array_equal(label == SKY, depth == SKY_DEPTH)


def test_road_is_at_the_bottom_sky_at_the_top_and_depth_falls_downwards():
    top, bottom = np.zeros(19), np.zeros(19)
    for seed in range(12):
        scene = render(seed, SMALL)
        top += np.bincount(scene.label[:10].ravel(), minlength=19)
        bottom += np.bincount(scene.label[-10:].ravel(), minlength=19)
        rows, columns = np.nonzero(scene.label == ROAD)
        by_row = {row: scene.depth[row, columns[rows == row]].mean() for row in set(rows.tolist())}
        depths = [by_row[row] for row in sorted(by_row)]
        assert all(far > near for far, near in itertools.pairwise(depths))
    assert bottom.argmax() == ROAD
    assert top[SKY] > 0.2 * top.sum()
    assert top[ROAD] == bottom[SKY] == 0


def test_most_classes_occur_and_none_is_everywhere():
    pixels, images = np.zeros(19), np.zeros(19)
    for seed in range(60):
        counts = np.bincount(render(seed, (120, 160)).label.ravel(), minlength=19)
        pixels, images = pixels + counts, images + (counts > 0)
    assert (images >= 5).sum() >= 17
    assert pixels.max() / pixels.sum() < 0.5


def test_night_is_dark_rain_darker_than_clear_and_snow_whitens_the_road():
    means = {domain: [] for domain in DOMAINS}
    road = {domain: [] for domain in DOMAINS}
    for seed, domain in itertools.product(range(8), DOMAINS):
        scene = render(seed, SMALL, domain)
        means[domain].append(scene.image.mean())
        road[domain].append(scene.image[scene.label == ROAD].mean())
    assert np.mean(means["night"]) < 0.5 * np.mean(means["clear"])
    assert np.mean(road["snow"]) > 1.4 * np.mean(road["clear"])
    assert np.mean(means["rain"]) < np.mean(means["clear"])


@pytest.mark.parametrize(
    ("seed", "size", "domain", "message"),
    [
        (0, SMALL, "nigth", r"'nigth'.*did you mean 'night'"),
        (-1, SMALL, "clear", "-1.*0 or more"),
        (0, (63, 128), "clear", "at least 64"),
        (0, (128,), "clear", "at least 64"),
    ],
)
def test_wrong_arguments_are_refused_with_what_is_allowed(seed, size, domain, message):
    with pytest.raises(DataError, match=message):
        render(seed, size, domain)
