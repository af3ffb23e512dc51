"""How image files are read: orientation in EXIF data, bits of deep images."""

import io
import os

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps

from causalseg.config.load import load_config
from causalseg.data.classes import ClassList
from causalseg.data.dataset import Decoding, decode_image, read_depth, read_image, read_orientation
from causalseg.data.folders import FolderData, parse_location, read_ids
from causalseg.data.labels import IdLabels
from causalseg.errors import DataError
from causalseg.jobs.check import check_data, list_remarks
from causalseg.jobs.predict import predict_run
from causalseg.jobs.train import train_run
from command_line import run as command
from command_line import write_yaml

PIXELS = np.arange(3 * 24 * 32, dtype=np.int64).reshape(24, 32, 3) % 251
PIXELS = PIXELS.astype(np.uint8)


def photo(orientation, format="PNG"):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, format=format, exif=exif)
    return file.getvalue()


def deep(largest, size=(24, 32)):
    file = io.BytesIO()
    values = np.linspace(0, largest, size[0] * size[1]).round().astype(np.uint16)
    Image.fromarray(values.reshape(size)).save(file, format="PNG")
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_viewers_turn_it(orientation):
    content = photo(orientation)
    assert read_orientation(content) == orientation
    with Image.open(io.BytesIO(content)) as stored:
        expected = np.array(ImageOps.exif_transpose(stored))
    image = decode_image(content, "x").movedim(0, -1).mul(255).round().byte().numpy()
    assert np.array_equal(image, expected)
    assert (image.shape[:2] == (32, 24)) == (orientation >= 5)
    stored = decode_image(content, "x", Decoding(is_turned=False)).movedim(0, -1)
    assert np.array_equal(stored.mul(255).round().byte().numpy(), PIXELS)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("content", [b"\0" * 8, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40])
def test_broken_exif_data_turn_nothing(content):
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, format="JPEG", exif=content)
    assert decode_image(file.getvalue(), "x").shape == (3, 24, 32)


def test_twelve_bits_of_sixteen_fill_the_range():
    content = deep(4095)
    assert decode_image(content, "x").max() < 0.07
    image = decode_image(content, "x", Decoding(bits=12))
    assert (image.min(), image.max()) == (0, 1)
    assert decode_image(deep(65535), "x", Decoding(bits=12)).max() == 1  # beyond: clipped
    assert (read_depth(content), read_depth(photo(1))) == (4095, None)


