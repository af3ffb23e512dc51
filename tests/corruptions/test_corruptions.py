import colorsys
import functools
import io
import itertools
import math
import random

import numpy as np
import pytest
import torch
from PIL import Image

from causalseg.corruptions import CORRUPTIONS, blur, corrupt
from causalseg.corruptions.view import FAR, HORIZON, estimate_view
from causalseg.data.classes import CITYSCAPES19
from causalseg.errors import ConfigError, DataError
from causalseg.scenes import render

SIZE = (66, 88)
ODD_SIZES = ((30, 50), (81, 64), (7, 5))
DRIVING = tuple(name for name, group in CORRUPTIONS.items() if group == "driving")
NOT_RANDOM = (
    "defocus_blur", "zoom_blur", "gaussian_blur", "brightness", "contrast", "saturate",
    "pixelate", "jpeg_compression",
)  # fmt: skip
# Severities at which the published constants do not change an image more than the one before.
NOT_RISING = {"glass_blur": [4], "snow": [3], "frost": [4], "saturate": [3]}
each_corruption = pytest.mark.parametrize("name", CORRUPTIONS)


def published(*values):
    return list(enumerate(values, 1))  # severity, value


@functools.cache
def scene(seed, size=SIZE):
    rendered = render(seed, size)
    image = torch.from_numpy(rendered.image).movedim(-1, 0).float() / 255
    return image, torch.from_numpy(rendered.depth), torch.from_numpy(rendered.label)


def grey(value, size=(96, 96)):
    return torch.full((3, *size), value)


@each_corruption
@pytest.mark.parametrize("size", ODD_SIZES)
def test_shape_type_and_range_stay_at_any_size(name, size):
    noise = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    for dtype, severity in itertools.product((torch.float32, torch.float64), (1, 5)):
        for image in (noise.to(dtype), torch.zeros_like(noise), torch.ones_like(noise)):
            result = corrupt(image, name, severity, seed=0)
            assert result.shape == image.shape
            assert result.dtype == image.dtype
            assert result.min() >= 0  # and no NaN
            assert result.max() <= 1
        if name != "spatter":  # there may be no drop on so few pixels
            assert not torch.equal(corrupt(noise, name, severity, seed=0), noise)


@each_corruption
def test_the_input_stays_even_if_it_is_no_block_of_memory(name):
    image, depth, _ = scene(0)
    interleaved = image.movedim(0, -1).contiguous().movedim(-1, 0)
    kept, kept_depth = image.clone(), depth.clone()
    plain = corrupt(image, name, 3, 0, depth)
    assert torch.equal(plain, corrupt(interleaved, name, 3, 0, depth))
    for given in (image, interleaved):
        assert torch.equal(given, kept)
    assert torch.equal(depth, kept_depth)


@each_corruption
def test_the_seed_alone_decides_and_global_generators_are_not_moved(name):
    image, _, _ = scene(0)
    results = []
    for state, seed in ((0, 1), (1, 1), (0, 2)):
        torch.manual_seed(state)
        np.random.seed(state)
        random.seed(state)
        before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
        results.append(corrupt(image, name, 3, seed))
        assert torch.equal(torch.get_rng_state(), before[0])
        np.testing.assert_array_equal(np.random.get_state()[1], before[1])
        assert random.getstate() == before[2]
    first, again, other = results
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name in NOT_RANDOM)


@pytest.mark.parametrize(
    ("name", "has_depth"),
    [*((name, False) for name in CORRUPTIONS), *((name, True) for name in DRIVING)],
)
def test_a_higher_severity_changes_an_image_more(name, has_depth):
    seeds = 60 if name == "fog" else 8  # no two fogs are alike
    changes = np.zeros(5)
    for seed, severity in itertools.product(range(seeds), range(1, 6)):
        image, depth, _ = scene(seed % 4)
        result = corrupt(image, name, severity, seed, depth if has_depth else None)
        changes[severity - 1] += (result - image).abs().mean().item()
    not_rising = [k + 2 for k, (low, high) in enumerate(itertools.pairwise(changes)) if high <= low]
    assert not_rising == NOT_RISING.get(name, [])
    assert changes[4] == changes.max() or name in NOT_RISING


