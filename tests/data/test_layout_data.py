"""Layouts: pairs found by templates in folders and zips, what they hold, and what is refused."""

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from causalseg.data.layout_data import LayoutData
from causalseg.data.layouts import Colours, Ids, Polygons
from causalseg.errors import ConfigError, DataError, MissingFileError
from toytown import LAYOUT, expect, names, plant, save, with_split, zipped


@pytest.fixture
def tree(tmp_path) -> Path:
    return plant(tmp_path / "toytown")


def test_pairs_come_in_the_order_of_paths_with_names_that_are_file_names(tree):
    data = LayoutData(LAYOUT, "val", tree)
    assert data.names == ["bonn__a_img", "ulm__a_img", "ulm__b_img"]
    assert len(data) == 3
    expect(data)


def test_every_kth_pair_is_used(tree):
    assert names(LayoutData(LAYOUT, "val", tree, every=2)) == ["bonn__a", "ulm__b"]


@pytest.mark.parametrize("above", [("", ""), ("toytown_v2/", ""), ("x/y/", "z/")])
def test_folders_above_and_zips_do_not_matter(tree, above):
    for part, folder in zip(("img", "gt"), above, strict=True):
        (tree / folder).mkdir(parents=True, exist_ok=True)
        if folder:
            shutil.move(tree / part, tree / folder / part)
    expect(LayoutData(LAYOUT, "val", tree))
    expect(LayoutData(LAYOUT, "val", tree.parent))
    for part, folder in zip(("img", "gt"), above, strict=True):
        zipped(tree / folder / part, tree.parent / f"zips/{part}_all.zip", folder)
    expect(LayoutData(LAYOUT, "val", tree.parent / "zips"))
    zipped(tree / above[0] / "img", tree / "img.zip", above[0])  # beside its own files
    expect(LayoutData(LAYOUT, "val", tree))


def test_one_zip_may_be_the_root_and_only_labels_may_be_zipped(tree, tmp_path):
    zipped(tree, tmp_path / "all.zip")
    expect(LayoutData(LAYOUT, "val", tmp_path / "all.zip"))
    zipped(tree / "gt", tree / "gt.zip")
    shutil.rmtree(tree / "gt")
    expect(LayoutData(LAYOUT, "val", tree))


def test_images_in_several_zips_are_one_set(tree, tmp_path):
    for part in ("img", "gt"):
        for place in ("bonn", "ulm"):
            folder = tree / part / "val" / place
            zipped(folder, tmp_path / "zips" / f"{place}_{part}.zip", f"{part}/val/")
    expect(LayoutData(LAYOUT, "val", tmp_path / "zips"))


def test_bare_files_in_a_zip_lie_in_a_folder_of_its_name(tree, tmp_path):
    for part in ("img", "gt"):
        out = tmp_path / "zips" / part / "val.zip"
        out.parent.mkdir(parents=True)
        with zipfile.ZipFile(out, "w") as archive:
            for file in sorted((tree / part).rglob("*.png")):
                archive.write(file, file.relative_to(tree / part / "val").as_posix())
    expect(LayoutData(LAYOUT, "val", tmp_path / "zips"))


def test_labels_may_be_colours_or_polygons(tree):
    colours = Colours({(128, 64, 128): 0, (0, 0, 142): 1, (9, 9, 9): 255})
    palette = np.zeros((9, 3))
    palette[[7, 8, 0]] = list(colours.train_ids)
    ring = "[[{0}, 0], [{1}, 0], [{1}, 3], [{0}, 3]]"
    objects = (
        f'{{"label": "way", "polygon": {ring.format(0, 1)}}}, '
        f'{{"label": "bus", "polygon": {ring.format(2, 3)}}}'
    )
    for file in (tree / "gt").rglob("*.png"):
        file.with_suffix(".json").write_text(
            f'{{"imgHeight": 4, "imgWidth": 6, "objects": [{objects}]}}'
        )
        save(file, palette[np.asarray(Image.open(file))])
    expect(LayoutData(replace(LAYOUT, encoding=colours), "val", tree))
    polygons = replace(LAYOUT, encoding=Polygons({"way": 0, "bus": 1, "plate": -1}))
    expect(LayoutData(with_split(polygons, labels="{city}/{name}_id.json"), "val", tree))


def test_a_label_may_belong_to_several_images(tree):
    for name in ("a", "b"):
        file = tree / f"img/val/ulm/{name}_img.png"
        file.rename(file.with_name(f"x_{name}_img.png"))
        (tree / f"gt/val/ulm/{name}_id.png").rename(tree / "gt/val/ulm/x_id.png")
    (tree / "img/val/bonn/a_img.png").rename(tree / "img/val/bonn/a_q_img.png")
    layout = with_split(images="img/val/{city}/{name:[ax]}_{fog}_img.png")
    data = LayoutData(layout, "val", tree)
    assert [label.rpartition("/")[2] for _, label in data.pairs] == [
        "a_id.png",
        "x_id.png",
        "x_id.png",
    ]