def test_a_label_of_the_stored_image_names_the_way_out(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    (tmp_path / "images" / "a.png").write_bytes(photo(6))
    Image.fromarray(np.zeros((24, 32), np.uint8)).save(tmp_path / "labels" / "a.png")
    places = [parse_location(str(tmp_path / name)) for name in ("images", "labels")]
    reader = read_ids(ClassList(("a", "b")))
    with pytest.raises(DataError, match="data.exif=ignore"):
        FolderData(*places, reader)[0]
    assert FolderData(*places, reader, decoding=Decoding(is_turned=False))[0].image.shape[1:] == (
        24,
        32,
    )


def test_check_notices_twelve_bits_and_training_and_prediction_use_them(
    tiny_options, tiny, folder, tmp_path, capsys
):
    for file in (folder / "images").iterdir():
        file.write_bytes(deep(4095, (48, 64)))
    config = write_yaml(tmp_path / "deep.yaml", tiny_options)
    assert command("data", "check", config) == 0
    assert "set data.bits=12" in capsys.readouterr().out
    assert command("data", "check", config, "data.bits=12") == 0
    assert "data.bits" not in capsys.readouterr().out
    run = train_run(tiny("data.bits=12", "train.steps=1"))
    predict_run(run.path, folder / "images", tmp_path / "out")
    with Image.open(next((tmp_path / "out" / "overlays").iterdir())) as overlay:
        assert np.array(overlay).max() > 120  # the image is half of the overlay


def test_a_class_without_a_pixel_is_named_with_the_way_out(tiny_options, folder, tmp_path, caplog):
    for file in (folder / "labels").iterdir():
        label = np.zeros((48, 64), np.uint8)
        label[:, 32:] = 255
        Image.fromarray(label).save(file)
    options = {**tiny_options, "data": {**tiny_options["data"], "classes": ["bg", "obj"]}}
    config = write_yaml(tmp_path / "two.yaml", options)
    (remark,) = list_remarks(check_data(str(config)))
    assert "no pixel of obj" in remark
    assert "ids: [0, 255]" in remark
    assert "data.ignore: 254" in remark
    run = train_run(load_config(config, ["train.steps=1"]))
    assert "no pixel of obj in the sources" in caplog.text
    assert "in any domain, so without a score: obj." in run.report.read_text()
    mended = [
        "data.classes={names: [bg, obj], ids: [0, 255], ignore: []}",
        "data.ignore=254",
    ]
    assert list_remarks(check_data(str(config), mended)) == []
    mapped = dict(options["data"])
    mapped["sources"] = [{**mapped["sources"][0], "id_map": {0: 0, 255: 1}}]
    mapped["domains"] = {"here": mapped["sources"][0]}
    config = write_yaml(tmp_path / "mapped.yaml", {**options, "data": mapped})
    findings = check_data(str(config))
    assert list_remarks(findings) == []
    assert findings[0].pixels.tolist() == [3 * 48 * 32, 3 * 48 * 32, 0]


def test_labels_without_a_class_are_a_problem(tiny_options, folder, tmp_path, capsys, caplog):
    for file in (folder / "labels").iterdir():
        Image.fromarray(np.full((48, 64), 255, np.uint8)).save(file)
    config = write_yaml(tmp_path / "none.yaml", tiny_options)
    assert command("data", "check", config) == 2
    assert "no pixel of its 3 labels has a class" in capsys.readouterr().err
    run = train_run(load_config(config, ["train.steps=1"]))
    assert "no pixel of any class in the sources" in caplog.text
    assert "domain there has no labelled pixel" in caplog.text
    assert "there has no labelled pixel, so it has no score" in run.report.read_text()


@pytest.mark.parametrize("kind", ["TIFF", "BMP"])
def test_tiff_and_bmp_are_read_as_images_and_labels(tmp_path, kind):
    ending = {"TIFF": ".tif", "BMP": ".bmp"}[kind]
    for name, pixels in (("images", PIXELS.astype(np.uint8)), ("labels", PIXELS[..., 0] % 3)):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name / f"a{ending}", kind)
    places = [parse_location(str(tmp_path / name)) for name in ("images", "labels")]
    sample = FolderData(*places, read_ids(ClassList(("x", "y", "z"))))[0]
    assert (255 * sample.image).round().byte().movedim(0, -1).equal(torch.tensor(PIXELS).byte())
    assert sample.label.equal(torch.tensor(PIXELS[..., 0] % 3))


def test_what_is_no_plain_image_is_refused_before_it_does_harm(tmp_path):
    image = Image.new("RGB", (8, 8))
    image.save(tmp_path / "program.png", "EPS")  # Pillow would start Ghostscript
    image.save(tmp_path / "film.png", "GIF")
    image.save(tmp_path / "pages.tif", save_all=True, append_images=[image])
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait for ever
    os.truncate(os.open(tmp_path / "huge.png", os.O_CREAT | os.O_WRONLY), 3_000_000_000)
    for name, message in (
        ("program.png", "no image of the formats PNG, JPEG, WEBP, TIFF, BMP"),
        ("film.png", "no image of the formats"),
        ("pages.tif", "has several pages: save each"),
        ("pipe.png", "is no regular file"),
        ("huge.png", "it has 3.0 GB, the limit is 2"),
    ):
        with pytest.raises(DataError, match=message):
            read_image(tmp_path / name)
    Image.new("1", (20_000, 20_000)).save(tmp_path / "wide.png")
    with pytest.raises(DataError, match=r"wide.png: .*400000000 pixels.*; cut it into tiles"):
        read_image(tmp_path / "wide.png")
    Image.new("L", (8, 8)).save(tmp_path / "lossy.tif", compression="jpeg")
    with pytest.raises(DataError, match="is a lossy TIFF"):
        IdLabels({0: 0}, "").read((tmp_path / "lossy.tif").read_bytes(), "lossy.tif")
