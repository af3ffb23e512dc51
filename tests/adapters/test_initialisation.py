"""How adapters with tokens start: nothing at first with a full gradient, or small as published."""

import pytest
import torch
from pydantic import ValidationError

from causalseg.adapters.causal_tune import CausalTune
from causalseg.adapters.fada import Fada
from causalseg.adapters.rein import Rein
from causalseg.adapters.set import SetAdapter
from causalseg.adapters.tokens import FullTokens, LowRankTokens
from causalseg.config.adapters import CausalTuneConfig, FadaConfig, ReinConfig, SetConfig
from causalseg.config.initialisation import Init

KINDS = {
    "causal_tune": (CausalTune, CausalTuneConfig),
    "rein": (Rein, ReinConfig),
    "set": (SetAdapter, SetConfig),
    "fada": (Fada, FadaConfig),
}
GRID = (5, 8)


def edit_and_gradients(adapter):
    """The edit of random tokens and, by name, the norms of the gradients of its square error."""
    torch.manual_seed(1)
    tokens, wanted = torch.randn(2, 40, 24), torch.randn(2, 40, 24)
    edit = adapter(tokens, 0, GRID) - tokens
    (edit - wanted).square().sum().backward()
    norms = {
        name: p.grad.norm().item() for name, p in adapter.named_parameters() if p.grad is not None
    }
    return edit, norms


def deltas(norms):
    return [value for name, value in norms.items() if name.endswith("delta.weight")]


@pytest.mark.parametrize("kind", KINDS)
def test_zero_starts_at_nothing_with_the_gradient_of_the_layer_that_writes_the_edit(kind):
    torch.manual_seed(0)
    zero = KINDS[kind][0](24, 2, 8, 4)
    edit, norms = edit_and_gradients(zero)
    assert edit.abs().max() <= 1e-5
    assert "scale" not in norms
    torch.manual_seed(0)
    small = KINDS[kind][0](24, 2, 8, 4, init=Init(kind="small"))
    edit, published = edit_and_gradients(small)
    assert 0 < edit.norm() < 0.1
    assert small.scale.item() == pytest.approx(0.001)
    # The scale of 0.001 stands before every gradient but its own.
    for ours, theirs in zip(deltas(norms), deltas(published), strict=True):
        assert ours == pytest.approx(1000 * theirs, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_yaml_and_python_start_alike(kind):
    adapter, config = KINDS[kind]
    torch.manual_seed(0)
    default = adapter(24, 2, 8, 4)
    torch.manual_seed(0)
    configured = adapter(24, 2, 8, 4, init=config(name=kind).init)
    assert config(name=kind).init == Init()
    for one, other in zip(default.parameters(), configured.parameters(), strict=True):
        assert torch.equal(one, other)
    assert config(name=kind, init="small").init == Init(kind="small")


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_have_the_standard_deviation_asked_for(kind):
    adapter = KINDS[kind][0](24, 2, 8, 4, init=Init(token_std=4))
    found = [m() for m in adapter.modules() if isinstance(m, LowRankTokens | FullTokens)]
    assert found
    for tokens in found:
        assert tokens.std().item() == pytest.approx(4, rel=1e-4)


def test_a_scale_without_effect_is_refused():
    with pytest.raises(ValidationError, match="no effect with kind=zero"):
        Init(scale=0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_options_as_0_2_wrote_them_are_the_published_initialisation(kind):
    old = {"name": kind, "scale": 0.002, "token_spread": 4.0, "query_spread": None}
    init = KINDS[kind][1](**old).init
    assert init == Init(kind="small", scale=0.002, token_std=4, query_std=None)
    with pytest.raises(ValidationError, match="scale"):  # beside `init` it is no option
        KINDS[kind][1](**{"name": kind, "scale": 0.002, "init": "zero"})


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


def test_the_released_recipe_starts_as_its_code_does():
    assert CausalTuneConfig(recipe="released").init.kind == "small"
    with pytest.raises(ValidationError, match=r"init\.kind=small"):
        CausalTuneConfig(recipe="released", init="zero")
