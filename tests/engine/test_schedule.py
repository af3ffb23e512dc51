"""What depends on the step alone, and which parameters are decayed."""

import pytest

from causalseg.build.model import build_segmenter
from causalseg.engine.schedule import (
    is_due,
    learning_rate,
    parameter_groups,
    set_step,
    weight_decay,
)
from conftest import SMALL_MASK2FORMER


def test_the_learning_rate_falls_from_its_base_to_zero():
    rates = [learning_rate(2.0, step, 10, 0.9) for step in range(11)]
    assert rates[0] == 2
    assert rates[10] == 0
    assert rates[5] == pytest.approx(2 * 0.5**0.9)
    assert rates == sorted(rates, reverse=True)


def test_a_warmup_multiplies_the_polynomial():
    plain, warm = ([learning_rate(2.0, s, 10, 0.9, w) for s in range(10)] for w in (0, 4))
    factors = [one / other for one, other in zip(warm, plain, strict=True)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, *[1.0] * 7])


def test_weight_decay_goes_from_start_to_end_along_a_half_cosine():
    values = [weight_decay(0.04, 0.4, step, 10) for step in range(11)]
    assert (values[0], values[10]) == pytest.approx((0.04, 0.4))
    assert values[5] == pytest.approx(0.22)
    assert values == sorted(values)
    assert values[1] - values[0] < values[5] - values[4]


@pytest.mark.parametrize("start", [0.05, 0.0])
def test_only_what_is_decayed_follows_the_annealing(tiny, start):
    options = tiny(
        f"train.weight_decay={start}", "train.weight_decay_end=0.2", "train.warmup=2"
    ).train
    model = build_segmenter(tiny("adapter.init=small"))
    plain, annealed = (
        parameter_groups(model, 1.0, None, start, end) for end in (None, options.weight_decay_end)
    )
    set_step(annealed, 2, options)
    decays = {id(p): group["weight_decay"] for group in annealed for p in group["params"]}
    assert decays[id(model.adapter.delta.weight)] == pytest.approx((start + 0.2) / 2)
    assert decays[id(model.adapter.scale)] == 0
    assert sum(len(group["params"]) for group in annealed) == sum(
        len(group["params"]) for group in plain
    )
    set_step(plain, 0, tiny("train.warmup=2").train)
    assert {group["lr"] for group in plain} == {0.5}


def test_things_are_due_every_so_many_steps_and_at_the_end():
    assert [step for step in range(1, 11) if is_due(step, 10, 4)] == [4, 8, 10]
    assert [step for step in range(1, 11) if is_due(step, 10, None)] == [10]


def test_tokens_scale_norms_and_embeddings_are_not_decayed(tiny):
    model = build_segmenter(tiny(SMALL_MASK2FORMER, "adapter.init=small"))
    groups = parameter_groups(model, lr=1.0, adapter_lr=0.5, weight_decay=0.05)
    kept = {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in kept}
    assert {"adapter.scale", "adapter.tokens.A", "head.level_embed.weight"} < names
    assert "head.pixel_decoder.level_embed" in names
    assert any("layernorm" in name for name in names)
    assert not {"adapter.delta.weight", "adapter.delta.bias"} & names
    assert not any(name.startswith("backbone") for name in names)


def test_every_trainable_parameter_is_in_one_group_at_its_rate(tiny):
    model = build_segmenter(tiny())
    groups = parameter_groups(model, lr=1.0, adapter_lr=0.5, weight_decay=0.05)
    grouped = [p for group in groups for p in group["params"]]
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert len(grouped) == len(trainable)
    assert {id(p) for p in grouped} == trainable
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert {rates[id(p)] for p in model.adapter.parameters()} == {0.5}
    assert {rates[id(p)] for p in model.head.parameters()} == {1.0}
