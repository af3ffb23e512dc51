"""`data check`: what is told of a layout's splits, of pairs and of problems, each told once."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from causalseg.data.catalogue import CLASS_LISTS, LAYOUTS
from causalseg.data.catalogue.camvid import CAMVID11
from causalseg.data.dataset import PairData
from causalseg.data.inspect import check_pairs, draw_sheet
from causalseg.data.layout_data import LayoutData
from causalseg.errors import ConfigError, MissingFileError
from causalseg.jobs import check
from causalseg.jobs.check import check_data, describe_layout, list_problems
from command_line import run as command
from toytown import LAYOUT, plant, save, zipped

SPLITS = {
    "train": replace(LAYOUT.splits["train"], count=400),
    **{
        city: replace(
            LAYOUT.splits["val"], images=f"img/val/{{city:{city}}}/{{name}}_img.png", count=count
        )
        for city, count in (("bonn", 1), ("ulm", 2))
    },
    "all": replace(LAYOUT.splits["val"], count=3),
}


@pytest.fixture
def town(tmp_path, monkeypatch) -> Path:
    """Three pairs of a layout whose split `all` is `bonn` and `ulm`; `train` is not there."""
    splits = {
        name: replace(each, labels=each.images.replace("img/", "gt/").replace("_img", "_id"))
        for name, each in SPLITS.items()
    }
    monkeypatch.setitem(LAYOUTS, "toytown", replace(LAYOUT, splits=splits))
    return plant(tmp_path / "toytown")


def told(findings) -> dict[str, tuple[int, int]]:
    return {each.name: (each.count, len(each.problems)) for each in findings if not each.absent}


def cells(findings) -> dict[str, tuple[str, str]]:
    """Name -> pairs and problems, as the table has them."""
    names, *columns = (list(column.cells) for column in check.table(findings).columns[:3])
    return dict(zip(names, zip(*columns, strict=True), strict=True))


def test_splits_that_were_not_downloaded_are_no_problem(town):
    found = check_data("toytown", root=town)
    assert list_problems(found) == []
    assert cells(found) == {
        "toytown train": ("not there", "0"),
        "toytown bonn": ("1", "0"),
        "toytown ulm": ("2", "0"),
        "toytown all": ("3", "0"),
    }


def test_a_split_that_is_asked_for_has_to_be_there(town):
    (line,) = list_problems(check_data("toytown", root=town, split="train"))
    assert "has no images of Toytown (Doe et al., 2020), split 'train'" in line


def test_no_split_at_all_is_one_problem_that_shows_what_is_expected(town, tmp_path):
    (tmp_path / "empty").mkdir()
    (line,) = list_problems(check_data("toytown", root=tmp_path / "empty"))
    assert line.startswith("toytown train: folder ")
    assert "img/train/{city}/{name}_img.png" in line


def test_a_root_that_is_not_there_is_one_error(town, tmp_path):
    with pytest.raises(MissingFileError, match="no folder or zip file .*gone"):
        check_data("toytown", root=tmp_path / "gone")


def test_a_split_without_labels_is_a_problem_unless_only_a_part_has_any(town, monkeypatch):
    save(town / "img/train/bonn/a_img.png", np.zeros((4, 6, 3)))
    (line,) = list_problems(check_data("toytown", root=town))
    assert "has no labels of Toytown (Doe et al., 2020), split 'train'" in line
    splits = LAYOUTS["toytown"].splits
    spare = {**splits, "train": replace(splits["train"], spare="images")}
    monkeypatch.setitem(LAYOUTS, "toytown", replace(LAYOUTS["toytown"], splits=spare))
    found = check_data("toytown", root=town)
    assert list_problems(found) == []
    assert cells(found)["toytown train"] == ("not there", "0")


def test_labels_of_a_split_without_its_images_are_told(town):
    save(town / "gt/train/bonn/a_id.png", np.zeros((4, 6)))
    found = check_data("toytown", root=town)
    assert list_problems(found) == []
    assert cells(found)["toytown train"] == ("labels alone", "0")


def test_a_split_that_may_be_in_a_broken_zip_is_a_problem(town):
    (town / "train.zip").write_bytes(b"no zip")
    (line,) = list_problems(check_data("toytown", root=town))
    assert line.startswith("toytown train: ")
    assert "train.zip is not a zip file" in line


def test_pairs_of_a_split_made_of_others_are_read_once(town, monkeypatch):
    reads = Counter()
    read = PairData.read_image

    def counting(self, index):
        reads[self.pairs[index]] += 1
        return read(self, index)

    monkeypatch.setattr(PairData, "read_image", counting)
    _, bonn, ulm, both = check_data("toytown", root=town)
    assert len(reads) == 3
    assert set(reads.values()) == {1}
    assert both.pixels.tolist() == (bonn.pixels + ulm.pixels).tolist() == [24, 24, 24]
    assert both.images.tolist() == [3, 3]
    assert both.sizes == {(4, 6): 3}
    found = check_data("toytown", root=town, sheet=town.parent / "sheet.png")
    assert [len(each.examples) for each in found] == [0, 1, 2, 0]


def test_any_number_of_processes_finds_the_same(town):
    (town / "gt/val/ulm/a_id.png").write_bytes(b"no picture")
    alone, together = (check_data("toytown", root=town, workers=workers) for workers in (0, 2))
    assert list_problems(alone)
    assert list_problems(together) == list_problems(alone)
    for one, other in zip(alone, together, strict=True):
        assert one.pixels.tolist() == other.pixels.tolist()
        assert (one.images.tolist(), one.sizes) == (other.images.tolist(), other.sizes)
    with pytest.raises(ConfigError, match="workers -1: 0 or more"):
        check_data("toytown", root=town, workers=-1)


def test_labels_that_are_read_in_another_way_are_read_again(town):
    looks = {}
    ids = LAYOUTS["toytown"].encoding.train_ids
    for train_ids, expected in ((ids, [24, 24, 24]), ({**ids, 7: 1}, [0, 48, 24])):
        layout = replace(LAYOUTS["toytown"], encoding=replace(LAYOUT.encoding, train_ids=train_ids))
        data = check.LayoutData(layout, "all", town)
        assert check_pairs("x", data, LAYOUT.classes, looks=looks).pixels.tolist() == expected


def test_a_problem_of_two_splits_is_told_once_and_counted_in_both(town):
    (town / "gt/val/ulm/a_id.png").write_bytes(b"no picture")
    found = check_data("toytown", root=town)
    assert told(found) == {"toytown bonn": (1, 0), "toytown ulm": (2, 1), "toytown all": (3, 1)}
    (line,) = list_problems(found)
    assert line.startswith("toytown ulm, toytown all: cannot read label ")


def test_only_the_first_problems_of_a_split_are_told(town):
    for number in range(8):
        save(town / f"img/val/ulm/x{number}_img.png", np.zeros((4, 6, 3)))
        save(town / f"gt/val/ulm/x{number}_id.png", np.full((4, 6), 90 + number))
    lines = list_problems(check_data("toytown", root=town, split="ulm"))
    assert ["x0_id.png has ids [90]" in lines[0], lines[5]] == [True, "toytown ulm: 3 more"]


def test_an_incomplete_download_is_a_problem_with_both_numbers(town, capsys):
    (town / "img/val/ulm/a_img.png").unlink()
    (town / "gt/val/ulm/a_id.png").unlink()
    found = check_data("toytown", root=town)
    assert cells(found)["toytown ulm"] == ("1 of 2", "1")
    assert cells(found)["toytown all"] == ("2 of 3", "1")
    assert "1 of 2 published pairs are there: complete the download" in list_problems(found)[0]
    assert command("data", "check", "toytown", "--root", town) == 2
    assert "1 of 2 published pairs are there" in capsys.readouterr().err
    assert command("data", "check", "toytown", "--root", town, "--split", "bonn") == 0


def test_pairs_are_read_although_others_are_not_complete(town):
    (town / "gt/val/ulm/b_id.png").unlink()
    found = check_data("toytown", root=town, split="ulm")
    assert told(found) == {"toytown ulm": (1, 2)}  # one without label, and fewer than published
    assert "images without label (1): img/val/ulm/b_img.png" in found[0].problems[0]
    assert found[0].pixels.sum() == 24


def test_a_zip_of_labels_is_checked_like_a_folder(town):
    zipped(town / "gt", town / "gt.zip")
    shutil.rmtree(town / "gt")
    assert list_problems(check_data("toytown", root=town)) == []


@pytest.mark.parametrize("name", ["x.jpg", "x.pdf", "x"])
def test_a_sheet_that_would_be_no_png_is_refused_before_anything_is_read(name, tmp_path):
    with pytest.raises(ConfigError, match="the sheet is a PNG, give a name that ends in .png"):
        check_data("toytown", root=tmp_path / "gone", sheet=tmp_path / name)


def test_a_sheet_is_drawn_whatever_the_case_of_its_ending(town):
    sheet = town.parent / "sheet.PNG"
    check_data("toytown", root=town, sheet=sheet)
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"


def test_a_sheet_shows_every_class_of_every_class_list(town, tmp_path):
    pairs = LayoutData(LAYOUTS["toytown"], "bonn", town)  # one image
    found = [
        check_pairs(str(i), pairs, classes)
        for i, classes in enumerate((CAMVID11, CLASS_LISTS["idd7"]) * 2)
    ]
    draw_sheet(found, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        colours = {colour[:3] for _, colour in picture.convert("RGB").getcolors(2**24)}
    assert {*CAMVID11.palette, *CLASS_LISTS["idd7"].palette} <= colours


def test_labels_resized_to_their_images_are_counted_and_stretched_ones_a_problem(town, monkeypatch):
    resized = replace(LAYOUTS["toytown"], is_label_resized=True)
    monkeypatch.setitem(LAYOUTS, "toytown", resized)
    save(town / "gt/val/ulm/a_id.png", np.full((8, 12), 7))
    found = check_data("toytown", root=town, split="all")
    (sizes,) = check.table(found).columns[3].cells
    assert sizes.endswith("1 labels resized to their images")
    save(town / "gt/val/ulm/a_id.png", np.full((8, 8), 7))
    (line,) = list_problems(check_data("toytown", root=town, split="all"))
    assert "is 6 x 4 pixels and its label" in line
    assert line.endswith("is 8 x 8: they must be the same proportions")


def test_classes_are_listed_from_the_most_common_with_those_that_never_occur(town):
    save(town / "gt/val/ulm/a_id.png", np.full((4, 6), 7))
    found = check_data("toytown", root=town)
    lines = check.list_classes(found)
    assert lines[0] == "toytown bonn: road 50, car 50"
    save(town / "gt/val/bonn/a_id.png", np.full((4, 6), 8))
    assert check.list_classes(check_data("toytown", root=town, split="bonn")) == [
        "toytown bonn: car 100; none of road"
    ]


def test_the_command_says_what_can_be_used_although_something_cannot(town, capsys):
    (town / "gt/val/ulm/a_id.png").write_bytes(b"cut")
    assert command("data", "check", "toytown", "--root", town) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith("these are not complete or cannot be used:")
    assert all(line.startswith("  toytown") for line in said[1:-1])
    assert said[-1] == "The others can be used: toytown bonn"


def test_splits_that_differ_by_an_expression_show_it():
    assert "701_StillsRaw_full/{name:0006R0_f" in describe_layout("camvid32")
    assert "{name}_leftImg8bit.png" in describe_layout("cityscapes")


def test_a_layout_tells_what_to_do_with_its_archives():
    assert "published as SYNTHIA_RAND_CITYSCAPES.rar: unpack it first" in describe_layout("synthia")
    text = describe_layout("mapillary_v1")
    assert "public_v2.0.zip, mapillary-vistas-dataset_public_v1.2.zip: zip files are read" in text
    assert "training/v1.2/labels/{name}.png or training/labels/{name}.png" in text
