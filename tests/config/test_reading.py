"""YAML that would break its reader, and values that no run can have."""

import time

import pytest

from causalseg.config.load import load_config, parse_config
from causalseg.config.reading import parse_yaml
from causalseg.errors import ConfigError

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    "text",
    [
        "2020-13-45",
        "!!bool maybe",
        '!!int ""',
        "9" * 5000,
        "!!python/object:os.system x",
        "&a [*a]",
        "[" * 5000,
        BOMB,
        "a: *b",
    ],
    ids=["date", "bool", "int", "digits", "tag", "loop", "depth", "aliases", "no anchor"],
)
def test_what_breaks_the_reader_is_one_error_and_quick(text, tiny_options, tmp_path):
    started = time.monotonic()
    with pytest.raises(ConfigError, match="is not YAML"):
        parse_yaml(text, "it")
    file = tmp_path / "odd.yaml"
    file.write_text(f"seed: {text}" if "\n" not in text else text)
    with pytest.raises(ConfigError, match=r"odd.yaml is not YAML"):
        load_config(file)
    with pytest.raises(ConfigError, match="is not YAML") as error:
        parse_config(tiny_options, [f"run.seed={text}"])
    assert len(str(error.value).splitlines()[0]) < 300
    assert time.monotonic() - started < 20


def test_anchors_and_merges_stay(tmp_path):
    assert parse_yaml("a: &x {k: [1]}\nb: {<<: *x, l: 2}", "it")["b"] == {"k": [1], "l": 2}
    file = tmp_path / "large.yaml"
    file.write_bytes(b"#" * 1_000_001)
    with pytest.raises(ConfigError, match="larger than a megabyte"):
        load_config(file)


@pytest.mark.parametrize(
    "override",
    [
        "train.lr=.inf",
        "train.power=1e300",
        "train.weight_decay=.nan",
        "train.batch=10000000",
        "run.seed=99999999999999999999",
        "run.threads=100000",
        "train.workers=5000",
        "adapter.rank=99999999999",
        "adapter.band.high=.inf",
        f"data.domains.{'x' * 101}={{images: a, labels: b}}",
        'data.domains={"a\\0b": {images: a, labels: b}}',
        f"head={'x' * 9000}",
    ],
)
def test_values_that_no_run_can_have_are_refused_in_few_words(tiny, override):
    with pytest.raises(ConfigError) as error:
        tiny(override)
    assert len(str(error.value)) < 700
