"""`data check` and `data list`: splits, pairs and problems, each reported once."""

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
from causalseg.data.layout_data import LayoutData
from causalseg.errors import ConfigError, MissingFileError
from causalseg.jobs import check
from causalseg.jobs.check import check_data, check_pairs, list_problems
from causalseg.report.contact_sheet import draw_sheet
from command_line import run as command
from toytown import LAYOUT, plant, save, zipped


def split_of(city, count):
    images = f"img/val/{city}/{{name}}_img.png"
    labels = images.replace("img/", "gt/").replace("_img", "_id")
    return replace(LAYOUT.splits["val"], images=images, labels=labels, count=count)


@pytest.fixture
def town(tmp_path, monkeypatch) -> Path:
    """Three pairs of a layout whose split `all` is `bonn` and `ulm`; `train` is missing."""
    splits = {
        "train": replace(LAYOUT.splits["train"], count=400),
        "bonn": split_of("{city:bonn}", 1),
        "ulm": split_of("{city:ulm}", 2),
        "all": split_of("{city}", 3),
    }
    monkeypatch.setitem(LAYOUTS, "toytown", replace(LAYOUT, splits=splits))
    return plant(tmp_path / "toytown")


def cells(findings) -> dict[str, tuple[str, str]]:
    """Name -> pairs and problems, as the table has them."""
    names, *columns = (list(column.cells) for column in check.make_table(findings).columns[:3])
    return dict(zip(names, zip(*columns, strict=True), strict=True))


def test_missing_splits_are_no_problem_unless_asked_for(town):
    findings = check_data("toytown", root=town)
    assert list_problems(findings) == []
    pairs = {"train": "not there", "bonn": "1", "ulm": "2", "all": "3"}
    assert cells(findings) == {f"toytown {name}": (text, "0") for name, text in pairs.items()}
    (line,) = list_problems(check_data("toytown", root=town, split="train"))
    assert "has no images of Toytown (Doe et al., 2020), split 'train'" in line


def test_a_root_without_any_split_shows_the_expected_files(town, tmp_path):
    (tmp_path / "empty").mkdir()
    (line,) = list_problems(check_data("toytown", root=tmp_path / "empty"))
    assert line.startswith("toytown train: folder ")
    assert "img/train/{city}/{name}_img.png" in line
    with pytest.raises(MissingFileError, match="no folder or zip file .*gone"):
        check_data("toytown", root=tmp_path / "gone")


def test_a_split_with_images_or_labels_alone_is_told_apart(town, monkeypatch):
    save(town / "gt/train/bonn/a_id.png", np.zeros((4, 6)))
    findings = check_data("toytown", root=town)
    assert list_problems(findings) == []
    assert cells(findings)["toytown train"] == ("only labels", "0")
    (town / "gt/train/bonn/a_id.png").unlink()
    save(town / "img/train/bonn/a_img.png", np.zeros((4, 6, 3)))
    (line,) = list_problems(check_data("toytown", root=town))
    assert "has no labels of Toytown (Doe et al., 2020), split 'train'" in line
    splits = LAYOUTS["toytown"].splits
    spare = {**splits, "train": replace(splits["train"], spare="images")}
    monkeypatch.setitem(LAYOUTS, "toytown", replace(LAYOUTS["toytown"], splits=spare))
    findings = check_data("toytown", root=town)
    assert list_problems(findings) == []
    assert cells(findings)["toytown train"] == ("not there", "0")


def test_zips_are_checked_like_folders_and_a_broken_one_is_a_problem(town):
    zipped(town / "gt", town / "gt.zip")
    shutil.rmtree(town / "gt")
    assert list_problems(check_data("toytown", root=town)) == []
    (town / "train.zip").write_bytes(b"no zip")
    (line,) = list_problems(check_data("toytown", root=town))
    assert line.startswith("toytown train: ")
    assert "train.zip" in line


def test_pairs_in_several_splits_are_read_once(town, monkeypatch):
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
    assert both.sizes == {(4, 6): 3}
    findings = check_data("toytown", root=town, sheet=town.parent / "sheet.png")
    assert [len(each.examples) for each in findings] == [0, 1, 2, 0]


def test_any_number_of_processes_has_the_same_findings(town):
    (town / "gt/val/ulm/a_id.png").write_bytes(b"no image")
    alone, together = (check_data("toytown", root=town, workers=workers) for workers in (0, 2))
    assert list_problems(together) == list_problems(alone) != []
    assert [each.pixels.tolist() for each in alone] == [each.pixels.tolist() for each in together]
    with pytest.raises(ConfigError, match="workers -1: give 0 or more"):
        check_data("toytown", root=town, workers=-1)


