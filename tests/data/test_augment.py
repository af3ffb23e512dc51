"""Augmentation: ranges of the field's protocol, and what each distortion does to a colour."""

import colorsys

import pytest
import torch

from causalseg.config.run import AugmentConfig
from causalseg.data.augment import (
    Augment,
    Distortion,
    draw_distortion,
    mix_classes,
    scale_saturation,
)
from causalseg.data.classes import IGNORE
from causalseg.data.dataset import Sample
from causalseg.errors import ConfigError
from toytown import generator, halves

NEUTRAL = Distortion()
RANGES = {"brightness": 32 / 255, "contrast": 0.5, "saturation": 0.5, "hue": 0.1}  # +- neutral


def augment(crop, **options):
    return Augment(crop, AugmentConfig(**options))


def plain(crop, **options):
    """No random scale and no distortion."""
    return augment(crop, scale=(1, 1), photometric=False, **options)


@pytest.mark.parametrize("size", [(60, 80), (20, 30), (200, 33), (48, 64)])
def test_a_crop_has_its_size_whatever_the_image(size):
    for seed in range(8):
        image, label, _ = Augment((48, 64))(halves(*size), generator(seed))
        assert (image.shape, label.shape) == ((3, 48, 64), (48, 64))
        assert image.min() >= 0
        assert image.max() <= 1
        assert set(label.unique().tolist()) <= {0, 1, IGNORE}


def test_image_and_label_stay_together_in_crops_and_flips():
    label = torch.randint(0, 19, (32, 80), generator=generator())
    noise = Sample((label / 19).expand(3, 32, 80), label, "x")
    crops = [plain((32, 32))(noise, generator(seed)) for seed in range(8)]
    assert all(torch.allclose(image, (label / 19).expand(3, 32, 32)) for image, label, _ in crops)
    assert len({image[0].sum().item() for image, *_ in crops}) > 1


@pytest.mark.parametrize("edge", range(30, 36))
def test_an_edge_is_at_the_same_position_in_the_resized_image_and_label(edge):
    right = (torch.arange(96) >= edge).long().expand(96, 96)
    halves = Sample(right.expand(3, 96, 96).float(), right, "x")
    for seed in range(2):
        image, label, _ = plain((32, 32))(halves, generator(seed))
        assert torch.equal(image > 0.5, (label == 1).expand(3, 32, 32))


