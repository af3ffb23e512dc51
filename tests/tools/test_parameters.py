"""The table of trained parameters holds every method of the configuration, rightly counted."""

import re

import pytest

from causalseg.config.adapters import SomaConfig
from causalseg.config.load import list_options
from parameters import count_parameters, parameters_page


@pytest.fixture(scope="module")
def page():
    return parameters_page("generated")


def row_of(page, method):
    (row,) = re.findall(rf"^\| {re.escape(method)} \| (.+) \|$", page, re.MULTILINE)
    return row.split(" | ")


def test_every_adapter_of_the_configuration_has_a_row(page):
    keys = (re.match(r"adapter\[(\w+)\]\.", option.key) for option in list_options())
    rows = re.findall(r"^\| \[(\w+)\]", page, re.MULTILINE)
    assert sorted(rows) == sorted({key[1] for key in keys if key})


def test_options_have_a_row_where_they_add_parameters_and_are_named_elsewhere(page):
    rows = re.findall(r"^\| (\w+, [^|]+) \|", page, re.MULTILINE)
    assert set(rows) == {
        "causal_tune, recipe=released",
        "causal_tune, suppress=true",
        "causal_tune, band.learnable=true",
        "causal_tune, band.gains=true",
        *(f"{method}, bias=adapted" for method in ("lora", "dora", "soma")),
    }
    (rest,) = re.findall(r"^As many as with the method's defaults: (.+)\.$", page, re.MULTILINE)
    assert {"causal_tune, transform=fft", "causal_tune, recipe=paper"} <= set(rest.split("; "))
    plain = next(row.counts for row in count_parameters() if row.method == "causal_tune")
    for row in count_parameters():
        name = f"{row.method}, {row.option}"
        assert name in (*rows, *rest.split("; ")) or not row.option
        if row.method == "causal_tune" and name not in rows:
            assert row.counts == plain


def test_counts_are_those_of_the_formulas(page):
    assert row_of(page, "[causal_tune](causal_tune.md)")[2] == "2,530,816 / 2,990,080"
    assert row_of(page, "[none](none.md)") == ["0", "0", "0"]
    # Rank 8 on qkv: lora has one pair of thin matrices for each layer, LoHa two.
    assert row_of(page, "[lora](lora.md)")[0] == f"{12 * 8 * (384 + 1152):,}"
    assert row_of(page, "[peft](peft.md), type LOHA")[0] == f"{2 * 12 * 8 * (384 + 1152):,}"


def test_soma_is_counted_with_its_own_defaults(page):
    soma = SomaConfig()
    assert soma.targets == "all"
    sides = (384 + 3 * 384) + (384 + 384) + 2 * (384 + 4 * 384)  # qkv, proj, fc1 and fc2
    assert row_of(page, "[soma](soma.md)")[0] == f"{12 * soma.rank * sides:,}"
