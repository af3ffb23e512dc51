"""The table of trained parameters holds every method of the configuration, rightly counted."""

import re

import pytest

from causalseg.config.load import list_options
from parameters import count_parameters, parameters_page


@pytest.fixture(scope="module")
def counts():
    """Counts of every method and option on ViT-S, ViT-B and ViT-L."""
    return {(row.method, row.option): row.counts for row in count_parameters()}


def test_every_adapter_of_the_configuration_has_a_row(counts):
    keys = (re.match(r"adapter\[(\w+)\]\.", option.key) for option in list_options())
    assert {method for method, option in counts if not option} == {key[1] for key in keys if key}


def test_an_option_has_a_row_only_where_it_changes_the_count():
    page = parameters_page("")
    assert "| causal_tune, suppress=true |" in page
    assert "| lora, bias=adapted |" in page
    assert "| causal_tune, recipe=paper |" not in page
    assert "causal_tune, recipe=paper;" in page


def test_counts_are_those_of_the_formulas(counts):
    assert counts["causal_tune", ""][2] == "2,530,816 / 2,990,080"
    assert counts["none", ""] == ["0", "0", "0"]
    # Rank 8 on qkv: lora has one pair of thin matrices for each layer, LoHa two.
    assert counts["lora", ""][0] == f"{12 * 8 * (384 + 1152):,}"
    assert counts["peft", ""][0] == f"{2 * 12 * 8 * (384 + 1152):,}"
    sides = (384 + 3 * 384) + (384 + 384) + 2 * (384 + 4 * 384)  # qkv, proj, fc1 and fc2
    assert counts["soma", ""][0] == f"{12 * 16 * sides:,}"
