"""Images as tensors, and drawn scenes as samples."""

import numpy as np
import pytest
import torch
from PIL import Image

from causalseg.data.dataset import ScenesData, read_image
from causalseg.errors import DataError


def test_sixteen_bit_images_are_scaled_not_clipped(tmp_path):
    file = tmp_path / "deep.png"
    Image.fromarray(np.array([[0, 2**15], [2**16 - 1, 100]], dtype=np.uint16)).save(file)
    assert torch.allclose(read_image(file)[1], torch.tensor([[0, 0.5], [1, 0.0015]]), atol=1e-3)


def test_images_without_plain_colours_are_refused(tmp_path):
    file = tmp_path / "x.tiff"
    Image.new("F", (8, 6)).save(file)
    with pytest.raises(DataError, match="has mode F: allowed are"):
        read_image(file)


def test_image_kinds_are_read_as_rgb(tmp_path):
    for ending, mode in (("png", "L"), ("jpg", "RGB"), ("webp", "RGBA"), ("png", "P")):
        file = tmp_path / f"{mode}.{ending}"
        Image.new(mode, (8, 6), 40 if mode in "LP" else None).save(file)
        assert read_image(file).shape == (3, 6, 8)


def test_scenes_are_samples_and_the_same_street_in_every_domain():
    clear, night = (ScenesData(domain, 2, first=5, size=(64, 96)) for domain in ("clear", "night"))
    assert len(clear) == 2
    assert torch.equal(clear[1].label, night[1].label)
    assert clear[1].name == night[1].name == "scene_000006"  # so intervals draw them together
    assert not torch.equal(clear[1].image, night[1].image)
    assert clear[0].image.shape == (3, 64, 96)
    assert clear[0].label.max() < 19


def test_an_unknown_domain_of_scenes_shows_at_once():
    with pytest.raises(DataError, match="clear"):
        ScenesData("clera", 2)
