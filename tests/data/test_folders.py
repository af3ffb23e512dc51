"""Folders and templates: what is read, and what is refused by name."""

import os
import pickle
from dataclasses import replace
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image

from causalseg.data.catalogue.camvid import CAMVID11
from causalseg.data.classes import ClassList
from causalseg.data.folders import (
    FolderData,
    Location,
    list_images,
    parse_location,
    read_colours,
    read_ids,
)
from causalseg.errors import ConfigError, DataError, MissingFileError

CLASSES = ClassList(("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
READER = read_ids(CLASSES)


def write_pair(image, label, value):
    """A photo and a mask of one class."""
    for file in (image, label):
        file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(image)
    Image.new("L", (8, 6), value).save(label)


def read(folder, classes=CLASSES, every=1, is_strict=True, **options):
    reader = read_ids(classes, **options)
    return pair(folder / "images", folder / "labels", reader, every, is_strict)


def pair(images, labels, reader=READER, *rest):
    return FolderData(parse_location(str(images)), parse_location(str(labels)), reader, *rest)


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


def test_an_id_outside_the_class_list_names_file_ids_and_allowed_ones(folder):
    with pytest.raises(DataError, match=r"000.png has ids \[7\].*allowed are 0..2, 255"):
        label_of(folder, np.full((48, 64), 7, dtype=np.uint8))


def test_the_extra_ignored_id_is_a_label_id_not_a_train_id(folder):
    classes = ClassList(("road", "kerb"), ((0, 0, 0), (1, 1, 1)), ids=(7, 8))
    pixels = np.full((48, 64), 7, dtype=np.uint8)
    pixels[:16], pixels[16:32] = 0, 8
    label = label_of(folder, pixels, classes=classes, ignore=0)
    assert [int(label[row, 0]) for row in (0, 16, 32)] == [255, 1, 0]


def test_an_ignored_id_that_is_a_class_and_a_map_to_no_class_are_refused(folder):
    with pytest.raises(ConfigError, match="data.ignore = 1 is also the label id of class 'b'"):
        read(folder, ignore=1)
    with pytest.raises(ConfigError, match="data.ignore = 9 is also the label id of class 'a'"):
        read(folder, ignore=9, id_map={9: 0})
    with pytest.raises(ConfigError, match="id_map sends label id 4 to 3"):
        read(folder, id_map={4: 3})


def test_different_sizes_name_both_files_and_sizes(folder):
    with pytest.raises(DataError, match=r"000.png is 64 x 48 pixels .* is 64 x 32"):
        label_of(folder, np.zeros((32, 64), dtype=np.uint8))


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
    message = r"file name .* in .*images is not UTF-8: rename it"
    with pytest.raises(DataError, match=message):
        read(folder)
    with pytest.raises(DataError, match=message):
        pair(f"{folder}/images/{{name}}.png", f"{folder}/labels/{{name}}.png")
    (folder / "labels" / "000.png").unlink()
    named = pair(f"{folder}/images/0{{name}}.png", f"{folder}/labels/0{{name}}.png")
    assert named.names == ["01", "02"]


def test_unpaired_files_are_skipped_and_listed_where_asked_for(folder):
    (folder / "labels" / "000.png").unlink()
    data = read(folder, is_strict=False)
    assert data.names == ["001", "002"]
    assert "labels has no label for 000" in data.unpaired[0]


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


def test_templates_pair_by_their_fields_in_any_folders(tmp_path):
    for city, name, value in (("rome", "b_1", 1), ("oslo", "a_2", 0), ("rome", "a_3", 2)):
        write_pair(
            tmp_path / f"photos/{city}/{name}.jpg", tmp_path / f"{city}_{name}_mask.png", value
        )
    (tmp_path / "photos/rome/notes_mask.png").write_bytes(b"beside the images, not among them")
    images, labels = tmp_path / "photos/{city}/{name}.jpg", tmp_path / "{city}_{name}_mask.png"
    data = pair(images, labels)
    assert data.names == ["oslo__a_2", "rome__a_3", "rome__b_1"]
    assert [int(sample.label[0, 0]) for sample in data] == [0, 2, 1]
    write_pair(tmp_path / "x.png", tmp_path / "oslo_c_mask.png", 0)
    with pytest.raises(DataError, match="has no image for oslo__c"):
        pair(images, labels)


def test_an_expression_of_images_holds_for_labels(tmp_path):
    write_pair(tmp_path / "001.png", tmp_path / "labels/001.png", 1)
    write_pair(tmp_path / "x_001.png", tmp_path / "labels/x_001.png", 1)
    data = pair(tmp_path / r"{name:\d+}.png", tmp_path / "labels/{name}.png")
    assert data.names == ["001"]


def test_a_brace_in_a_folder_that_is_given_apart_is_a_brace(tmp_path):
    write_pair(tmp_path / "br{x}/a.png", tmp_path / "br{x}/labels/a_m.png", 1)
    root = tmp_path / "br{x}"
    data = FolderData(Location(root), Location(root / "labels", "{name}_m.png"), READER)
    assert data.names == ["a"]


def test_folders_of_a_template_may_be_in_a_zip_beside_them(tmp_path):
    write_pair(tmp_path / "in/a.png", tmp_path / "in/a_mask.png", 2)
    with ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(tmp_path / "in/a.png", "photos/day/a.png")
    data = pair(tmp_path / "photos/day/{name}.png", tmp_path / "in/{name}_mask.png")
    assert data[0].label.unique().tolist() == [2]
    (tmp_path / "photos.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match="matches no file; .*cannot open zip file .*photos.zip"):
        pair(tmp_path / "photos/day/{name}.png", tmp_path / "in/{name}_mask.png")


def test_a_template_and_a_folder_pair_by_the_stem(tmp_path):
    write_pair(tmp_path / "images/a.jpg", tmp_path / "labels/a_mask.png", 2)
    data = pair(tmp_path / "images", tmp_path / "labels/{name}_mask.png")
    assert [(sample.name, int(sample.label[0, 0])) for sample in data] == [("a", 2)]


def test_images_of_one_scene_may_share_a_label(tmp_path):
    write_pair(tmp_path / "a_day.png", tmp_path / "labels/a.png", 1)
    write_pair(tmp_path / "a_night.png", tmp_path / "labels/a.png", 1)
    data = pair(tmp_path / "{name}_{light}.png", tmp_path / "labels/{name}.png")
    assert data.names == ["a__day", "a__night"]
    assert data.pairs[0][1] == data.pairs[1][1]


def test_templates_read_from_zip_files_and_in_other_processes(tmp_path):
    write_pair(tmp_path / "in/a.png", tmp_path / "in/a_mask.png", 2)
    (tmp_path / "photos").mkdir()
    with ZipFile(tmp_path / "photos" / "all.zip", "w") as archive:
        for name in ("a.png", "a_mask.png"):
            archive.write(tmp_path / "in" / name, name)
    data = pair(tmp_path / "photos/{n:[a-z]}.png", tmp_path / "photos/{n}_mask.png")
    assert pickle.loads(pickle.dumps(data))[0].label.unique().tolist() == [2]
    assert "all.zip: a.png" in data.pairs[0][0]


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        ("{name}.gif", "{name}_mask.png", ConfigError, "has to end in .png or .jpg"),
        ("{name}.png", "{name}_mask.jpg", ConfigError, "has to end in .png or .webp"),
        ("{name}.png", "{name}_{city}.png", ConfigError, "have the field city, .* only name"),
        ("{Name}.png", "{name}_mask.png", ConfigError, "a brace outside of a field"),
        ("no/{name}.png", "{name}_mask.png", MissingFileError, "no folder .*no"),
        ("{name}_x.png", "{name}_mask.png", DataError, "matches no file; in folder .* there is a"),
        ("{name:[^_]+}.png", "{name}_mask.png", DataError, "no label for b: .*narrow it"),
        ("{a:.*}{b:_mask.png|.png}", "{a}_mask.png", ConfigError, "has to end in"),
    ],
)
def test_mistakes_in_templates_are_named(tmp_path, images, labels, error, message):
    write_pair(tmp_path / "a.png", tmp_path / "a_mask.png", 0)
    Image.new("RGB", (8, 6)).save(tmp_path / "b.png")
    with pytest.raises(error, match=message):
        pair(tmp_path / images, tmp_path / labels)


def test_images_of_one_name_are_refused(tmp_path):
    write_pair(tmp_path / "a__b/c.png", tmp_path / "masks/c.png", 0)
    write_pair(tmp_path / "a/b__c.png", tmp_path / "masks/b__c.png", 0)
    with pytest.raises(DataError, match="two images of .* have the name a__b__c"):
        pair(tmp_path / "{x:a.*}/{y}.png", tmp_path / "masks/{y}.png")


COLOURED = replace(CLASSES, ignore_colours=((9, 8, 7),))


def test_labels_of_colours_are_read_by_the_palette(folder):
    pixels = np.zeros((48, 64, 3), dtype=np.uint8)
    pixels[:16], pixels[16:32], pixels[32:] = (1, 1, 1), (2, 2, 2), (9, 8, 7)
    Image.fromarray(pixels).save(folder / "labels" / "000.png")
    paths = folder / "images", folder / "labels"
    label = pair(*paths, read_colours(COLOURED))[0].label
    assert label[::16, 0].tolist() == [1, 2, 255]
    with pytest.raises(DataError, match=r"colours \[\(9, 8, 7\)\] that are no class.*ignore_colou"):
        pair(*paths, read_colours(CLASSES))[0]


def test_colours_that_say_nothing_or_two_things_are_refused():
    for classes, message in (
        (ClassList(("a", "b"), ((1, 1, 1),) * 2), r"'a' and 'b' have the same colour \(1, 1, 1\)"),
        (replace(CLASSES, ignore_colours=((2, 2, 2),)), "colour of class 'c' and of no class"),
        (ClassList(("a", "b")), "labels of colours need a palette"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_colours(classes)


def test_a_tiff_beside_the_png_made_of_it_is_not_read(tmp_path):
    for name in ("a.png", "a.tif", "b.tif"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert [file.name for file in list_images(tmp_path)] == ["a.png", "b.tif"]
