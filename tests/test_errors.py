"""The closest names are offered for one that is not there."""

import pytest

from causalseg.errors import did_you_mean

LAYOUTS = ["acdc", "mapillary_v1", "mapillary_v2"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("acd", "did you mean 'acdc'? "),
        ("mapilary_v2", "did you mean 'mapillary_v2'? "),
        ("mapillary", "did you mean 'mapillary_v1' or 'mapillary_v2'? "),
        ("gtav", ""),
        ("", ""),
    ],
)
def test_the_names_closest_to_one_that_is_not_there_are_offered(name: str, hint: str):
    assert did_you_mean(name, LAYOUTS) == f"{hint}Allowed: acdc, mapillary_v1, mapillary_v2"


def test_without_any_name_nothing_is_offered():
    assert did_you_mean("acdc", []) == "Allowed: "
