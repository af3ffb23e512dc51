"""Layouts that are missing, broken, in parts or in two folders, and what the errors say."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from causalseg.data.files import open_files
from causalseg.data.layout_data import LayoutData, find_splits
from causalseg.errors import DataError, MissingFileError
from toytown import LAYOUT, expect, names, plant, save, with_split, zipped


@pytest.fixture
def tree(tmp_path) -> Path:
    return plant(tmp_path / "toytown")


def test_a_wrong_root_shows_the_expected_tree_beside_what_was_found(tmp_path):
    for number in range(12):
        save(tmp_path / f"photo{number:02d}.png", [[0]])
    save(tmp_path / "img/train/ulm/a_img.png", [[0]])
    zipped(tmp_path / "img", tmp_path / "a.zip", "other/")
    with pytest.raises(MissingFileError) as caught:
        LayoutData(LAYOUT, "val", tmp_path)
    assert str(caught.value) == "\n".join(
        [
            f"folder {tmp_path} with a.zip has no images of {LAYOUT.title}, split 'val'",
            "expected in it, below any folders, unpacked or in zip files:",
            "  img/val/{city}/{name}_img.png",
            "  gt/val/{city}/{name}_id.png",
            "found in it:",
            "  a.zip (zip file)",
            "  img/ (1 file)",
            "  other/ (1 file)",
            *(f"  photo{number:02d}.png" for number in range(5)),
            "  ... and 7 more",
            "other splits are there: train",
            "give the folder of the expected tree as root, or get it from https://toytown.example",
            "published as img.zip, gt.zip: zip files are read as they are, or unpacked",
        ]
    )


def test_an_empty_and_a_missing_root_are_told_apart(tmp_path):
    with pytest.raises(MissingFileError, match="found in it:\n  nothing\n"):
        LayoutData(replace(LAYOUT, archives=()), "val", tmp_path)
    with pytest.raises(MissingFileError, match="no folder or zip file .*gone"):
        LayoutData(LAYOUT, "val", tmp_path / "gone")


def test_a_folder_that_holds_all_is_looked_into(tmp_path):
    for part in ("images", "labels"):
        save(tmp_path / f"town/seg/{part}/a.png", [[0]])
    expected = r"found in it:\n  town/seg/images/ \(1 file\)\n  town/seg/labels/ \(1 file\)\n"
    with pytest.raises(MissingFileError, match=expected):
        LayoutData(LAYOUT, "val", tmp_path)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("gt/val/ulm/b_id.png", r"images without label \(1\): img/val/ulm/b_img.png; complete"),
        ("img/val/ulm/b_img.png", r"labels without image \(1\): gt/val/ulm/b_id.png; complete"),
    ],
)
def test_a_missing_partner_is_named_unless_it_is_published_so(tree, gone, message):
    (tree / gone).unlink()
    spare, other = ("images", "labels") if gone.startswith("gt") else ("labels", "images")
    for layout in (LAYOUT, with_split(spare=other)):
        with pytest.raises(DataError, match=message):
            LayoutData(layout, "val", tree)
    assert names(LayoutData(with_split(spare=spare), "val", tree)) == ["bonn__a", "ulm__a"]


def test_many_missing_partners_are_counted(tree):
    for number in range(10):
        save(tree / f"img/val/ulm/{number}_img.png", [[0]])
    with pytest.raises(DataError, match=r"images without label \(10\): .*/7_img.png and 2 more"):
        LayoutData(LAYOUT, "val", tree)


def test_a_split_of_spare_images_without_a_single_pair_is_refused(tree):
    (tree / "img/val/bonn").rename(tree / "img/val/elsewhere")
    shutil.rmtree(tree / "img/val/ulm")
    with pytest.raises(DataError, match=r"labels without image \(3\)"):
        LayoutData(with_split(spare="images"), "val", tree)


@pytest.mark.parametrize(("part", "what"), [("img", "images"), ("gt", "labels")])
def test_two_folders_are_both_named(tree, part, what):
    shutil.copytree(tree / part, tree / "backup" / part)
    expected = f"{what} .* are in 2 folders, such as {tree} and {tree / 'backup'}: merge them if"
    with pytest.raises(DataError, match=expected):
        LayoutData(LAYOUT, "val", tree)


PARTS = replace(LAYOUT, archives=("1_img.zip", "2_img.tar.gz", "gt.rar"))


def in_parts(tree: Path) -> Path:
    """The archives unpacked, each into a folder of its name."""
    for number, city in enumerate(("bonn", "ulm"), start=1):
        (tree / f"{number}_img/img/val").mkdir(parents=True)
        (tree / "img/val" / city).rename(tree / f"{number}_img/img/val" / city)
    (tree / "gt").rename(tree / "labels")
    (tree / "gt").mkdir()
    (tree / "labels").rename(tree / "gt/gt")
    return tree


def test_archives_unpacked_each_into_a_folder_of_its_name_are_one_place(tree):
    expect(LayoutData(PARTS, "val", in_parts(tree)))
    expect(LayoutData(PARTS, "val", tree.parent))
    with pytest.raises(DataError, match="are in 2 folders"):
        LayoutData(LAYOUT, "val", tree)


def test_one_file_in_two_such_folders_is_refused(tree):
    in_parts(tree)
    shutil.copytree(tree / "1_img/img/val/bonn", tree / "2_img/img/val/bonn")
    with pytest.raises(DataError, match=f"in 2 folders, such as {tree / '1_img'} and {tree / '2'}"):
        LayoutData(PARTS, "val", tree)


def test_archives_that_are_no_zips_are_to_be_unpacked(tmp_path):
    (tmp_path / "gt.rar").touch()
    with pytest.raises(MissingFileError) as caught:
        LayoutData(PARTS, "val", tmp_path)
    assert str(caught.value).endswith(
        "published as 1_img.zip: zip files are read as they are, or unpacked; "
        "2_img.tar.gz, gt.rar: unpack it first"
    )


def test_fewer_pairs_than_published_are_counted_unless_the_number_is_not_settled(tree):
    assert LayoutData(with_split(count=3), "val", tree).shortfall == ""
    assert LayoutData(LAYOUT, "val", tree).shortfall == ""
    short = LayoutData(with_split(count=1400), "val", tree, every=2)
    assert short.shortfall == "3 of 1,400 published pairs are there: complete the download"
    assert (short.num_published, len(short)) == (1400, 2)
    spare = LayoutData(with_split(count=1400, spare="images"), "val", tree)
    assert spare.shortfall == short.shortfall


def test_splits_with_images_are_found_in_folders_and_zips(tree):
    assert find_splits(LAYOUT, open_files(tree)) == ["val"]
    save(tree / "img/train/ulm/a_img.png", [[0]])
    assert find_splits(LAYOUT, open_files(tree)) == ["train", "val"]
    spare = {name: replace(about, spare="images") for name, about in LAYOUT.splits.items()}
    assert find_splits(replace(LAYOUT, splits=spare), open_files(tree)) == ["val"]
    zipped(tree / "img/val/ulm", tree.parent / "zips/img/val.zip")
    assert find_splits(LAYOUT, open_files(tree.parent / "zips")) == ["val"]


def test_images_that_differ_only_in_their_ending_are_refused(tree):
    save(tree / "img/val/ulm/a_img.jpg", np.zeros((4, 6, 3)))
    layout = with_split(images="img/val/{city}/{name}_img.{ending}")
    with pytest.raises(DataError, match=r"a_img.jpg and .*a_img.png have the same name but for"):
        LayoutData(layout, "val", tree)


@pytest.mark.parametrize("gone", ["gt", "gt/val/ulm", "img"])
def test_a_broken_zip_is_named_if_it_may_hold_what_is_missing(tree, gone):
    zipped(tree / "gt", tree / "gt.zip")
    (tree / "gt.zip").write_bytes((tree / "gt.zip").read_bytes()[:150])
    expect(LayoutData(LAYOUT, "val", tree))
    short = LayoutData(with_split(count=4), "val", tree).shortfall
    assert "3 of 4 published pairs" in short
    broken = r"it may be in a broken zip file: cannot open .*gt.zip: .*download it again"
    assert re.search(broken, short)
    shutil.rmtree(tree / gone)
    with pytest.raises(DataError, match=broken):
        LayoutData(LAYOUT, "val", tree)
