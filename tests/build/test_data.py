"""From options to data: where it lies, what cannot be used together, what is said of gaps."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from causalseg.build.data import (
    build_data,
    build_domains,
    build_draws,
    list_pairs,
    with_classes_inside,
)
from causalseg.build.pairs import build_classes
from causalseg.config.inference import InferenceConfig
from causalseg.config.load import parse_config
from causalseg.data.catalogue import LAYOUTS
from causalseg.errors import ConfigError, DataError, MissingFileError
from conftest import write_folder
from toytown import LAYOUT, plant

SCENES = {"type": "scenes", "count": 1, "size": [32, 32]}
TOWN = {"layout": "toytown", "split": "val"}


def build_sources(data):
    return build_data(data, InferenceConfig())[0]


def data_of(**options):
    """The block `data`; one scene is trained on and one is scored unless the options say else."""
    scenes = {"sources": [{**SCENES, "first": 9}], "domains": {"clear": SCENES}}
    return parse_config({"adapter": "none", "head": "linear", "data": {**scenes, **options}}).data


@pytest.fixture
def town(tmp_path, monkeypatch) -> Path:
    """A published data set of three pairs in tmp_path/toytown, by its name."""
    monkeypatch.setitem(LAYOUTS, "toytown", LAYOUT)
    return plant(tmp_path / "toytown")


def town_of(root, sources=(TOWN,), **options):
    given = {"classes": ["road", "car"], "sources": list(sources), "domains": {"town": sources[0]}}
    return data_of(**{**given, "root": root and str(root), **options})


def folder_of(root, sources=({"images": "images", "labels": "labels"},), **options):
    given = {"classes": ["a", "b", "c"], "sources": list(sources), "domains": {"all": sources[0]}}
    return data_of(**{**given, "root": root and str(root), **options})


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\\b"])
def test_a_domain_that_is_no_name_of_a_folder_is_refused(name):
    with pytest.raises(ConfigError, match="cannot be a folder name") as caught:
        data_of(domains={name: SCENES})
    assert f"domain name {name!r}" in str(caught.value)
    assert "..." in data_of(domains={"...": SCENES}).domains


def test_every_source_and_domain_is_listed_once_under_a_name_of_its_own(tmp_path):
    city = {"layout": "cityscapes", "split": "train"}
    sources = [
        {"layout": "gtav", "split": "train"},
        *({**city, "every": every, "resize": [8, 8]} for every in (1, 2)),
        {**SCENES, "first": 50},
        {**SCENES, "first": 60},
    ]
    domains = {
        "train": city,
        "train_2": {**city, "resize": [32, 64], "keep_ratio": True},
        "val": {**city, "split": "val"},
        **{
            name: {**city, "split": "val", "corrupt": {"name": name}}
            for name in ("fog", "snow", "frost")
        },
    }
    assert list(list_pairs(data_of(sources=sources, domains=domains, root=str(tmp_path)))) == [
        "source 1: gtav train",
        "source 2: cityscapes train, domain train, domain train_2",
        "source 3: cityscapes train",
        "source 4: scenes clear",
        "source 5: scenes clear",
        "domain val, domain fog and 2 more",
    ]
    listed = list_pairs(data_of(domains={"clear": SCENES, "fog": SCENES}, only=["fog"]))
    assert list(listed) == ["source 1: scenes clear", "domain fog"]
    with pytest.raises(ConfigError, match="data.domains is empty"):
        list_pairs(data_of(domains={}))


def test_what_is_listed_is_opened_as_it_lies_on_the_disk(town):
    noise = {**TOWN, "corrupt": {"name": "gaussian_noise"}, "resize": [32, 32], "every": 2}
    opened = list_pairs(town_of(town.parent, domains={"noise": noise}))
    data, classes = opened["domain noise"]()
    assert (len(data), classes) == (2, LAYOUT.classes)
    assert data[0].image.shape == (3, 4, 6)
    assert (data[0].image == 0).all()


def test_what_training_would_refuse_is_refused_when_data_is_listed():
    domains = {
        "a": {"layout": "camvid32", "split": "val"},
        "b": {"layout": "gtaw", "split": "train"},
        "c": {"layout": "idd_lite", "split": "val", "corrupt": {"name": "fogg"}},
        "d": {"layout": "idd_lite", "split": "val"},
        "e": SCENES,
    }
    sources = [{"layout": "idd_lite", "split": "train"}, {"layout": "gtav", "split": "train"}]
    with pytest.raises(ConfigError) as caught:
        list_pairs(data_of(classes="idd7", sources=sources, domains=domains))
    lines = str(caught.value).splitlines()
    told = {
        "source 2: gtav train": "source gtav train has the classes road, ",
        "domain a": "no mapping from the classes idd7 to camvid32: allowed are ",
        "domain b": "layout = 'gtaw': did you mean 'gtav'?",
        "domain c": "unknown corruption 'fogg': did you mean 'fog'?",
        "domain e": "scenes have the classes of cityscapes19",
    }
    assert len(lines) == len(told)
    for line, (name, text) in zip(lines, told.items(), strict=True):
        assert line.startswith(f"{name}: {text}")


@pytest.mark.parametrize("use", [build_sources, list_pairs])
def test_a_root_of_no_data_set_is_refused(use):
    with pytest.raises(ConfigError, match=r"data.roots names no data set 'adcd'.*'acdc'"):
        use(data_of(roots={"adcd": "/data", "cityscapes": "/elsewhere"}))


def test_a_folder_has_classes_of_its_own_if_they_are_named(tmp_path):
    write_folder(tmp_path, 2)
    pair = {"images": "images", "labels": "labels", "classes": "camvid11"}
    data = data_of(root=str(tmp_path), domains={"town": pair})
    domain = build_domains(data, InferenceConfig())["town"]
    assert domain.classes.names[3:5] == ("road", "pavement")
    assert domain.mapping[:2] == (3, 4)  # the model's road and sidewalk
    with pytest.raises(ConfigError, match="no mapping from the classes cityscapes19 to a, b"):
        build_domains(
            data_of(root=str(tmp_path), domains={"town": {**pair, "classes": ["a", "b"]}}),
            InferenceConfig(),
        )
    with pytest.raises(ConfigError, match="but data.classes has others"):
        build_sources(data_of(root=str(tmp_path), sources=[pair]))


def test_unknown_label_ids_are_ignored_and_found_beside(tmp_path):
    write_folder(tmp_path, 2, ids=(0, 1, 7))
    pair = {"images": "images", "labels": "labels"}
    read = lambda **options: build_domains(  # noqa: E731
        folder_of(tmp_path, classes=["a", "b"], domains={"all": {**pair, **options}}),
        InferenceConfig(),
    )["all"]
    with pytest.raises(DataError, match="that are no class"):
        read().data[0]
    mapped = read(unknown=[7], id_map={0: 0, 1: 255})
    assert mapped.unknown[0].label.unique().tolist() == [0, 1, 255]
    domain = read(unknown=[7])
    label, beside = domain.data[0].label, domain.unknown[0].label
    with Image.open(tmp_path / "labels" / "000.png") as file:
        is_odd = np.array(file) == 7
    assert is_odd.any()
    assert np.array_equal(label == 255, is_odd)
    assert np.array_equal(beside == 1, is_odd)
    assert np.array_equal(beside == 0, ~is_odd)
    with pytest.raises(ConfigError, match="label id 1 is a class"):
        read(unknown=[1, 7])
    with pytest.raises(ConfigError, match="unknown"):
        read(unknown=[-1])
    with pytest.raises(ConfigError, match="unknown has no effect with encoding: colours"):
        folder_of(tmp_path, domains={"all": {**pair, "encoding": "colours", "unknown": [7]}})


def test_a_folder_of_templates_and_colours_is_read_as_options_say(tmp_path):
    picture = np.zeros((6, 8, 3), dtype=np.uint8)
    picture[:, 4:] = 9
    for name in ("a_photo.png", "a_mask.png"):
        Image.fromarray(picture).save(tmp_path / name)
    pair = {"images": "{name}_photo.png", "labels": "{name}_mask.png", "encoding": "colours"}
    classes = {"names": ["a"], "palette": [[0, 0, 0]], "ignore_colours": [[9, 9, 9]]}
    data = folder_of(tmp_path, classes=["a"], domains={"all": {**pair, "classes": classes}})
    sample = build_domains(data, InferenceConfig())["all"].data[0]
    assert sample.label[0].tolist() == [0] * 4 + [255] * 4
    for wrong, message in (
        ({"id_map": {0: 0}}, "id_map has no effect with encoding: colours"),
        ({"classes": {**classes, "ignore_colours": [[256, 0, 0]]}}, "less than or equal to 255"),
    ):
        with pytest.raises(ConfigError, match=message):
            folder_of(tmp_path, domains={"all": {**pair, **wrong}})
    with pytest.raises(ConfigError, match="all: labels of colours need a palette"):
        build_domains(folder_of(tmp_path, classes=["a"], domains={"all": pair}), InferenceConfig())


def test_colours_of_ignored_names_of_a_class_file_are_no_class(tmp_path):
    picture = np.zeros((6, 8, 3), dtype=np.uint8)
    picture[:, 4:] = 9
    write_folder(tmp_path, 1)
    for folder in ("images", "labels"):
        Image.fromarray(picture).save(tmp_path / folder / "000.png")
    about = {"names": ["a", "void"], "palette": [[9, 9, 9], [0, 0, 0]], "ignore_ids": [1]}
    (tmp_path / "classes.json").write_text(json.dumps(about))
    pairs = {"images": "images", "labels": "labels", "encoding": "colours"}
    data = folder_of(tmp_path, sources=[pairs], classes="classes.json").model_dump()
    config = parse_config({"adapter": "none", "head": "linear", "data": data})
    for data in (config.data, with_classes_inside(config).data):
        assert build_sources(data)[0].label.unique().tolist() == [0, 255]


def test_a_source_is_resized_in_proportion_where_asked_for(tmp_path):
    write_folder(tmp_path, 2, size=(16, 48))
    pairs = {"images": "images", "labels": "labels", "resize": [12, 24], "keep_ratio": True}
    data = folder_of(tmp_path, sources=[pairs], cache="memory", rare_classes={"min_pixels": 1})
    sources = build_sources(data)
    assert sources[0].image.shape == (3, 8, 24)
    assert build_draws(data, sources, seed=0)(0) in (0, 1)


def test_an_incomplete_download_is_warned_of_once(town, monkeypatch, caplog):
    val = replace(LAYOUT.splits["val"], count=400)
    monkeypatch.setitem(LAYOUTS, "toytown", replace(LAYOUT, splits={"val": val}))
    data = town_of(town.parent)
    list_pairs(data)["source 1: toytown val, domain town"]()
    assert not caplog.records  # `data check` has it in its table
    build_sources(data)
    build_domains(data, InferenceConfig())
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("causalseg", "WARNING")
    assert "split 'val', in folder" in record.message
    assert "3 of 400 published pairs are there: complete the download" in record.message


def test_relative_roots_start_from_the_root_of_all(town):
    above = town.parent.parent
    for root, place in ((above, f"{town.parent.name}/toytown"), ("/nowhere", str(town))):
        for options in ({"roots": {"toytown": place}}, {"sources": [{**TOWN, "root": place}]}):
            assert len(build_sources(town_of(root, **options))) == 3


def test_without_a_root_of_all_relative_paths_start_from_the_working_directory(town, monkeypatch):
    monkeypatch.chdir(town.parent)
    write_folder(town.parent / "mine")
    pair = {"images": "mine/images", "labels": "mine/labels"}
    assert len(build_sources(town_of(None, sources=[{**TOWN, "root": "toytown"}]))) == 3
    assert len(build_sources(folder_of(None, sources=[pair]))) == 3


def test_home_folders_are_spelled_out_in_every_path(town, monkeypatch):
    monkeypatch.setenv("HOME", str(town.parent))
    write_folder(town.parent / "mine")
    (town.parent / "classes.json").write_text('{"names": ["a", "b", "c"]}')
    assert len(build_sources(town_of("~"))) == 3
    assert len(build_sources(town_of("/nowhere", roots={"toytown": "~/toytown"}))) == 3
    assert len(build_sources(folder_of("~/mine"))) == 3
    pair = {"images": "~/mine/images", "labels": "~/mine/labels"}
    own = folder_of("/nowhere", sources=[pair], classes="~/classes.json")
    assert build_classes(own).names == ("a", "b", "c")
    assert len(build_sources(own)) == 3


@pytest.mark.parametrize("key", ["root", "roots", "own", "folder"])
def test_a_home_folder_of_nobody_is_named(key):
    path = "~nobody_here/data"
    options = {
        "root": {"root": path},
        "roots": {"roots": {"gtav": path}},
        "own": {"sources": [{"layout": "gtav", "split": "train", "root": path}]},
        "folder": {"sources": [{"images": path, "labels": path}]},
    }[key]
    sources = [{"layout": "gtav", "split": "train"}]
    with pytest.raises(ConfigError, match="no home folder for the ~ of .*: give a full path"):
        build_sources(data_of(**{"sources": sources, **options}))


def test_all_that_is_wrong_is_told_at_once_with_what_can_be_scored(town):
    gone = {**TOWN, "root": "gone"}
    data = town_of(town.parent, sources=[gone, {**TOWN, "split": "test"}], domains={"town": TOWN})
    with pytest.raises(MissingFileError) as caught:
        build_data(data, InferenceConfig())
    assert str(caught.value).split("\n") == [
        f"source 1: toytown val: no folder or zip file {town.parent}/gone; in {town.parent} there "
        "is toytown/",
        "expected in it, below any folders, unpacked or in zip files:",
        "  img/val/{city}/{name}_img.png",
        "  gt/val/{city}/{name}_id.png",
        "give another root, or get it from https://toytown.example",
        "published as img.zip, gt.zip: zip files are read as they are, or unpacked",
        "source 2: toytown test: Toytown (Doe et al., 2020) has no split 'test': Allowed: train, "
        "val",
        "domains that can be scored: data.only=[town]",
    ]
    with pytest.raises(MissingFileError, match="^source 1: toytown val, a and 3 more: no folder"):
        build_data(
            town_of(None, sources=[gone], domains=dict.fromkeys("abcd", gone)), InferenceConfig()
        )


def test_a_root_that_nothing_uses_is_warned_of(town, caplog):
    build_sources(town_of(town.parent, roots={"gtav": "elsewhere"}))
    assert "data.roots.gtav is not used: sources and domains read toytown" in caplog.text
    with pytest.raises(ConfigError, match="no data set 'mapilary': Allowed: toytown$"):
        build_sources(town_of(town.parent, roots={"mapilary": "elsewhere"}))
    unknown = [{"layout": "gtaw", "split": "train"}]
    with pytest.raises(ConfigError, match="no data set 'gtaw': did you mean 'gtav'"):
        build_sources(town_of(None, roots={"gtaw": "x"}, sources=unknown, domains={"a": SCENES}))


def test_a_missing_class_list_says_what_else_is_expected(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(MissingFileError, match=r"there is photos/. Images are expected in images,"):
        build_sources(folder_of(tmp_path, classes="classes.json"))


def test_a_data_set_without_a_root_says_how_to_give_one():
    with pytest.raises(ConfigError, match="gtav has no root: give data.roots.gtav=PATH"):
        build_sources(data_of(sources=[{"layout": "gtav", "split": "train"}]))
    with pytest.raises(MissingFileError, match="no folder or zip file /nowhere/gtav"):
        build_sources(data_of(sources=[{"layout": "gtav", "split": "train"}], root="/nowhere"))
