"""Paths with fields: what they match, what they become, what is no template."""

import pytest

from causalseg.data.templates import Template
from causalseg.errors import ConfigError


def test_a_template_matches_from_any_folder_on():
    template = Template("left/val/{city}/{name}_left.png")
    for above in ("", "a/", "a/b.c/"):
        match = template.match(f"{above}left/val/ulm/x_1_left.png")
        assert match == (above, {"city": "ulm", "name": "x_1"})
    for other in ("notleft/val/ulm/x_left.png", "left/val/x_left.png", "left/val/a/b/x_left.png"):
        assert template.match(other) is None
    assert template.match("left/val/ulm/x_leftxpng") is None


def test_a_field_takes_what_its_regular_expression_says():
    template = Template(r"{seq:GP\d{2}|X}/{path:.+}/{n:\d+}.png")
    assert template.match("GP12/a/b/7.png") == ("", {"seq": "GP12", "path": "a/b", "n": "7"})
    assert template.match("GP1/a/7.png") is None
    assert template.plain == "{seq}/{path}/{n}.png"


def test_a_field_that_comes_again_is_the_same_text():
    template = Template("{city}/{city}_{n}.png")
    assert template.match("ulm/ulm_1.png") == ("", {"city": "ulm", "n": "1"})
    assert template.match("ulm/bonn_1.png") is None


def test_fields_fill_another_template():
    match = Template(r"images/{name:\d+}.{end:png|jpg}").match("images/12.jpg")
    labels = Template("labels/{name}_{name}.png", {"name": r"\d+"})
    assert labels.fill(match.fields) == "labels/12_12.png"
    assert labels.match("labels/x_x.png") is None


def test_the_folder_before_the_first_field_is_known():
    for text, folder in (
        ("a/b/{c}/d.png", "a/b/"),
        ("a/b{c}.png", "a/"),
        ("{a}/b.png", ""),
        ("a/b.png", "a/"),
    ):
        assert Template(text).folder == folder


@pytest.mark.parametrize("text", ["a/{b.png", "a/b}.png", "a/{}.png", "{1}.png"])
def test_a_lone_brace_is_refused(text):
    with pytest.raises(ConfigError, match="has a brace outside of a field"):
        Template(text)


def test_a_wrong_regular_expression_is_named():
    with pytest.raises(ConfigError, match=r"'\{a:\(\}' has a wrong regular expression"):
        Template("{a:(}")
