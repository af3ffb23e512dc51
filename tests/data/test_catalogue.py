"""The catalogue of published data sets: trees, splits, pairs, and the train id of every label.

`published_trees` and `published_labels` are written independently of the catalogue.
"""

import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from causalseg.data.catalogue import CLASS_LISTS, LAYOUTS, MAPPINGS, map_classes
from causalseg.data.catalogue.camvid import CAMVID11
from causalseg.data.classes import CITYSCAPES19, ClassList
from causalseg.data.layout_data import LayoutData
from causalseg.data.layouts import Colours, Ids, Polygons
from causalseg.errors import ConfigError, MissingFileError
from png import encode_16_bit
from published_labels import CAMVID_COLOURS, IDD_GROUPS, TABLES
from published_trees import OTHERS, PAIRS, ZIPS

ROOT = Path(__file__).parent.parent.parent
KINDS = {"idd": Polygons, "a2d2": Colours, "camvid32": Colours, "camvid32_as19": Colours}


def label_file(layout: str) -> tuple[bytes, np.ndarray]:
    """A label with every entry of the table, each two pixels square, and its train ids."""
    table = TABLES[layout] | (IDD_GROUPS if layout == "idd" else {})
    expected = np.kron(np.array([list(table.values())]), np.ones((2, 2), int))
    if layout == "idd":
        shapes = [
            {"label": name, "polygon": [[2 * i, 0], [2 * i + 1, 0], [2 * i + 1, 1], [2 * i, 1]]}
            for i, name in enumerate(table)
        ]
        size = {"imgHeight": 2, "imgWidth": 2 * len(table)}
        return json.dumps({**size, "objects": shapes}).encode(), expected
    keys = np.array([list(table)])
    pixels = keys.repeat(2, 0).repeat(2, 1)
    if layout == "synthia":  # 16 bit, instances in the second channel
        return encode_16_bit(np.stack([pixels, 300 + pixels, 0 * pixels], -1)), expected
    picture = Image.fromarray(pixels.astype(np.uint8))
    if layout == "shift":
        rest = Image.new("L", picture.size, 77)
        picture = Image.merge("RGBA", (picture, rest, rest, rest))
    elif layout in ("gtav", "mapillary_v1", "mapillary_v2"):
        picture.putpalette([(7 * i) % 256 for i in range(768)])
    return encode(picture, ".png"), expected


def encode(picture: Image.Image, ending: str) -> bytes:
    out = io.BytesIO()
    picture.save(out, {".png": "PNG", ".jpg": "JPEG"}[ending])
    return out.getvalue()


def tree_of(name: str) -> dict[str, bytes]:
    """All files of a tree as published, by path."""
    label, expected = label_file(name)
    files = dict.fromkeys(OTHERS.get(name, ()), b"something else")
    for pairs in PAIRS[name].values():
        for image, label_path in pairs:
            place = len(files) % 200
            picture = Image.new("RGB", expected.shape[::-1], (place, 90, 30))
            files[image] = encode(picture, Path(image).suffix)
            files[label_path] = label
    return files


def unpack(name: str, root: Path) -> Path:
    for path, content in tree_of(name).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def pack(name: str, root: Path) -> Path:
    files = tree_of(name)
    for path, start in ZIPS.get(name, {"all.zip": ""}).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        cut, _, rest = start.rpartition("|")
        with zipfile.ZipFile(root / path, "w") as archive:
            for file in [file for file in files if file.startswith(cut + rest)]:
                archive.writestr(file.removeprefix(cut), files.pop(file))
    return root


def pairs_of(data: LayoutData, root: Path) -> set[tuple[str, str]]:
    return {
        tuple(str(Path(data.where(file)).relative_to(root)) for file in pair) for pair in data.pairs
    }


@pytest.mark.parametrize("name", LAYOUTS)
def test_pairs_and_labels_of_a_published_tree_are_found(name, tmp_path):
    root, (_, expected) = unpack(name, tmp_path), label_file(name)
    assert LAYOUTS[name].splits.keys() == PAIRS[name].keys()
    for split, published in PAIRS[name].items():
        data = LayoutData(LAYOUTS[name], split, root)
        assert pairs_of(data, root) == {tuple(pair) for pair in published}
        for index in range(len(data)):
            assert np.array_equal(data[index].label.numpy(), expected)
            assert data[index].image.shape == (3, *expected.shape)