def test_a_large_image_is_corrupted_whole():
    image = grey(0.5, (1080, 1920))
    for name in ("frost", "fog", "rain_streaks"):
        changed = (corrupt(image, name, 5, 0) - image).abs().amax(0) > 0
        assert changed.reshape(12, 90, 12, 160).float().mean((1, 3)).min() > 0.5, name


@pytest.mark.parametrize(
    ("name", "value", "deviations"),
    [
        ("gaussian_noise", 0.5, (0.08, 0.12, 0.18, 0.26, 0.38)),
        ("speckle_noise", 0.3, (0.045, 0.06, 0.105, 0.135, 0.18)),
        ("speckle_noise", 0.1, (0.015, 0.02, 0.035, 0.045, 0.06)),
    ],
)
def test_normal_noise_has_the_published_deviation(name, value, deviations):
    for severity, deviation in enumerate(deviations, 1):
        noisy = corrupt(grey(value, (200, 200)), name, severity, 0)
        # Clipped at 0 and 1: the quartiles are still those of a normal variate.
        low, high = noisy.flatten().quantile(torch.tensor([0.25, 0.75])).tolist()
        assert (high - low) / 1.349 == pytest.approx(deviation, rel=0.03)


@pytest.mark.parametrize(("severity", "photons"), published(60, 25, 12, 5, 3))
def test_shot_noise_counts_the_published_number_of_photons(severity, photons):
    noisy = corrupt(grey(0.25, (200, 200)), "shot_noise", severity, 0)
    counts = photons * noisy.double()
    torch.testing.assert_close(counts, counts.round(), atol=1e-4, rtol=0)
    if photons >= 12:  # fewer are clipped at white
        assert counts.mean().item() == pytest.approx(0.25 * photons, rel=0.02)
        assert counts.var().item() == pytest.approx(0.25 * photons, rel=0.03)


@pytest.mark.parametrize(("severity", "share"), published(0.03, 0.06, 0.09, 0.17, 0.27))
def test_impulse_noise_is_half_salt_half_pepper(severity, share):
    noisy = corrupt(grey(0.5, (200, 200)), "impulse_noise", severity, 0)
    for value in (0, 1):
        assert (noisy == value).float().mean().item() == pytest.approx(share / 2, rel=0.06)
    assert (noisy == 0.5).float().mean().item() == pytest.approx(1 - share, rel=0.01)


@pytest.mark.parametrize("severity", range(1, 6))
def test_brightness_and_saturation_are_those_of_hsv(severity):
    added = (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]
    factor, more = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))[severity - 1]
    colours = [*itertools.product((0.0, 0.2, 0.5, 0.9, 1.0), repeat=3)]
    image = torch.tensor(colours).T[:, None]
    brighter, stronger = [], []
    for colour in colours:
        h, s, v = colorsys.rgb_to_hsv(*colour)
        brighter.append(colorsys.hsv_to_rgb(h, s, min(v + added, 1)))
        stronger.append(colorsys.hsv_to_rgb(h, min(s * factor + more, 1), v))
    for name, expected in (("brightness", brighter), ("saturate", stronger)):
        result = corrupt(image, name, severity, 0)
        torch.testing.assert_close(result[:, 0].T, torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("severity", "factor"), published(0.4, 0.3, 0.2, 0.1, 0.05))
def test_contrast_shrinks_about_the_mean_of_each_channel(severity, factor):
    image, _, _ = scene(0)
    mean = image.mean((1, 2), keepdim=True)
    result = corrupt(image, "contrast", severity, 0)
    torch.testing.assert_close(result, (image - mean) * factor + mean, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("severity", "quality"), published(25, 18, 15, 10, 7))
def test_jpeg_has_the_published_quality(severity, quality):
    pixels = render(0, SIZE).image
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    result = corrupt(scene(0)[0], "jpeg_compression", severity, 0)
    expected = torch.from_numpy(np.array(Image.open(file))).movedim(-1, 0).float() / 255
    torch.testing.assert_close(result, expected)


def test_pixelate_leaves_the_published_number_of_pixels():
    result = corrupt(scene(0, (80, 120))[0], "pixelate", 5, 0)
    blocks = result.reshape(3, 20, 4, 30, 4)
    assert torch.equal(blocks, blocks[:, :, :1, :, :1].expand_as(blocks))