@pytest.mark.parametrize(("size", "picked"), [(32, 1), (16, 2)])
def test_a_smaller_label_has_the_pixels_nearest_to_its_centres(size, picked):
    label = torch.arange(64).expand(64, 64)
    resize = plain((size, size), flip=0.0)
    resized = resize(Sample((label / 64).expand(3, 64, 64), label, "x"), generator()).label
    assert (resized == torch.arange(picked, 64, 64 // size)).all()
    down = resize(Sample((label.T / 64).expand(3, 64, 64), label.T, "x"), generator()).label
    assert torch.equal(down, resized.T)


def test_crops_with_one_class_are_avoided():
    fractions = []
    for seed in range(20):
        label = augment((32, 32), scale=(2.0, 2.0))(halves(), generator(seed)).label
        fractions.append(torch.bincount(label.flatten()).max() / label.numel())
    assert sum(fraction <= 0.75 for fraction in fractions) >= 18


def test_small_images_are_padded_with_ignored_pixels():
    label = augment((48, 48), scale=(0.5, 0.5))(halves(40, 40), generator()).label
    assert (label == IGNORE).sum() == 48 * 48 - 24 * 24


def test_flip_mirrors_both():
    flipped = plain((60, 80), flip=1.0)(halves(), generator())
    assert torch.equal(flipped.label, halves().label.flip(-1))
    assert torch.allclose(flipped.image, halves().image.flip(-1), atol=1e-5)


def test_the_same_generator_gives_the_same_sample():
    first, second = (Augment((48, 64))(halves(), generator(7)) for _ in range(2))
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.label, second.label)


def test_crops_are_corrupted_with_the_given_probability():
    corrupt = {"names": ["gaussian_noise", "brightness"], "p": 0.5, "severity": (2, 3)}
    changed = augment((32, 32), photometric=False, corrupt=corrupt)
    same = augment((32, 32), photometric=False)
    changes = [
        not torch.equal(same(halves(), generator(i)).image, changed(halves(), generator(i)).image)
        for i in range(60)
    ]
    assert 18 <= sum(changes) <= 42
    with pytest.raises(ConfigError, match="did you mean 'brightness'"):
        augment((32, 32), corrupt={"names": ["brightnes"]})


def test_half_of_the_classes_of_another_image_are_pasted_with_their_pixels():
    onto = Sample(torch.zeros(3, 8, 8), torch.zeros(8, 8, dtype=torch.int64), "onto")
    label = torch.arange(8).repeat(8, 1) // 2 + 1  # classes 1, 2, 3, 4
    label[0] = IGNORE
    other = Sample((label / 10).expand(3, 8, 8), label, "other")
    for seed in range(5):
        mixed = mix_classes(onto, other, generator(seed))
        pasted = mixed.label > 0
        assert mixed.label[pasted].unique().numel() == 2
        assert torch.equal(mixed.label[pasted], label[pasted])
        assert torch.equal(mixed.image[:, pasted], other.image[:, pasted])
        assert mixed.image[:, ~pasted].max() == 0
        assert not pasted[0].any()


def pixel(*colour):
    return torch.tensor(colour).float()[:, None, None]


def random_image():
    return torch.rand(3, 20, 20, generator=generator())


@pytest.fixture(scope="module")
def drawn():
    source = generator()
    return [draw_distortion(source) for _ in range(4000)]


def test_photometric_distortion_changes_colours_not_labels():
    before = plain((60, 80), flip=0.0)(halves(), generator(3))
    after = augment((60, 80), scale=(1, 1), flip=0.0)(halves(), generator(3))
    assert torch.equal(before.label, after.label)
    assert not torch.allclose(before.image, after.image, atol=0.01)


@pytest.mark.parametrize("name", RANGES)
def test_each_step_is_drawn_from_the_field_s_range_in_half_of_all_cases(name, drawn):
    offsets = [getattr(each, name) - getattr(NEUTRAL, name) for each in drawn]
    used = [offset for offset in offsets if offset]
    assert len(used) == pytest.approx(2000, abs=120)
    for extreme in (min(used), max(used)):
        assert 0.99 * RANGES[name] < abs(extreme) <= RANGES[name]
    assert min(used) < 0 < max(used)


def test_steps_and_their_order_are_independent(drawn):
    assert sum(each.is_contrast_first for each in drawn) == pytest.approx(2000, abs=120)
    both = [each for each in drawn if each.brightness and each.hue]
    assert len(both) == pytest.approx(1000, abs=110)
    first = [each for each in drawn if each.is_contrast_first and each.contrast != 1]
    assert len(first) == pytest.approx(1000, abs=110)


def test_a_draw_always_takes_nine_numbers():
    for seed in range(8):
        first, second = generator(seed), generator(seed)
        draw_distortion(first)
        torch.rand(5, generator=second)
        torch.rand(4, generator=second)
        assert torch.equal(first.get_state(), second.get_state())


def test_a_distorted_image_stays_in_range_and_neutral_changes_nothing(drawn):
    assert torch.allclose(NEUTRAL(random_image()), random_image(), atol=1e-6)
    for each in drawn[:200]:
        result = each(random_image())
        assert result.min() >= 0
        assert result.max() <= 1


def test_red_turned_by_a_tenth_is_orange_and_back_is_pink():
    # Hue 36 of 360 degrees: red 1, green 36 / 60.
    assert torch.allclose(Distortion(hue=0.1)(pixel(1, 0, 0)), pixel(1, 0.6, 0), atol=1e-5)
    assert torch.allclose(Distortion(hue=-0.1)(pixel(1, 0, 0)), pixel(1, 0, 0.6), atol=1e-5)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.5])
def test_saturation_is_that_of_hsv_up_to_one(factor):
    image = random_image()
    image[:, 0, 0], image[:, 0, 1] = 0, 0.3  # black and grey have none
    scaled = scale_saturation(image, factor)
    pairs = zip(image.flatten(1).T.tolist(), scaled.flatten(1).T.tolist(), strict=True)
    for before, after in pairs:
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        expected = colorsys.hsv_to_rgb(hue, min(1, factor * saturation), value)
        assert after == pytest.approx(expected, abs=1e-6)


def test_brightness_is_added_and_contrast_multiplied_and_both_are_clipped():
    assert torch.allclose(Distortion(brightness=0.1)(pixel(0.2, 0.5, 0.95)), pixel(0.3, 0.6, 1))
    assert torch.allclose(Distortion(brightness=-0.1)(pixel(0.2, 0.5, 0)), pixel(0.1, 0.4, 0))
    assert torch.allclose(Distortion(contrast=1.5)(pixel(0.2, 0.6, 0.9)), pixel(0.3, 0.9, 1))


def test_contrast_that_comes_first_is_clipped_before_the_saturation_is_scaled():
    colour = pixel(0.8, 0.4, 0.6)
    first, last = (Distortion(0.0, 1.5, 0.5, 0.0, order)(colour) for order in (True, False))
    assert torch.allclose(first, pixel(1, 0.8, 0.95))  # (1.2, 0.6, 0.9), clipped, then half of S
    assert torch.allclose(last, pixel(1, 0.9, 1))  # half of S, (0.8, 0.6, 0.7), then all clipped