@pytest.mark.parametrize("name", LAYOUTS)
def test_published_zips_need_no_unpacking(name, tmp_path):
    root, (_, expected) = pack(name, tmp_path), label_file(name)
    assert not [file for file in root.rglob("*") if file.is_file() and file.suffix != ".zip"]
    for split, published in PAIRS[name].items():
        data = LayoutData(LAYOUTS[name], split, root)
        assert len(data) == len(published)
        assert np.array_equal(data[0].label.numpy(), expected)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_catalogue_holds_exactly_the_published_labels(name):
    encoding = LAYOUTS[name].encoding
    assert isinstance(encoding, KINDS.get(name, Ids))
    assert dict(encoding.train_ids) == TABLES[name]


@pytest.mark.parametrize(
    ("name", "folder"), [("gtav", "labels"), ("synthia", "RAND_CITYSCAPES/GT/LABELS")]
)
def test_what_converters_put_beside_the_labels_is_left_out(name, folder, tmp_path):
    root = unpack(name, tmp_path)
    before = LayoutData(LAYOUTS[name], "train", root)
    for file in (root / folder).glob("*.png"):
        Image.new("L", (2, 2)).save(file.with_stem(f"{file.stem}_labelTrainIds"))
    assert LayoutData(LAYOUTS[name], "train", root).pairs == before.pairs


def test_both_packages_of_mapillary_hold_the_labels_of_1_2(tmp_path):
    root = unpack("mapillary_v1", tmp_path)
    pairs = LayoutData(LAYOUTS["mapillary_v1"], "val", root).pairs
    (root / "validation/v1.2/labels").rename(root / "validation/labels")
    (old,) = LayoutData(LAYOUTS["mapillary_v1"], "val", root).pairs
    assert old == (pairs[0][0], pairs[0][1].replace("/v1.2/", "/"))
    assert [name[-8:] for name in LAYOUTS["mapillary_v1"].archives] == ["v2.0.zip", "v1.2.zip"]
    with pytest.raises(MissingFileError, match="has no labels of Mapillary Vistas 2.0"):
        LayoutData(LAYOUTS["mapillary_v2"], "val", root)


def test_bdd100k_is_also_read_as_it_was_first_released(tmp_path):
    root = unpack("bdd100k", tmp_path)
    new = LayoutData(LAYOUTS["bdd100k"], "val", root)
    (image, label), name = new.pairs[0], new.names[0]
    for path, old in (
        (image, f"bdd100k/seg/images/val/{name}.jpg"),
        (label, f"bdd100k/seg/labels/val/{name}_train_id.png"),
    ):
        (root / old).parent.mkdir(parents=True)
        (root / path).rename(root / old)
    data = LayoutData(LAYOUTS["bdd100k"], "val", root)
    assert data.names == [name]
    assert np.array_equal(data[0].label.numpy(), label_file("bdd100k")[1])
    (root / f"bdd100k/seg/images/val/{name}.jpg").unlink()
    with pytest.raises(MissingFileError, match=r"images/10k/val/\{name\}.jpg or seg/images/val/"):
        LayoutData(LAYOUTS["bdd100k"], "val", root)


@pytest.mark.parametrize("name", LAYOUTS)
def test_labels_share_the_fields_of_their_images(name):
    for split in LAYOUTS[name].splits.values():
        images, labels = (
            {frozenset(re.findall(r"{(\w+)", text)) for text in templates}
            for templates in (split.image_templates, split.label_templates)
        )
        # Images that share a label differ in a field that the label lacks.
        assert images == labels or (split.spare == "labels" and min(labels) < min(images))


def test_class_lists_are_those_of_the_data():
    own = {"camvid": CAMVID11, "camvid32": CLASS_LISTS["camvid32"], "idd_lite": CLASS_LISTS["idd7"]}
    for name, layout in LAYOUTS.items():
        assert layout.classes is own.get(name, CITYSCAPES19)
    assert [len(each.names) for each in CLASS_LISTS.values()] == [19, 11, 31, 7]
    colours = CLASS_LISTS["camvid32"].palette
    assert colours == tuple(colour for colour in CAMVID_COLOURS if any(colour))