@pytest.mark.parametrize("name", [n for n, group in CORRUPTIONS.items() if group == "blur"])
def test_a_blur_leaves_a_uniform_image_alone(name):
    image = torch.tensor([0.1, 0.5, 0.9])[:, None, None].expand(3, 40, 60)
    for severity in (1, 5):
        result = corrupt(image, name, severity, 0)
        torch.testing.assert_close(result, image.contiguous(), atol=1e-5, rtol=0)


def test_a_point_becomes_a_disc_a_bell_and_a_trail():
    point = torch.zeros(3, 81, 81)
    point[:, 40, 40] = 1
    away = torch.arange(81.0) - 40
    disc = corrupt(point, "defocus_blur", 3, 0)[0]
    assert (disc > 0.5 * disc.max()).sum().item() == pytest.approx(math.pi * 6**2, rel=0.05)
    bell = corrupt(point, "gaussian_blur", 3, 0)[0]
    assert (bell * away**2).sum().item() == pytest.approx(3**2, rel=0.02)
    trail = corrupt(point, "motion_blur", 3, 0)[0]
    rows, columns = torch.nonzero(trail > 1e-4, as_tuple=True)
    assert trail[40, 40] == trail.max()
    assert len(set(columns.tolist())) == columns.max() - columns.min() + 1  # no holes
    assert columns.max() == 40
    assert (rows - 40).abs().max() <= 40 - columns.min() + 1


@pytest.mark.parametrize(("reach", "rounds"), [(1, 1), (1, 2), (2, 3), (4, 2)])
@pytest.mark.parametrize("size", [(17, 23), (30, 11), (9, 40)])
def test_glass_copies_as_the_published_loop_does(reach, rounds, size):
    height, width = size
    expected = np.arange(height * width).reshape(size)
    rows, columns = range(height - reach, reach, -1), range(width - reach, reach, -1)
    rng = np.random.default_rng(5)
    for _ in range(rounds):
        steps = rng.integers(-reach, reach, (2, len(rows), len(columns)), np.int8)
        for (a, i), (b, j) in itertools.product(enumerate(rows), enumerate(columns)):
            p, q = steps[:, a, b].tolist()
            expected[i, j] = expected[i + p, j + q]
    source = blur.copy_near(size, reach, rounds, np.random.default_rng(5))
    np.testing.assert_array_equal(source.reshape(size), expected)


def test_zoom_moves_outwards_from_the_middle():
    image = torch.zeros(3, 101, 101)
    image[:, :, 50] = image[:, :, 80] = 1
    zoomed = corrupt(image, "zoom_blur", 1, 0)[0, 50]
    assert zoomed[49:52].sum() > 0.9
    assert zoomed[81:85].sum() > zoomed[76:80].sum() + 0.3


def test_elastic_moves_pixels_by_a_few_at_most():
    columns = torch.linspace(0, 1, 480).expand(3, 360, 480)
    for severity, most in ((1, 6), (5, 14)):
        moved = 479 * (corrupt(columns, "elastic_transform", severity, 0) - columns).abs()
        assert 0.3 < moved.mean() < moved.max() < most


def test_fog_follows_koschmieder():
    visibility = (300, 150, 90, 55, 35)
    image = torch.zeros(3, 60, 80)
    image[:, :, 1::2] = 0.8  # black beside white at every depth
    depth = torch.linspace(5, 100, 60)[:, None].expand(60, 80)
    for severity, sight in enumerate(visibility, 1):
        foggy = corrupt(image, "fog_depth", severity, 0, depth)
        kept = (foggy[:, :, 1::2] - foggy[:, :, ::2]).mean((0, 2)) / 0.8
        optical = -kept.log() / depth[:, 0] / (2.996 / sight)
        assert 0.6 < optical.min() < optical.max() < 1.5
        assert optical.mean().item() == pytest.approx(1, abs=0.2)


def test_the_sky_may_be_at_infinity():
    image, depth, _ = scene(0)
    endless = torch.where(depth >= FAR, torch.inf, depth)
    for name in DRIVING:
        assert torch.equal(corrupt(image, name, 3, 0, depth), corrupt(image, name, 3, 0, endless))


