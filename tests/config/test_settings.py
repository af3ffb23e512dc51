"""Settings of the field by name, and how a user's options override them."""

import pytest
import yaml

from causalseg.config.load import dump_config, parse_config
from causalseg.config.settings import SETTINGS, lay_over, list_overrides
from causalseg.corruptions import CORRUPTIONS
from causalseg.data.catalogue import LAYOUTS
from causalseg.errors import ConfigError


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_a_valid_configuration_of_known_data(name):
    config = parse_config({"setting": name})
    for given in (*config.data.sources, *config.data.domains.values()):
        if given.type == "layout":
            assert given.split in LAYOUTS[given.layout].splits
        if given.corrupt:
            assert given.corrupt.name in CORRUPTIONS
    sources = {(s.layout, s.split) for s in config.data.sources if s.type == "layout"}
    for domain in config.data.domains.values():
        assert domain.type != "layout" or (domain.layout, domain.split) not in sources


def test_the_protocol_at_512_is_the_fields():
    config = parse_config({"setting": "citys2acdc"})
    assert list(config.data.domains) == ["night", "snow", "fog", "rain"]
    assert config.data.domains["fog"].resize == (540, 960)
    assert config.train.crop == config.eval.window == (512, 512)
    assert config.eval.stride == (341, 341)
    assert config.backbone.patch == 16
    cbm = parse_config({"setting": "gta2cbm"}).data.domains
    assert {name: domain.resize for name, domain in cbm.items()} == {
        "cityscapes": (512, 1024),
        "bdd100k": (720, 1280),
        "mapillary": (512, 1024),
    }
    assert [name for name, domain in cbm.items() if domain.keep_ratio] == ["mapillary"]
    larger = parse_config({"setting": "citys2acdc@1024"})
    assert larger.data.domains["fog"].resize == (1080, 1920)
    assert (larger.train.crop, larger.eval.stride) == ((1024, 1024), (683, 683))
    assert (config.train.augment.longest, larger.train.augment.longest) == (2048, 4096)


def test_cityscapes_c_is_sixteen_corruptions_that_leave_pixels_in_place():
    data = parse_config({"setting": "citys2citysc"}).data
    domains = {name: domain for name, domain in data.domains.items() if domain.corrupt}
    assert [name for name in data.domains if name not in domains] == ["cityscapes"]
    assert data.mean_over == list(domains)
    names = {domain.corrupt.name for domain in domains.values()}
    assert len(names) == 16
    assert {"elastic_transform", "pixelate", "zoom_blur"}.isdisjoint(names)
    assert len(domains) == 4 * 3 + 12 * 5
    assert "shot_noise_4" not in domains
    assert domains["frost_4"].corrupt.model_dump() == {"name": "frost", "severity": 4, "seed": 0}


def test_the_highest_severity_alone_is_a_setting():
    data = parse_config({"setting": "citys2citysc_level5"}).data
    assert {d.corrupt.severity for d in data.domains.values() if d.corrupt} == {5}
    assert len(data.mean_over) == 16
    assert "gaussian_noise_5" in data.mean_over


def test_the_file_overrides_the_setting():
    options = {
        "setting": "citys2acdc",
        "backbone": "dinov2_vitl14",
        "data": {"roots": {"acdc": "/data/acdc"}},
        "train": {"steps": 5},
    }
    config = parse_config(options, ["train.batch=2", "data.domains.fog.every=3"])
    assert config.backbone.name == "dinov2_vitl14"
    assert config.backbone.patch == 16
    assert (config.train.steps, config.train.batch, config.train.crop) == (5, 2, (512, 512))
    assert config.data.roots == {"acdc": "/data/acdc"}
    assert config.data.domains["fog"].every == 3
    assert len(config.data.domains) == 4


def test_a_setting_on_the_command_line_overrides_the_file():
    options = {"setting": "gta2cbm", "train": {"crop": [32, 32], "steps": 7}}
    config = parse_config(options, ["setting=citys2acdc"])
    assert config.setting == "citys2acdc"
    assert list(config.data.domains) == ["night", "snow", "fog", "rain"]
    assert (config.train.crop, config.train.steps) == ((512, 512), 7)


def test_a_written_configuration_reads_as_itself():
    config = parse_config(
        {"setting": "citys2acdc"}, ["data.domains={x: {layout: kitti, split: a}}"]
    )
    assert parse_config(yaml.safe_load(dump_config(config))) == config


def test_domains_are_replaced_not_merged():
    joined = lay_over(SETTINGS["scenes"], {"data": {"domains": {"night": {"type": "scenes"}}}})
    assert list(joined["data"]["domains"]) == ["night"]
    assert joined["data"]["sources"] == SETTINGS["scenes"]["data"]["sources"]


def test_whole_images_replace_the_windows_of_a_setting():
    config = parse_config({"setting": "citys2acdc", "eval": {"mode": "whole"}})
    assert (config.eval.mode, config.eval.window, config.eval.stride) == ("whole", None, None)
    config = parse_config({"setting": "citys2acdc"}, ["setting=scenes"])
    assert (config.eval.mode, config.eval.window) == ("whole", None)


def test_a_setting_to_score_on_replaces_all_sizes_of_the_run():
    options = {"setting": "scenes", "eval": {"mode": "slide", "shortest": 99, "blend": "hann"}}
    scored = parse_config(options, list_overrides("citys2acdc")).eval
    assert (scored.shortest, scored.window, scored.blend) == (None, (512, 512), "mean")
    assert parse_config(options, list_overrides("scenes")).eval.mode == "whole"


@pytest.mark.parametrize("name", ["city2acdc", ["citys2acdc"], {"name": "citys2acdc"}])
def test_an_unknown_setting_gets_a_suggestion(name):
    with pytest.raises(ConfigError, match=r"setting = .*did you mean 'citys2acdc"):
        parse_config({"setting": name})
