"""What label files hold: every encoding, pixel by pixel, and what is refused by name."""

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from causalseg.data.labels import ColourLabels, IdLabels, PolygonLabels
from causalseg.errors import DataError
from png import encode_16_bit, encode_png

IDS = IdLabels({7: 0, 8: 1, 0: 255, 300: 2}, "fix it", is_first_channel=True)
COLOURS = ColourLabels({(128, 64, 128): 0, (0, 0, 142): 1, (0, 0, 0): 255}, "fix it")
POLYGONS = PolygonLabels({"road": 0, "car": 1, "polegroup": 255, "plate": -1, "pole": 2}, "fix it")


def encode(pixels, mode=None, format="PNG", **options) -> bytes:
    file = io.BytesIO()
    picture = Image.fromarray(np.asarray(pixels))
    if mode:
        picture = picture.quantize(8) if mode == "P" else picture.convert(mode)
    picture.save(file, format=format, **options)
    return file.getvalue()


def polygons(*objects, size=(8, 6)) -> bytes:
    """A JSON file of (label, polygon) or (label, polygon, more)."""
    entries = [{"label": o[0], "polygon": o[1], **(o[2] if o[2:] else {})} for o in objects]
    return json.dumps({"imgWidth": size[0], "imgHeight": size[1], "objects": entries}).encode()