def test_labels_with_another_table_are_read_again(town):
    known = {}
    ids = LAYOUTS["toytown"].encoding.train_ids
    for train_ids, expected in ((ids, [24, 24, 24]), ({**ids, 7: 1}, [0, 48, 24])):
        layout = replace(LAYOUTS["toytown"], encoding=replace(LAYOUT.encoding, train_ids=train_ids))
        data = LayoutData(layout, "all", town)
        assert check_pairs("x", data, LAYOUT.classes, known).pixels.tolist() == expected


def test_a_problem_of_two_splits_is_printed_once_and_only_the_first_of_many(town):
    (town / "gt/val/ulm/a_id.png").write_bytes(b"no image")
    findings = check_data("toytown", root=town)
    assert [len(each.problems) for each in findings] == [0, 0, 1, 1]
    (line,) = list_problems(findings)
    assert line.startswith("toytown ulm, toytown all: cannot read label ")
    for number in range(7):
        save(town / f"img/val/ulm/x{number}_img.png", np.zeros((4, 6, 3)))
        save(town / f"gt/val/ulm/x{number}_id.png", np.full((4, 6), 90 + number))
    lines = list_problems(check_data("toytown", root=town, split="ulm"))
    assert "x0_id.png has ids [90]" in lines[1]
    assert lines[5:] == ["toytown ulm: 3 more"]


def test_an_incomplete_download_is_a_problem_with_both_numbers(town, capsys):
    (town / "gt/val/ulm/a_id.png").unlink()
    (findings,) = check_data("toytown", root=town, split="ulm")
    assert (findings.count, len(findings.problems)) == (1, 2)  # unpaired, and fewer than published
    assert "images without label (1): img/val/ulm/a_img.png" in findings.problems[0]
    assert findings.pixels.sum() == 24  # the other pair is read
    (town / "img/val/ulm/a_img.png").unlink()
    both = cells(check_data("toytown", root=town))
    assert (both["toytown ulm"], both["toytown all"]) == (("1 of 2", "1"), ("2 of 3", "1"))
    assert command("data", "check", "toytown", "--root", town) == 2
    error = capsys.readouterr().err.splitlines()
    assert "1 of 2 published pairs are there: complete the download" in error[1]
    assert error[-1] == "usable: toytown bonn"
    assert command("data", "check", "toytown", "--root", town, "--split", "bonn") == 0


def test_a_sheet_is_a_png_or_refused_before_anything_is_read(town):
    with pytest.raises(ConfigError, match="the sheet is a PNG, give a name that ends in .png"):
        check_data("toytown", root=town / "gone", sheet=town / "x.jpg")
    check_data("toytown", root=town, sheet=town.parent / "sheet.PNG")
    with Image.open(town.parent / "sheet.PNG") as image:
        assert image.format == "PNG"


def test_a_sheet_shows_every_class_of_every_class_list(town, tmp_path):
    samples = [LayoutData(LAYOUTS["toytown"], "bonn", town)[0]]
    lists = (CAMVID11, CLASS_LISTS["idd7"])
    draw_sheet([("x", classes, samples) for classes in lists * 2], tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        colours = {colour[:3] for _, colour in image.convert("RGB").getcolors(2**24)}
    assert {*CAMVID11.palette, *CLASS_LISTS["idd7"].palette} <= colours


def test_resized_labels_are_counted_and_stretched_ones_a_problem(town, monkeypatch):
    resized = replace(LAYOUTS["toytown"], is_label_resized=True)
    monkeypatch.setitem(LAYOUTS, "toytown", resized)
    save(town / "gt/val/ulm/a_id.png", np.full((8, 12), 7))
    findings = check_data("toytown", root=town, split="all")
    (sizes,) = check.make_table(findings).columns[3].cells
    assert sizes.endswith("1 labels resized to their images")
    save(town / "gt/val/ulm/a_id.png", np.full((8, 8), 7))
    (line,) = list_problems(check_data("toytown", root=town, split="all"))
    assert "is 6 x 4 pixels and its label" in line
    assert line.endswith("is 8 x 8: they must be the same proportions")


def test_classes_are_listed_by_frequency_with_the_absent_ones(town):
    findings = check_data("toytown", root=town)
    assert check.list_classes(findings)[0] == "toytown bonn: road 50, car 50"
    save(town / "gt/val/bonn/a_id.png", np.full((4, 6), 8))
    (line,) = check.list_classes(check_data("toytown", root=town, split="bonn"))
    assert line == "toytown bonn: car 100; none of road"


def test_a_layout_is_described_with_its_files_and_archives(capsys):
    assert command("data", "list", "camvid32") == 0
    assert "701_StillsRaw_full/{name:0006R0_f" in capsys.readouterr().out
    assert command("data", "list", "gtav", "--short") == 0
    assert capsys.readouterr().out.startswith("gtav: train 24,966; https://")
    assert command("data", "list") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in LAYOUTS)
    mapillary = LAYOUTS["mapillary_v1"].describe("mapillary_v1")
    assert "training/v1.2/labels/{name}.png or training/labels/{name}.png" in mapillary