def test_the_assumed_street_is_a_flat_road_between_walls_under_a_sky():
    image = np.full((3, 100, 200), 0.4, np.float32)
    image[:, :20, 150:] = 0.9
    view = estimate_view(image, None)
    assert view.depth[0, 180] == pytest.approx(FAR, rel=1e-4)
    assert view.depth[0, 100] == pytest.approx(80)
    below = slice(int(100 * HORIZON) + 5, 100)
    # 1/Z = (v - v0) / (f h)
    np.testing.assert_allclose(view.depth[below, 100] * view.rows[below, 0], 180 * 1.5, rtol=1e-5)
    assert (view.ground[80:, 60:140] > 0.9).all()
    assert (view.ground[:40] == 0).all()
    assert view.depth[45, 0] == pytest.approx(8 * 180 / 99.5, rel=0.01)


def test_depth_tells_level_ground():
    kinds = [CITYSCAPES19.names.index(name) for name in ("road", "sidewalk", "terrain")]
    detected, level = [], []
    for seed in range(6):
        image, depth, label = scene(seed, (180, 240))
        view = estimate_view(image.numpy(), depth.numpy())
        rows = slice(int(0.6 * 180), 180)
        detected.append(view.ground[rows] > 0.5)
        level.append(np.isin(label.numpy()[rows], kinds))
    detected, level = np.stack(detected), np.stack(level)
    assert (detected & level).sum() / (detected | level).sum() > 0.85


def test_snow_covers_the_road_and_not_cars():
    car, road = (CITYSCAPES19.names.index(name) for name in ("car", "road"))
    brighter = {car: [], road: []}
    for seed in range(8):
        image, depth, label = scene(seed, (180, 240))
        change = (corrupt(image, "snow_ground", 4, seed, depth) - image).mean(0)
        near = depth < 25
        for kind, values in brighter.items():
            values.append(change[near & (label == kind)])
    assert torch.cat(brighter[road]).mean() > 2 * torch.cat(brighter[car]).mean()


def test_light_does_what_its_name_says():
    image, depth, _ = scene(5, (120, 160))
    assert corrupt(image, "night", 3, 0, depth).mean() < 0.5 * image.mean()
    glare = corrupt(image, "sun_glare", 5, 0, depth)
    assert glare.mean() > image.mean() + 0.05
    assert (glare[:2].amin(0) > 0.95).sum() > (image[:2].amin(0) > 0.95).sum() + 20
    road = corrupt(image, "rain_streaks", 3, 0, depth)[:, -30:].mean()
    assert road < 0.8 * image[:, -30:].mean()


def test_driving_blurs_near_the_edge_and_not_at_the_vanishing_point():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 120, 160, generator=generator)
    result = corrupt(image, "motion_drive", 3, 0, torch.full((120, 160), 10.0))
    change = (result - image).abs().mean(0)
    row = int(120 * HORIZON)
    assert change[row - 3 : row + 3, 77:83].mean() < 0.3 * change[100:, :30].mean()
    far = corrupt(image, "motion_drive", 3, 0, torch.full((120, 160), 1e9))
    torch.testing.assert_close(far, image, atol=0.05, rtol=0)


def test_depth_matters_to_driving_alone():
    image, depth, _ = scene(1)
    for name in CORRUPTIONS:
        is_equal = torch.equal(corrupt(image, name, 3, 0), corrupt(image, name, 3, 0, depth))
        assert is_equal == (name not in DRIVING or name == "sun_glare"), name


@pytest.mark.parametrize(
    ("name", "severity", "seed", "message"),
    [
        ("gausian_noise", 1, 0, "'gaussian_noise'"),
        ("fog", 0, 0, "severity 0 .*5"),
        ("fog", 6, 0, "severity 6 .*5"),
        ("fog", 1, -1, "seed -1 .*0 or more"),
    ],
)
def test_wrong_names_severities_and_seeds_are_refused(name, severity, seed, message):
    with pytest.raises(ConfigError, match=message):
        corrupt(grey(0.5), name, severity, seed)


def test_tensors_that_are_no_image_or_depth_map_are_refused():
    images = [torch.zeros(size) for size in ((1, 8, 8), (3, 0, 8), (2, 3, 8, 8))]
    images += [torch.zeros(3, 8, 8, dtype=torch.uint8), grey(255.0), grey(torch.nan)]
    for image in images:
        with pytest.raises(DataError, match="cannot corrupt"):
            corrupt(image, "contrast", 1, 0)
    for depth in (torch.ones(8, 9), torch.zeros(8, 8), torch.full((8, 8), torch.nan)):
        with pytest.raises(DataError, match="depth of shape"):
            corrupt(grey(0.5, (8, 8)), "fog_depth", 1, 0, depth)
