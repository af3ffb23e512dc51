"""The tables of options hold every option of the configuration, and each shared one once."""

import re

import pytest

from causalseg.config.load import list_options
from options import END, START, method_pages, reference_page


@pytest.fixture(scope="module")
def rows():
    lines = [line.split(" | ") for line in reference_page("").splitlines() if "`" in line]
    return [line for line in lines if line[0].startswith("| `")]


def test_every_option_is_in_the_reference(rows):
    shown = {key for row in rows for key in re.findall(r"`([^`]+)`", row[0])}
    for option in list_options():
        if "." in option.key and not option.key.endswith((".name", ".type")):
            assert re.sub(r"\[\w+\]", "", option.key) in shown


def test_an_option_that_methods_share_has_one_row_with_their_names(rows):
    (row,) = [row for row in rows if row[0] == "| `adapter.query_link`"]
    assert {"causal_tune", "rein", "set"} <= set(row[1].split(", "))
    (row,) = [row for row in rows if row[0] == "| `data.sources.every`, `data.domains.every`"]
    assert row[1] == "folder, layout, scenes"


def test_a_page_gets_the_options_of_its_method_and_keeps_its_other_text(tmp_path):
    page = tmp_path / "vpt.md"
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    (text,) = method_pages(tmp_path).values()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "`num_prompts`" in text
    assert "old" not in text