def box(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def train_ids(reader, content: bytes) -> list[list[int]]:
    return reader.to_train_ids(reader.read(content, "x.png"), "x.png").tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_ids_of_every_depth_become_train_ids(dtype):
    big = 8 if dtype == np.uint8 else 300
    content = encode(np.array([[7, 8], [0, big]], dtype), format="TIFF")
    assert train_ids(IDS, content) == [[0, 1], [255, 1 if big == 8 else 2]]


def test_palette_and_one_bit_pictures_hold_ids():
    picture = Image.fromarray(np.array([[7, 8]], np.uint8))
    picture.putpalette(list(range(255, 0, -1)))
    file = io.BytesIO()
    picture.save(file, format="PNG")
    assert train_ids(IDS, file.getvalue()) == [[0, 1]]
    bits = IdLabels({0: 255, 1: 0}, "")
    assert train_ids(bits, encode(np.array([[True, False]]))) == [[0, 255]]


def test_grey_pictures_of_few_bits_hold_ids_not_shades():
    few = IdLabels({0: 0, 1: 1, 3: 2, 15: 3}, "")
    assert train_ids(few, encode_png(4, 4, 0, [b"\x01\xf0"])) == [[0, 1, 3, 0]]
    assert train_ids(few, encode_png(4, 2, 0, [b"\x1c"])) == [[0, 1, 2, 0]]


def test_webp_holds_ids_if_it_lost_none():
    pixels = np.repeat(np.array([[7, 8, 0, 7]], np.uint8), 4, 0)
    one = IdLabels({7: 0, 8: 1, 0: 255}, "")
    assert train_ids(one, encode(pixels, format="WEBP", lossless=True)) == [[0, 1, 255, 0]] * 4
    with pytest.raises(DataError, match="x.png is a lossy WebP, which changes ids"):
        one.read(encode(pixels, format="WEBP", quality=80), "x.png")
    with pytest.raises(DataError, match="x.png is a lossy WebP, which changes ids"):
        COLOURS.read(encode(pixels, "RGB", format="WEBP", quality=80), "x.png")
    colour = np.stack([pixels, pixels, pixels + 1], -1)
    with pytest.raises(DataError, match="x.png is in colour"):
        one.read(encode(colour, format="WEBP", lossless=True), "x.png")


@pytest.mark.parametrize("channels", [3, 4])
def test_the_first_channel_holds_ids_at_8_and_16_bit(channels):
    pixels = np.full((2, 2, channels), 99)
    pixels[..., 0] = [[7, 8], [0, 7]]
    expected = [[0, 1], [255, 0]]
    assert train_ids(IDS, encode(pixels.astype(np.uint8))) == expected
    pixels[1, 1] = 300
    assert train_ids(IDS, encode_16_bit(pixels)) == [[0, 1], [255, 2]]


def test_the_high_byte_of_a_16_bit_channel_counts():
    pixels = np.full((1, 1, 3), 7 + 256)
    with pytest.raises(DataError, match=r"x.png has ids \[263\]"):
        train_ids(IDS, encode_16_bit(pixels))


def test_channels_are_refused_where_one_is_expected_and_decimals_everywhere():
    one = IdLabels({0: 0}, "")
    with pytest.raises(DataError, match="label x.png has mode RGB: a label is one channel of"):
        one.read(encode(np.zeros((2, 2, 3), np.uint8)), "x.png")
    with pytest.raises(DataError, match="has mode F: a label is the first channel holds"):
        IDS.read(encode(np.zeros((2, 2), np.float32), format="TIFF"), "x.png")
    with pytest.raises(DataError, match="cannot read label x.png"):
        IDS.read(encode_16_bit(np.zeros((2, 2, 2))), "x.png")


@pytest.mark.parametrize("wrong", [-1, 9, 255, 301, 65535])
def test_an_unknown_id_is_named_with_its_file(wrong):
    content = encode(np.array([[7, wrong]], np.int32), format="TIFF")
    with pytest.raises(DataError, match=rf"x.png has ids \[{wrong}\] .* 0, 7..8, 300; fix it"):
        train_ids(IDS, content)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_become_train_ids(mode):
    pixels = np.array([[(128, 64, 128), (0, 0, 142), (0, 0, 0)]], np.uint8)
    assert train_ids(COLOURS, encode(pixels, mode)) == [[0, 1, 255]]


def test_an_unknown_colour_is_named_with_its_file():
    pixels = np.array([[(128, 64, 129), (255, 255, 255), (0, 0, 142)]], np.uint8)
    named = r"x.png has colours \[\(128, 64, 129\), \(255, 255, 255\)\] .*fix it"
    with pytest.raises(DataError, match=named):
        train_ids(COLOURS, encode(pixels))
    with pytest.raises(DataError, match="mode I;16: a label is an image of 8-bit colours"):
        COLOURS.read(encode(np.zeros((1, 1), np.uint16)), "x.png")


def test_later_polygons_lie_on_earlier_ones():
    content = polygons(("road", box(0, 2, 7, 5)), ("car", box(1, 3, 2, 4)))
    expected = np.full((6, 8), 255)
    expected[2:] = 0
    expected[3:5, 1:3] = 1
    assert train_ids(POLYGONS, content) == expected.tolist()


def test_polygons_are_drawn_as_pillow_draws_them():
    points = [(0.6, 0.2), (7.9, 1), (5, 5.7), (2, 3)]
    picture = Image.new("L", (8, 6), 255)
    ImageDraw.Draw(picture).polygon(points, fill=1)
    assert train_ids(POLYGONS, polygons(("car", points))) == np.asarray(picture).tolist()


def test_deleted_empty_and_undrawn_polygons_leave_what_lies_below():
    content = polygons(
        ("road", box(0, 0, 7, 5)),
        ("car", box(0, 0, 3, 3), {"deleted": 1}),
        ("unheard of", box(0, 0, 3, 3), {"deleted": 1}),
        ("plate", box(0, 0, 3, 3)),
        ("car", []),
        ("car", [[1, 1]]),
        ("car", box(7, 5, 7, 5), {"deleted": 0}),
    )
    label = train_ids(POLYGONS, content)
    assert label[5][7] == 1
    assert sum(map(sum, label)) == 1


def test_a_group_is_its_label_unless_it_has_an_entry_of_its_own():
    content = polygons(("cargroup", box(0, 0, 3, 5)), ("polegroup", box(4, 0, 7, 5)))
    assert train_ids(POLYGONS, content)[0] == [1] * 4 + [255] * 4


def test_an_unknown_label_of_a_polygon_is_named_with_a_hint():
    with pytest.raises(DataError, match=r"x.png has the label 'raod' .*mean 'road'\?.*fix it"):
        train_ids(POLYGONS, polygons(("raod", box(0, 0, 3, 3))))


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"\xff\xfe", b'{"imgWidth": 3, "imgHeight": 2}'),
        *(b'{"imgWidth": -3, "imgHeight": 2, "objects": []}', polygons(("car", [1, 2]))),
        *(polygons(("car", [[0, 1], ["a", 2]])), polygons((3, box(0, 0, 1, 1)))),
        *(polygons(size=size) for size in ((0, 6), (8, -1), (8.0, 6), (True, 6), ("8", 6))),
        *(polygons(size=size) for size in ((10**29, 6), (90_000, 90_000))),
        *(polygons(("car", [[0, 1], [odd, 2], [3, 4]])) for odd in (float("nan"), float("inf"))),
        polygons(("car", [[0, 1], [10**400, 2], [3, 4]])),
        b"[" * 100_000,
    ],
    ids=range(20),
)
def test_what_is_no_polygon_file_is_refused(content):
    with pytest.raises(DataError, match="cannot read label x.json: .*it must be JSON with"):
        POLYGONS.read(content, "x.json")


def test_the_size_of_a_polygon_file_is_limited_as_that_of_a_picture(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48)
    assert POLYGONS.read(polygons(size=(8, 6)), "x.json").shape == (6, 8)
    with pytest.raises(DataError, match="imgWidth 7 x imgHeight 7 are more than 48 pixels"):
        POLYGONS.read(polygons(size=(7, 7)), "x.json")


def test_raw_ids_of_polygons_have_names():
    raw = POLYGONS.read(polygons(("car", box(0, 0, 3, 5))), "x")
    assert [POLYGONS.name(i) for i in np.unique(raw)] == ["'in no polygon'", "'car'"]


@pytest.mark.parametrize("reader", [IDS, COLOURS])
@pytest.mark.parametrize("content", [b"", b"no", encode(np.zeros((9, 9), np.uint8))[:45]])
def test_what_is_no_picture_is_named(reader, content):
    with pytest.raises(DataError, match="cannot read label x.png"):
        reader.read(content, "x.png")
