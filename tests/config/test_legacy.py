"""Options as earlier versions wrote them."""

import pytest
from pydantic import TypeAdapter, ValidationError

from causalseg.config.adapters import AdapterConfig, Band, CausalTuneConfig
from causalseg.config.initialisation import Init


@pytest.mark.parametrize("kind", ["causal_tune", "rein", "set", "fada"])
def test_the_initialisation_of_0_2_is_the_published_one(kind):
    read = TypeAdapter(AdapterConfig).validate_python
    old = {"name": kind, "scale": 0.002, "token_spread": 4.0, "query_spread": None}
    assert read(old).init == Init(kind="small", scale=0.002, token_std=4, query_std=None)
    with pytest.raises(ValidationError, match="scale"):  # beside `init` it is no option
        read({"name": kind, "scale": 0.002, "init": "zero"})


@pytest.mark.parametrize(
    ("old", "recipe"),
    [
        ({"recipe": "centered", "linear_path": "full"}, "full_path"),
        ({"recipe": "centered", "linear_path": "band"}, "centered"),
        ({"recipe": "paper", "linear_path": "band"}, "paper"),
        ({"linear_path": "full"}, "full_path"),
        ({"linear_path": "band"}, "centered"),
        ({"transform": "fft"}, "centered"),
        ({}, "full_path"),
    ],
)
def test_the_linear_path_of_0_2_is_a_recipe_now(old, recipe):
    assert CausalTuneConfig(**old).recipe == recipe


def test_the_literal_recipe_has_no_full_linear_path():
    with pytest.raises(ValidationError, match="linear_path"):
        CausalTuneConfig(recipe="paper", linear_path="full")


@pytest.mark.parametrize("option", ["learnable", "gains", "peak_normalised"])
def test_removed_options_of_a_band_load_where_they_were_off(option):
    assert CausalTuneConfig(band={"low": 0.1, option: False}).band == Band(low=0.1)
    with pytest.raises(ValidationError, match=f"{option} = True was removed .*leave it out"):
        CausalTuneConfig(band={option: True})
