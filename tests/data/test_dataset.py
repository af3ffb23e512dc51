"""Folder pairs: what is read, and what is refused by name."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from causalseg.data.classes import CAMVID11, ClassList
from causalseg.data.dataset import FolderData, ScenesData, list_images, read_image
from causalseg.errors import ConfigError, DataError, MissingFileError
from conftest import write_folder

CLASSES = ClassList(("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))


def read(folder, classes=CLASSES, **options):
    return FolderData(folder / "images", folder / "labels", classes, **options)


def label_of(folder, pixels, index=0, **options):
    Image.fromarray(pixels).save(folder / "labels" / f"{index:03d}.png")
    return read(folder, **options)[index].label


def test_a_sample_is_an_image_in_unit_range_with_train_ids(folder):
    data = read(folder)
    image, label, name = data[1]
    assert len(data) == 3
    assert (image.shape, image.dtype) == ((3, 48, 64), torch.float32)
    assert (label.shape, label.dtype, name) == ((48, 64), torch.int64, "001")
    assert 0 <= image.min() < image.max() <= 1
    assert torch.allclose(image[0], 60 * label / 255)  # the fixture paints the id into red


def test_every_kth_pair_is_used_in_the_order_of_names(folder):
    data = read(folder, every=2)
    assert [data[i].name for i in range(len(data))] == ["000", "002"]


def test_ignored_ids_become_255_and_others_their_place(folder):
    pixels = np.full((48, 64), 11, dtype=np.uint8)
    pixels[0, 0] = 3
    classes = CAMVID11
    label = label_of(folder, pixels, classes=classes)
    assert label[0, 0] == 3
    assert (label.flatten()[1:] == 255).all()


def test_an_id_map_replaces_the_ids_of_the_class_list(folder):
    pixels = np.array([[700, 8], [9, 700]], dtype=np.uint16).repeat(24, 0).repeat(32, 1)
    label = label_of(folder, pixels, id_map={700: 2, 8: 0, 9: 255})
    assert label.unique().tolist() == [0, 2, 255]
    assert label[0, 0] == 2


def test_palette_labels_are_read_as_ids(folder):
    picture = Image.fromarray(np.full((48, 64), 2, dtype=np.uint8))
    picture.putpalette([0, 0, 0, 9, 9, 9, 200, 0, 0])
    picture.save(folder / "labels" / "000.png")
    assert (read(folder)[0].label == 2).all()


def test_an_id_outside_the_class_list_names_file_ids_and_allowed_ones(folder):
    with pytest.raises(DataError, match=r"000.png has ids \[7\].*allowed are 0..2, 255"):
        label_of(folder, np.full((48, 64), 7, dtype=np.uint8))


def test_the_extra_ignored_id_is_a_label_id_not_a_train_id(folder):
    classes = ClassList(("road", "kerb"), ((0, 0, 0), (1, 1, 1)), ids=(7, 8))
    pixels = np.full((48, 64), 7, dtype=np.uint8)
    pixels[:16], pixels[16:32] = 0, 8
    label = label_of(folder, pixels, classes=classes, ignore=0)
    assert [int(label[row, 0]) for row in (0, 16, 32)] == [255, 1, 0]


def test_an_ignored_id_that_is_a_class_is_refused(folder):
    with pytest.raises(ConfigError, match="data.ignore = 1 is also the label id of class 'b'"):
        read(folder, ignore=1)
    with pytest.raises(ConfigError, match="data.ignore = 9 is also the label id of class 'a'"):
        read(folder, ignore=9, id_map={9: 0})


def test_sixteen_bit_images_are_scaled_not_clipped(tmp_path):
    file = tmp_path / "deep.png"
    Image.fromarray(np.array([[0, 2**15], [2**16 - 1, 100]], dtype=np.uint16)).save(file)
    assert torch.allclose(read_image(file)[1], torch.tensor([[0, 0.5], [1, 0.0015]]), atol=1e-3)


def test_images_without_plain_colours_are_refused(tmp_path):
    file = tmp_path / "x.tiff"
    Image.new("F", (8, 6)).save(file)
    with pytest.raises(DataError, match="has mode F: allowed are"):
        read_image(file)


def test_an_id_map_to_no_class_is_refused(folder):
    with pytest.raises(ConfigError, match="id_map sends label id 4 to 3"):
        read(folder, id_map={4: 3})


def test_different_sizes_name_both_files_and_sizes(folder):
    with pytest.raises(DataError, match=r"000.png is 64 x 48 pixels .* is 64 x 32"):
        label_of(folder, np.zeros((32, 64), dtype=np.uint8))


def test_a_colour_label_is_refused(folder):
    with pytest.raises(DataError, match="mode RGB: a label is one channel"):
        label_of(folder, np.zeros((48, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize(("gone", "missing"), [("labels", "no label"), ("images", "no image")])
def test_a_missing_partner_is_named(folder, gone, missing):
    (folder / gone / "001.png").unlink()
    with pytest.raises(DataError, match=f"{missing} for 001"):
        read(folder)


def test_empty_and_missing_folders_are_named(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(MissingFileError, match="no folder .*labels"):
        read(tmp_path)
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataError, match="has no images"):
        read(tmp_path)


def test_hidden_files_and_folders_are_no_images(folder):
    for part in ("images", "labels"):
        (folder / part / "._000.png").write_bytes(b"of macOS")
        (folder / part / "more.png").mkdir()
    assert [sample.name for sample in read(folder)] == ["000", "001", "002"]
    assert [file.name for file in list_images(folder / "images")] == [
        "000.png",
        "001.png",
        "002.png",
    ]


def test_a_name_that_is_not_utf8_is_refused(folder):
    image = folder / "images" / "000.png"
    image.rename(os.fsdecode(os.fsencode(folder / "images") + b"/\xff.png"))
    with pytest.raises(DataError, match=r"file name .* is not UTF-8: rename it"):
        FolderData(folder / "images", folder / "labels", CLASSES)


def test_what_has_no_partner_is_left_out_and_told_where_asked_for(folder):
    (folder / "labels" / "000.png").unlink()
    data = FolderData(folder / "images", folder / "labels", CLASSES, is_strict=False)
    assert data.names == ["001", "002"]
    assert "labels has no label for 000" in data.lonely[0]


def test_a_stem_twice_is_refused(folder):
    Image.new("RGB", (64, 48)).save(folder / "images" / "000.jpg")
    with pytest.raises(DataError, match="same stem"):
        read(folder)


@pytest.mark.parametrize("content", [b"", b"no picture", b"cut"])
def test_unreadable_images_and_labels_are_named(folder, content):
    for part in ("labels", "images"):
        file = folder / part / "002.png"
        file.write_bytes(file.read_bytes()[:60] if content == b"cut" else content)
        with pytest.raises(DataError, match=f"cannot read {part[:-1]} .*002.png"):
            read(folder)[2]


def test_image_kinds_are_read_as_rgb(tmp_path):
    for ending, mode in (("png", "L"), ("jpg", "RGB"), ("webp", "RGBA"), ("png", "P")):
        file = tmp_path / f"{mode}.{ending}"
        Image.new(mode, (8, 6), 40 if mode in "LP" else None).save(file)
        assert read_image(file).shape == (3, 6, 8)
    assert len(list_images(tmp_path)) == 4


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


def test_a_folder_of_many_sizes_is_fine(folder):
    write_folder(folder, 1, size=(32, 96))  # takes the place of 000
    data = read(folder)
    assert [tuple(sample.label.shape) for sample in data] == [(32, 96), (48, 64), (48, 64)]
    assert [tuple(sample.image.shape) for sample in data] == [
        (3, *sample.label.shape) for sample in data
    ]
