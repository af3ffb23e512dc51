"""Photometric distortion: the ranges of the field, and what each number does to a colour."""

import colorsys

import pytest
import torch

from causalseg.data.photometric import Distortion, draw_distortion, scale_saturation

NEUTRAL = Distortion()
RANGES = {"brightness": 32 / 255, "contrast": 0.5, "saturation": 0.5, "hue": 0.1}  # +- neutral


def pixel(*colour):
    return torch.tensor(colour).float()[:, None, None]


def random_image():
    return torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def drawn():
    generator = torch.Generator().manual_seed(0)
    return [draw_distortion(generator) for _ in range(4000)]


@pytest.mark.parametrize("name", RANGES)
def test_each_number_is_drawn_from_the_range_of_the_field_in_half_of_all_cases(name, drawn):
    offsets = [getattr(each, name) - getattr(NEUTRAL, name) for each in drawn]
    wanted = [offset for offset in offsets if offset]
    assert len(wanted) == pytest.approx(2000, abs=120)
    for extreme in (min(wanted), max(wanted)):
        assert 0.99 * RANGES[name] < abs(extreme) <= RANGES[name]
    assert min(wanted) < 0 < max(wanted)


def test_contrast_comes_before_the_colours_as_often_as_after(drawn):
    assert sum(each.is_contrast_first for each in drawn) == pytest.approx(2000, abs=120)


def test_what_is_wanted_of_one_number_tells_nothing_of_another(drawn):
    both = [each for each in drawn if each.brightness and each.hue]
    assert len(both) == pytest.approx(1000, abs=110)
    first = [each for each in drawn if each.is_contrast_first and each.contrast != 1]
    assert len(first) == pytest.approx(1000, abs=110)


def test_the_draw_depends_on_the_generator_alone_and_takes_the_same_from_it():
    after = set()
    for seed in range(8):
        first, second = (torch.Generator().manual_seed(seed) for _ in range(2))
        assert draw_distortion(first) == draw_distortion(second)
        second.manual_seed(seed)
        torch.rand(5, generator=second)
        torch.rand(4, generator=second)
        after.add(torch.equal(first.get_state(), second.get_state()))
    assert after == {True}


def test_the_neutral_distortion_changes_nothing():
    assert torch.allclose(NEUTRAL(random_image()), random_image(), atol=1e-6)


def test_red_turned_by_a_tenth_is_orange_and_back_is_pink():
    # Hue 36 of 360 degrees: red 1, green 36 / 60.
    assert torch.allclose(Distortion(hue=0.1)(pixel(1, 0, 0)), pixel(1, 0.6, 0), atol=1e-5)
    assert torch.allclose(Distortion(hue=-0.1)(pixel(1, 0, 0)), pixel(1, 0, 0.6), atol=1e-5)


def test_saturation_scales_that_of_hsv_up_to_one_and_keeps_hue_and_value():
    half = pixel(0.8, 0.4, 0.6)  # V 0.8, S 0.5
    assert torch.allclose(scale_saturation(half, 1.5), pixel(0.8, 0.2, 0.5))
    assert torch.allclose(scale_saturation(half, 0.5), pixel(0.8, 0.6, 0.7))
    strong = pixel(0.8, 0.2, 0.5)  # S 0.75: 1.5 times that would be beyond 1
    assert torch.allclose(scale_saturation(strong, 1.5), pixel(0.8, 0, 0.4))


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.5])
def test_saturation_is_that_of_the_colour_space(factor):
    image = random_image()
    image[:, 0, 0], image[:, 0, 1] = 0, 0.3  # black and grey have none
    scaled = scale_saturation(image, factor)
    for before, after in zip(
        image.flatten(1).T.tolist(), scaled.flatten(1).T.tolist(), strict=True
    ):
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


def test_a_distorted_image_stays_in_range(drawn):
    for each in drawn[:200]:
        result = each(random_image())
        assert result.min() >= 0
        assert result.max() <= 1
