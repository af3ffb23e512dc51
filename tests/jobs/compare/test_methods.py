"""Names of methods: adapters, adapters joined, entries of a file; every mistake at once."""

import pytest

from causalseg.errors import ConfigError, MissingFileError
from causalseg.jobs.compare.methods import folder_name, read_methods


@pytest.fixture
def write(tmp_path):
    def write(text):
        file = tmp_path / "methods.yaml"
        file.write_text(text)
        return file

    return write


def overrides_of(*names, file=None):
    return {method.name: method.overrides for method in read_methods(names, file)}


def test_adapters_are_joined_in_order_and_the_intervention_is_added():
    names = ("causal_tune", "lora+causal_tune", "causal_tune+lora", "none+intervene")
    assert overrides_of(*names) == {
        "causal_tune": ["adapter=causal_tune"],
        "lora+causal_tune": ["adapter=[lora, causal_tune]"],
        "causal_tune+lora": ["adapter=[causal_tune, lora]"],
        "none+intervene": ["adapter=none", "intervene=spectral", "train.adapter_lr=null"],
    }


def test_a_file_defines_methods_nested_or_flat(write):
    file = write("""
        paper: {adapter: {name: causal_tune, recipe: paper}}
        band: {adapter: {band: {low: null}, rank: 4}, train.augment.photometric: false}
        slow: {train: {lr: 1.0e-5, augment: {scale: [0.5, 2.0]}}}
        head: {adapter: none, train: {adapter_lr: 1.0e-3}}
        flat: {adapter.name: none}
        shared:
        cited: {adapter: lora, reported: {night: 55.9, mean: 60}, reported_source: here}
    """)
    assert overrides_of(file=file) == {
        "paper": ["adapter={name: causal_tune, recipe: paper}"],
        "band": ["adapter.band.low=null", "adapter.rank=4", "train.augment.photometric=false"],
        "slow": ["train.lr=1.0e-05", "train.augment.scale=[0.5, 2.0]"],
        "head": ["adapter=none", "train.adapter_lr=0.001"],
        "flat": ["adapter.name=none", "train.adapter_lr=null"],
        "shared": [],
        "cited": ["adapter=lora"],
    }
    *_, cited = read_methods([], file)
    assert (cited.reported, cited.source) == ({"night": 55.9, "mean": 60.0}, "here")


def test_names_of_the_file_win_and_only_those_asked_for_are_taken(write):
    file = write("causal_tune: {adapter: {name: causal_tune, rank: 4}}\nother: {adapter: nonsense}")
    assert overrides_of("none", "causal_tune", file=file) == {
        "none": ["adapter=none", "train.adapter_lr=null"],
        "causal_tune": ["adapter={name: causal_tune, rank: 4}"],
    }


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ("7", "7 is no mapping of options"),
        ("{reported: {night: 50}}", "need reported_source"),
        ("{reported: {night: 200}, reported_source: here}", "must be a mapping of domains"),
        ("{data.root: /elsewhere}", "data.root=/elsewhere: a method cannot change this"),
        ("{setting: citys2acdc}", "setting=citys2acdc: a method cannot change this"),
        ("{reported: {night: true}, reported_source: here}", "must be a mapping of domains"),
    ],
)
def test_a_wrong_entry_is_named(write, about, message):
    with pytest.raises(ConfigError, match=f"m: .*{message}"):
        read_methods([], write(f"m: {about}"))


def test_all_wrong_names_are_one_error_with_suggestions(write):
    file = write("my_own: {adapter: none}")
    names = ["causal-tune", "my_onw", "none+causl_tune", "intervene", "none", "none"]
    with pytest.raises(ConfigError) as caught:
        read_methods(names, file)
    text = str(caught.value)
    assert "causal-tune: no such method; did you mean 'causal_tune'?" in text
    assert "my_onw: no such method; did you mean 'my_own'?" in text
    assert "none+causl_tune: no such method; did you mean 'causal_tune'?" in text
    assert "intervene: intervene is added once to an adapter" in text
    assert "none: another method has this name" in text


def test_a_missing_or_broken_file_and_nothing_to_compare_are_errors(tmp_path, write):
    for text in ("- a\n- b", "a: [", "text"):
        with pytest.raises(ConfigError, match=r"methods.yaml"):
            read_methods([], write(text))
    with pytest.raises(ConfigError, match="'a' is in line 1 and again in line 2"):
        read_methods([], write("a: {adapter: lora}\na: {adapter: rein}"))
    with pytest.raises(ConfigError, match="nothing to compare"):
        read_methods([])
    with pytest.raises(MissingFileError, match="no methods file"):
        read_methods([], tmp_path / "none.yaml")


def test_a_folder_has_a_safe_name_of_its_own(write):
    file = write("'../a b': {}\n'?a_b': {}")
    (method,) = read_methods(["../a b"], file)
    assert folder_name(method) == "_a_b"
    with pytest.raises(ConfigError, match="would share its folder"):
        read_methods([], file)