def test_splits_of_one_weather_add_up_to_the_split_of_all():
    splits = LAYOUTS["acdc"].splits
    for part, total in (("train", 1600), ("val", 406)):
        weathers = ("fog", "night", "rain", "snow")
        assert sum(splits[f"{weather}_{part}"].count for weather in weathers) == total
        assert splits[part].count == total
    camvid = LAYOUTS["camvid32"].splits
    for parts in (("train", "val", "test"), ("0001TP", "0006R0", "0016E5", "Seq05VD")):
        assert sum(camvid[part].count for part in parts) == 701
    assert [LAYOUTS["camvid"].splits[s].count for s in ("train", "val", "test")] == [367, 101, 233]


def test_mappings_cover_every_class_and_those_back_are_their_inverse():
    for (first, second), mapping in MAPPINGS.items():
        assert tuple(mapping) == CLASS_LISTS[first].names
        assert map_classes(CLASS_LISTS[first], CLASS_LISTS[second]) == tuple(mapping.values())
    for coarse in ("camvid11", "idd7"):
        there, back = (
            map_classes(*lists)
            for lists in ((CITYSCAPES19, CLASS_LISTS[coarse]), (CLASS_LISTS[coarse], CITYSCAPES19))
        )
        assert set(there) == set(range(len(back)))
        assert all(fine == 255 or there[fine] == index for index, fine in enumerate(back))


def test_the_mapping_to_idd7_is_level_1_of_its_label_tree():
    level1 = {
        "drivable": "road",
        "non-drivable": "sidewalk terrain",
        "living-thing": "person rider",
        "vehicle": "car truck bus train motorcycle bicycle",
        "far-object": "building vegetation",
        "sky": "sky",
    }
    expected = {name: big for big, names in level1.items() for name in names.split()}
    mapping = MAPPINGS["cityscapes19", "idd7"]
    for name, index in mapping.items():
        assert CLASS_LISTS["idd7"].names[index] == expected.get(name, "roadside-object")


def test_the_mappings_of_camvid_agree_with_each_other():
    # SegNet's grouping of the 32 classes, as MathWorks' camvidPixelLabelIDs has it.
    groups = {
        "building": "Bridge Building Wall Tunnel Archway",
        "pole": "Column_Pole TrafficCone",
        "road": "Road LaneMkgsDriv LaneMkgsNonDriv",
        "pavement": "Sidewalk ParkingBlock RoadShoulder",
        "tree": "Tree VegetationMisc",
        "sign_symbol": "SignSymbol Misc_Text TrafficLight",
        "car": "Car SUVPickupTruck Truck_Bus Train OtherMoving",
        "pedestrian": "Pedestrian Child CartLuggagePram Animal",
        "bicyclist": "Bicyclist MotorcycleScooter",
        "sky": "Sky",
        "fence": "Fence",
    }
    eleven = {name: big for big, names in groups.items() for name in names.split()}
    mapping = MAPPINGS["camvid32", "camvid11"]
    assert {name: CAMVID11.names[i] for name, i in mapping.items()} == eleven
    through = map_classes(CITYSCAPES19, CAMVID11)
    for name, fine in MAPPINGS["camvid32", "cityscapes19"].items():
        assert fine == 255 or CAMVID11.names[through[fine]] == eleven[name]


def test_classes_without_a_mapping_are_refused_with_the_known_ones():
    assert map_classes(CAMVID11, CAMVID11) == tuple(range(11))
    mine = ClassList(("lane", "verge"))
    with pytest.raises(ConfigError, match="lane, verge to camvid11: allowed are cityscapes19 to"):
        map_classes(mine, CAMVID11)


def test_the_page_lists_every_data_set_with_its_splits_and_counts():
    rows = [
        [cell.strip() for cell in line.strip("| \n").split("|")]
        for line in (ROOT / "docs" / "data_sets.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    assert [row[0].strip("`") for row in rows] == list(LAYOUTS)
    for (_, splits, encoding, terms, homepage), layout in zip(rows, LAYOUTS.values(), strict=True):
        counts = {name: "?" if s.count is None else s.count for name, s in layout.splits.items()}
        assert dict(part.rsplit(" ", 1) for part in splits.split(", ")) == {
            f"`{name}`": str(count) for name, count in counts.items()
        }
        assert encoding.startswith(type(layout.encoding).__name__.lower())
        assert terms == layout.license
        assert homepage == f"[{layout.title}]({layout.homepage})"