def test_raw_label_ids_and_their_table_can_be_looked_at(tree):
    data = LayoutData(LAYOUT, "val", tree)
    assert np.unique(data.read_label_ids(0)).tolist() == [0, 7, 8]
    assert data.labels.table == {7: 0, 8: 1, 0: 255}
    assert data.read_image(1).shape == (3, 4, 6)
    assert data.pairs[2] == ("img/val/ulm/b_img.png", "gt/val/ulm/b_id.png")
    assert data.describe() == f"Toytown (Doe et al., 2020), split 'val', in folder {tree}"


def test_an_unknown_split_is_refused_with_a_hint(tree):
    with pytest.raises(ConfigError, match=r"no split 'vall': did you mean 'val'\? Allowed: train"):
        LayoutData(LAYOUT, "vall", tree)


def test_of_several_trees_of_labels_the_first_that_is_there_counts(tree):
    trees = ("new/val/{city}/{name}_id.png", LAYOUT.splits["val"].labels)
    layout = with_split(labels=trees)
    expect(LayoutData(layout, "val", tree))
    shutil.copytree(tree / "gt", tree / "new")
    for file in (tree / "gt").rglob("*.png"):
        save(file, np.zeros((4, 6)))
    expect(LayoutData(layout, "val", tree))
    shutil.rmtree(tree / "gt")
    shutil.rmtree(tree / "new")
    with pytest.raises(MissingFileError) as caught:
        LayoutData(layout, "val", tree)
    both = "  new/val/{city}/{name}_id.png or gt/val/{city}/{name}_id.png\n"
    assert both in str(caught.value)


def test_a_layout_that_contradicts_itself_is_refused(tree):
    with pytest.raises(ConfigError, match="has fields that the template of images lacks: number"):
        LayoutData(with_split(labels="gt/val/{city}/{number}.png"), "val", tree)
    for encoding, label in (
        (Ids({9: 2}), "9"),
        (Colours({(1, 2, 3): 2}), r"\(1, 2, 3\)"),
        (Polygons({"way": 2, "plate": -1}), "way"),
        (Ids({9: -1}), "9"),
    ):
        expected = f"layout Toytown .* sends label id {label} to (2|-1): train ids are 0..1, or 255"
        with pytest.raises(ConfigError, match=expected):
            LayoutData(replace(LAYOUT, encoding=encoding), "val", tree)


def test_an_unknown_id_names_file_and_id_even_in_a_zip(tree):
    save(tree / "gt/val/ulm/a_id.png", np.full((4, 6), 33))
    zipped(tree / "gt", tree / "gt.zip")
    shutil.rmtree(tree / "gt")
    expected = (
        r"gt.zip: gt/val/ulm/a_id.png has ids \[33\] .* 0, 7..8; correct .* labels of Toytown"
    )
    with pytest.raises(DataError, match=expected):
        LayoutData(LAYOUT, "val", tree)[1]


def test_labels_of_another_size_are_refused_or_brought_to_the_images(tree):
    save(tree / "gt/val/ulm/a_id.png", np.tile([7, 8, 0], (2, 1)))
    with pytest.raises(DataError, match=r"a_img.png is 6 x 4 pixels .*a_id.png is 3 x 2"):
        LayoutData(LAYOUT, "val", tree)[1]
    expect(LayoutData(replace(LAYOUT, is_label_resized=True), "val", tree))


@pytest.mark.parametrize("part", ["img/val/ulm/a_img.png", "gt/val/ulm/a_id.png"])
def test_unreadable_files_are_named(tree, part):
    data = LayoutData(LAYOUT, "val", tree)
    (tree / part).write_bytes(b"no picture")
    kind = "image" if part.startswith("img") else "label"
    with pytest.raises(DataError, match=f"cannot read {kind} .*{part}: it is no image"):
        data[1]
    (tree / part).unlink()
    with pytest.raises(DataError, match=f"cannot read .*{part}: .*No such file"):
        data[1]


@pytest.mark.slow
def test_spawned_workers_read_from_a_zip(tree):
    zipped(tree, tree.parent / "all.zip")
    data = LayoutData(LAYOUT, "val", tree.parent / "all.zip")
    expect(data)  # opens the zip in this process first
    loader = DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    for ours, theirs in zip(data, loader, strict=True):
        assert ours.name == theirs.name
        assert torch.equal(ours.image, theirs.image)
        assert torch.equal(ours.label, theirs.label)
