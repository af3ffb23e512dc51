"""Initialisation of adapters with tokens: no edit and a full gradient, or small as published."""

import pytest
import torch
from pydantic import ValidationError

from causalseg.adapters.causal_tune import CausalTune
from causalseg.adapters.fada import Fada
from causalseg.adapters.rein import Rein
from causalseg.adapters.set import SetAdapter
from causalseg.build.adapter import place
from causalseg.build.model import build_segmenter
from causalseg.config.adapters import CausalTuneConfig
from conftest import SMALL_MASK2FORMER

KINDS = {"causal_tune": CausalTune, "rein": Rein, "set": SetAdapter, "fada": Fada}
SIZES = {"width": 24, "depth": 2, "num_tokens": 8, "rank": 4}
GRID = (5, 8)


def edit_and_gradients(adapter):
    """The edit of random tokens and, by name, the norms of the gradients of its square error."""
    torch.manual_seed(1)
    tokens, target = torch.randn(2, 40, 24), torch.randn(2, 40, 24)
    edit = adapter(tokens, 0, GRID) - tokens
    (edit - target).square().sum().backward()
    norms = {
        name: p.grad.norm().item() for name, p in adapter.named_parameters() if p.grad is not None
    }
    return edit, norms


def deltas(norms):
    return [value for name, value in norms.items() if name.endswith("delta.weight")]


@pytest.mark.parametrize("kind", KINDS)
def test_zero_starts_at_nothing_with_the_gradient_of_the_layer_that_writes_the_edit(kind):
    torch.manual_seed(0)
    zero = KINDS[kind](**SIZES)
    edit, norms = edit_and_gradients(zero)
    assert edit.abs().max() <= 1e-5
    assert "scale" not in norms
    torch.manual_seed(0)
    small = KINDS[kind](**SIZES, init="small")
    edit, published = edit_and_gradients(small)
    assert 0 < edit.norm() < 0.1
    assert small.scale.item() == pytest.approx(0.001)
    # The scale of 0.001 stands before every gradient but its own.
    for ours, theirs in zip(deltas(norms), deltas(published), strict=True):
        assert ours == pytest.approx(1000 * theirs, rel=0.05)


@pytest.mark.parametrize("kind", ["causal_tune", "rein", "set"])
def test_python_and_a_configuration_give_the_same_values(tiny, kind):
    config = tiny(f"adapter={{name: {kind}, num_tokens: 4}}", SMALL_MASK2FORMER)
    model = build_segmenter(config)
    torch.manual_seed(config.run.seed)
    width, depth = model.backbone.widths[0], model.backbone.depth
    layers = place(None, model.backbone)
    adapter = KINDS[kind](width, depth, query_width=32, num_tokens=4, layers=layers)
    ours, theirs = adapter.state_dict(), model.adapter.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_released_recipe_has_the_published_initialisation():
    assert CausalTuneConfig(recipe="released").init.kind == "small"
    with pytest.raises(ValidationError, match=r"init\.kind=small"):
        CausalTuneConfig(recipe="released", init="zero")
