"""Configurations: every mistake at once and by name, overrides, the manual."""

import pytest

from causalseg.config.adapters import CausalTuneConfig, NoAdapterConfig
from causalseg.config.load import (
    list_differences,
    list_options,
    load_config,
    parse_config,
)
from causalseg.errors import ConfigError, MissingFileError

DATA = {
    "sources": [{"type": "scenes", "first": 1000}],
    "domains": {"clear": {"type": "scenes"}, "night": {"type": "scenes", "domain": "night"}},
}


def mistakes(options, *overrides):
    with pytest.raises(ConfigError) as caught:
        parse_config({"data": DATA, **options}, overrides)
    return str(caught.value)


def test_the_defaults_are_the_protocol():
    config = parse_config({"data": DATA})
    assert (config.train.steps, config.train.batch, config.train.lr) == (40_000, 4, 1e-4)
    assert (config.adapter.num_tokens, config.adapter.rank) == (100, 16)
    assert (config.adapter.band.low, config.adapter.band.high) == (0.2, 0.7)
    assert config.head.num_points == 12544


def test_all_mistakes_are_reported_at_once_each_by_name():
    text = mistakes(
        {
            "adaptr": "none",
            "adapter": {"name": "causal_tune", "band": {"hihg": 1}},
            "head": "linera",
        },
        "eval.mode=whol",
        "train.steps=0",
    )
    assert "adaptr: no such option; did you mean 'adapter'?" in text
    assert (
        "adapter.band.hihg: no such option; did you mean 'high'? Allowed: auto, high, low" in text
    )
    assert "head = 'linera': unknown name; did you mean 'linear'?" in text
    assert "eval.mode = 'whol': did you mean 'whole'? Allowed: slide, whole" in text
    assert "train.steps = 0: Input should be greater than or equal to 1" in text


def test_an_unknown_adapter_lists_those_that_exist():
    text = mistakes({"adapter": "causaltune"})
    assert "did you mean 'causal_tune'? Allowed: adaptformer, causal_lora, causal_tune," in text
    text = mistakes({"adapter": ["lora", "causaltune"]})
    assert "'causaltune': unknown name; did you mean 'causal_tune'? Allowed: adaptformer" in text


STREETS = "data.domains.night.first=900"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adapter.band.low=0.8"], "adapter.band: low = 0.8 must be below high = 0.7"),
        (["eval.mode=whole", "eval.stride=[8, 8]"], "stride has no effect"),
        (["eval.limit=3"], "limit has no effect without every"),
        (["adapter.num_tokens=50"], "must be the same number"),
        (["backbone.patch_resize=bicubic"], "patch_resize has no effect without patch"),
        (["train.augment.scale=[2.0, 0.5]"], "scale = [2.0, 0.5] must be [smallest, largest]"),
        (["run.seed=-1"], "run.seed = -1"),
        (["data.mean_over=[]"], "data.mean_over"),
        (["data.mean_over=[nigth]"], "did you mean 'night'?"),
        (["data.mean_over=[night, night]"], "has a domain twice"),
        (["data.only=[night, night]"], "has a domain twice"),
        (["data.domains.mean={type: scenes}"], "'mean' is reserved"),
        ([STREETS, "data.domains.night.count=101"], "domain night has scenes with training seeds"),
    ],
)
def test_a_contradiction_is_refused(overrides, message):
    assert message in mistakes({}, *overrides)


def test_scenes_may_be_scored_up_to_the_first_street_trained_on():
    parse_config({"data": DATA}, [STREETS, "data.domains.night.count=100"])


def test_differences_name_every_option_that_differs():
    first = parse_config({"data": DATA}, ["adapter.rank=3"])
    second = parse_config({"data": DATA}, ["adapter.rank=3", "train.lr=2e-4", "head=linear"])
    changed = list_differences(first, second)
    assert changed["train.lr"] == (1e-4, 2e-4)
    assert changed["head.name"] == ("mask2former", "linear")
    assert "adapter.rank" not in changed
    assert list_differences(first, first) == {}


def test_overrides_apply_in_order_and_read_yaml():
    config = parse_config(
        {"data": DATA, "adapter": "causal_tune"},
        ["adapter.rank=8", "train.lr=2e-4", "adapter.band={low: null, high: 0.5}", "run.seed=3"],
    )
    assert isinstance(config.adapter, CausalTuneConfig)
    assert (config.adapter.rank, config.train.lr, config.run.seed) == (8, 2e-4, 3)
    assert config.adapter.band.low is None
    swapped = parse_config({"data": DATA, "adapter": {"name": "causal_tune"}}, ["adapter=none"])
    assert isinstance(swapped.adapter, NoAdapterConfig)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr", "not of the form key=value"),
        ("train.lr.x=1", "no options below a plain value"),
        ("train.lr=[", "not YAML"),
    ],
)
def test_a_malformed_override_is_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        parse_config({"data": DATA, "train": {"lr": 1.0}}, [override])


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(MissingFileError, match="no configuration file"):
        load_config(tmp_path / "x.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_config(broken)
    broken.write_text("head: linear\nhead: mask2former")
    with pytest.raises(ConfigError, match="'head' is in line 1 and again in line 2"):
        load_config(broken)
    broken.write_text("just text")
    with pytest.raises(ConfigError, match="must hold"):
        load_config(broken)


def test_every_option_is_documented():
    options = list_options()
    assert all(option.text for option in options)
    by_key = {option.key: option for option in options}
    assert by_key["adapter[causal_tune].band.high"].default == "0.7"
    assert by_key["eval.size"].type == "[int, int] or null"
    assert len(by_key) == len(options)
