import itertools
import json

import numpy as np
import pytest

from causalseg.data.catalogue.camvid import CAMVID11
from causalseg.data.classes import (
    CITYSCAPES19,
    IGNORE,
    ClassList,
    distinct_colours,
    read_classes,
)
from causalseg.errors import DataError, MissingFileError
from causalseg.scenes import DOMAINS, SKY_DEPTH, render

SMALL = (96, 128)
SKY, ROAD = CITYSCAPES19.names.index("sky"), CITYSCAPES19.names.index("road")


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_same_seed_draws_the_same_scene(domain):
    first, second = render(7, SMALL, domain), render(7, SMALL, domain)
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)


def test_another_seed_draws_another_scene():
    assert np.mean(render(1, SMALL).label != render(2, SMALL).label) > 0.05


def test_a_scene_has_the_stated_types_and_ranges():
    for seed in range(5):
        image, label, depth = render(seed, SMALL)
        assert image.shape == (*SMALL, 3)
        assert image.dtype == np.uint8
        assert label.shape == depth.shape == SMALL
        assert label.dtype == np.uint8
        assert depth.dtype == np.float32
        assert label.max() < len(CITYSCAPES19.names)
        assert np.isfinite(depth).all()
        assert depth.min() > 0.5
        np.testing.assert_array_equal(label == SKY, depth == SKY_DEPTH)


@pytest.mark.parametrize("domain", [d for d in DOMAINS if d != "clear"])
def test_a_domain_changes_the_image_and_nothing_else(domain):
    for seed in (0, 5, 11):
        clear, other = render(seed, SMALL), render(seed, SMALL, domain)
        np.testing.assert_array_equal(clear.label, other.label)
        np.testing.assert_array_equal(clear.depth, other.depth)
        assert np.abs(clear.image.astype(float) - other.image).mean() > 8


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


def test_fog_takes_contrast_away_with_depth():
    kept = {"near": [], "far": []}
    for seed in range(16):
        clear, fog = render(seed), render(seed, domain="fog")
        before, after = clear.image.mean(axis=-1), fog.image.mean(axis=-1)
        for name, low, high in (("near", 0, 15), ("far", 60, 900)):
            part = (clear.depth > low) & (clear.depth < high)
            if part.sum() > 300:
                kept[name].append(after[part].std() / before[part].std())
    assert np.mean(kept["far"]) < 0.35
    assert np.mean(kept["far"]) < 0.5 * np.mean(kept["near"])


def test_night_is_dark_and_snow_whitens_the_ground():
    means = {domain: [] for domain in DOMAINS}
    ground = {domain: [] for domain in DOMAINS}
    for seed in range(8):
        for domain in DOMAINS:
            scene = render(seed, SMALL, domain)
            means[domain].append(scene.image.mean())
            ground[domain].append(scene.image[scene.label == ROAD].mean())
    assert np.mean(means["night"]) < 0.5 * np.mean(means["clear"])
    assert np.mean(ground["snow"]) > 1.4 * np.mean(ground["clear"])
    assert np.mean(means["rain"]) < np.mean(means["clear"])


@pytest.mark.parametrize("size", [(64, 64), (65, 131), (201, 67), (64, 300)])
@pytest.mark.parametrize("domain", DOMAINS)
def test_odd_sizes_are_drawn(size, domain):
    scene = render(3, size, domain)
    assert scene.image.shape == (*size, 3)
    assert scene.label.shape == scene.depth.shape == size


def test_a_wrong_domain_names_the_right_ones():
    with pytest.raises(DataError, match=r"'nigth'.*did you mean 'night'\?.*clear.*snow"):
        render(0, SMALL, "nigth")


@pytest.mark.parametrize("size", [(63, 128), (128, 10), (128,)])
def test_a_size_that_is_too_small_is_refused(size):
    with pytest.raises(DataError, match="at least 64"):
        render(0, size)


def test_a_negative_seed_is_refused():
    with pytest.raises(DataError, match="0 or more"):
        render(-1, SMALL)


def test_the_published_lists_are_complete():
    assert len(CITYSCAPES19.names) == 19
    assert CITYSCAPES19.ids == tuple(range(19))
    assert CITYSCAPES19.palette[13] == (0, 0, 142)
    assert CITYSCAPES19.ignore == (IGNORE,)
    assert len(CAMVID11.names) == 11
    assert CAMVID11.ignore == (11,)


def test_classes_are_read_without_the_ignored_ones(tmp_path):
    path = tmp_path / "classes.json"
    content = {
        "names": [*CAMVID11.names, "void"],
        "palette": [*CAMVID11.palette, (0, 0, 0)],
        "ignore_ids": [11],
        "note": "not read",
    }
    path.write_text(json.dumps(content))
    assert read_classes(path) == CAMVID11


def test_an_ignored_class_in_the_middle_leaves_its_label_id_unused(tmp_path):
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({"names": ["road", "void", "car"], "ignore_ids": [1, 255]}))
    classes = read_classes(path)
    assert classes.names == ("road", "car")
    assert classes.ids == (0, 2)
    assert classes.ignore == (1, 255)


def test_generated_colours_differ_and_do_not_depend_on_the_count():
    colours = distinct_colours(64)
    assert len(set(colours)) == 64
    assert colours[:5] == distinct_colours(5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable as JSON"),
        ("[]", "not an object"),
        ('{"names": []}', "'names' must be a list"),
        ('{"names": ["a", "a"]}', "name more than once: 'a'"),
        ('{"names": ["a", "b"], "palette": [[0, 0, 0]]}', "one colour for each of 2"),
        ('{"names": ["a"], "palette": [[0, 0]]}', "not three numbers"),
        ('{"names": ["a"], "palette": [[0, 0, 300]]}', r"0\.\.255"),
        ('{"names": ["a"], "ignore_ids": [0]}', "needs 1 to 255 names"),
        ('{"names": ["a"], "ignore_ids": ["x"]}', "list of whole numbers"),
    ],
)
def test_a_broken_classes_file_is_named_with_its_fault(tmp_path, text, message):
    path = tmp_path / "classes.json"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"classes\.json: .*{message}"):
        read_classes(path)


def test_a_missing_classes_file_is_named(tmp_path):
    with pytest.raises(MissingFileError, match="nowhere"):
        read_classes(tmp_path / "nowhere.json")


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(DataError, match="2 names but 1 entries in 'palette'"):
        ClassList(("a", "b"), ((0, 0, 0),))
    with pytest.raises(DataError, match="2 names but 3 entries in 'ids'"):
        ClassList(("a", "b"), distinct_colours(2), (0, 1, 2))
    with pytest.raises(DataError, match="both a class and ignored"):
        ClassList(("a",), distinct_colours(1), (255,))
