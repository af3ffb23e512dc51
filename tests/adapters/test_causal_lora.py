"""Causal LoRA: its formula token by token, LoRA and SoMA as its special cases, what it refuses."""

import pytest
import torch
from torch.nn import functional

from causalseg.adapters.base import attach
from causalseg.adapters.causal_lora import CausalLora
from causalseg.adapters.peft import PeftAdapter
from causalseg.adapters.soma import Soma
from causalseg.config.adapters import CausalLoraConfig, LoraAdapterConfig
from causalseg.errors import ConfigError
from causalseg.spectral.bands import band_mask
from causalseg.spectral.transforms import dct2, idct2
from tiny_vit import make_vit, move

THIRDS = {"low": 1, "causal": 2, "high": 1}


def copy_values(adapter, like, scale=1.0):
    """Give a Causal LoRA of one part the values of peft's layers, U times ``scale``."""
    with torch.no_grad():
        for name, value in like.values.items():
            path = name.removesuffix("/default/weight")
            factor, letter = (1.0, "V") if path.endswith("A") else (scale, "U")
            adapter.values[f"{path.rpartition('/')[0]}/all/{letter}"].copy_(factor * value)


@pytest.mark.parametrize("start", ["zero", "minor"])
def test_without_a_filter_it_is_lora_or_soma_with_its_gradients(vit, images, start):
    options = {"rank": 4, "alpha": 8.0, "targets": "all"}
    if start == "zero":
        like, scale = PeftAdapter(vit, LoraAdapterConfig(**options)), 1.0
    else:
        like, scale = Soma(vit, rank=4), 0.5
    move(like)
    adapter = CausalLora(vit, **options, split={"all": 1}, init=start)
    copy_values(adapter, like, scale)
    outputs, gradients = [], []
    for each in (like, adapter):
        with attach(vit, each):
            outputs.append(vit(images))
            gradients.append(torch.autograd.grad(outputs[-1].square().mean(), each.parameters()))
    assert torch.allclose(*outputs, atol=1e-6)
    if start == "zero":
        ours = dict(
            zip((name for name, _ in adapter.named_parameters()), gradients[1], strict=True)
        )
        for (name, _), gradient in zip(like.named_parameters(), gradients[0], strict=True):
            letter = "V" if "lora_A" in name else "U"
            assert torch.allclose(
                ours[f"{name.split('/lora')[0]}/all/{letter}"], gradient, atol=1e-6
            )


def test_a_layer_gets_the_formula_and_prefix_tokens_pass_the_filter(vit):
    adapter = CausalLora(vit, rank=8, alpha=4.0, split=THIRDS, targets=["mlp.fc1"])
    move(adapter)
    assert adapter.options.ranks == {"low": 2, "causal": 4, "high": 2}
    layer, x = vit.blocks[0].mlp.fc1, torch.randn(2, 1 + 15, 48)
    masks = {"causal": band_mask((3, 5), 0.2, 0.7), "low": band_mask((3, 5), None, 0.2)}
    masks["high"] = 1 - band_mask((3, 5), None, 0.7)
    expected = layer(x)
    for part, mask in masks.items():
        V, U = (adapter.values[f"blocks/0/mlp/fc1/{part}/{letter}"] for letter in "VU")
        hidden = functional.linear(x, V)
        grid = dct2(hidden[:, 1:].unflatten(1, (3, 5))) * mask[..., None]
        hidden = torch.cat([hidden[:, :1], idct2(grid).flatten(1, 2)], dim=1)
        expected = expected + 0.5 * functional.linear(hidden, U)
    with attach(vit, adapter):
        vit(torch.rand(1, 3, 42, 70))  # sets the grid
        assert torch.allclose(layer(x), expected, atol=1e-5)


def test_parts_have_their_rates_and_random_gains_average_afterwards(vit, images):
    adapter = CausalLora(vit, rank=4, split=THIRDS, rates={"low": 0.25}, gains=(0.5, 1.5))
    rates = {adapter.rate(name) for name, _ in adapter.named_parameters() if "/low/" in name}
    assert rates == {0.25}
    assert adapter.rate("values.blocks/0/attn/qkv/high/U") == 1
    move(adapter)
    plain = CausalLora(vit, rank=4, split=THIRDS).eval()
    plain.load_state_dict(dict(adapter.state_dict()))  # a plain one knows no recipe
    with attach(vit, plain):
        expected = vit(images)
    with attach(vit, adapter):
        adapter.train()
        assert not torch.allclose(vit(images), vit(images), atol=1e-3)
        adapter.eval()
        assert torch.allclose(vit(images), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 2, "split": THIRDS}, "below the number of parts of split, 3"),
        ({"rates": {"low": 0.5}}, "rates names low"),
        ({"split": {"all": 1}, "band": "low_removed"}, "band has no effect with split"),
        ({"gains": (0.5, 1.5)}, "gains has no effect with neither low nor high"),
        ({"split": {"low": 1}, "band": {"low": None}}, "leaves nothing for it"),
        ({"init": "minor", "split": {"low": 1}, "gains": (1.0, 2.0)}, "gains has no effect"),
        ({"init": "minor", "rank": 50}, "48 singular components"),
    ],
)
def test_options_without_effect_are_refused(vit, options, message):
    with pytest.raises(ConfigError, match=message):
        CausalLora(vit, **options)


@pytest.mark.parametrize(("rank", "ranks"), [(16, [4, 8, 4]), (5, [2, 2, 1]), (3, [1, 1, 1])])
def test_every_part_has_a_channel_and_all_are_used(rank, ranks):
    assert list(CausalLoraConfig(rank=rank, split=THIRDS).ranks.values()) == ranks


def test_it_is_attached_once_and_to_models_of_token_sequences(vit):
    adapter = CausalLora(vit, rank=2)
    with attach(vit, adapter), pytest.raises(ConfigError, match="detach it first"):
        attach(make_vit(), adapter)
    attach(make_vit(), adapter).detach()
