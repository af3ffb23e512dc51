"""Full fine-tuning: what trains, how fast, and what is decayed."""

from functools import partial

import pytest
import torch

from causalseg.adapters.base import Chain, attach
from causalseg.adapters.full import FullTune
from causalseg.adapters.peft import PeftAdapter
from causalseg.config.adapters import LoraAdapterConfig
from causalseg.errors import ConfigError
from tiny_vit import make_vit

make_model = partial(make_vit, depth=3, num_classes=7, global_pool="token", reg_tokens=4)


@pytest.fixture
def vit():
    return make_model()


def test_everything_before_the_last_norm_trains(vit):
    names = {key.replace("/", ".") for key in FullTune(vit).values}
    unused = {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert names == set(dict(vit.named_parameters())) - unused
    assert {"patch_embed.proj.weight", "pos_embed", "cls_token", "reg_token"} < names


def test_chosen_layers_train_and_nothing_beside_them(vit):
    names = {key.replace("/", ".") for key in FullTune(vit, layers=[0, 2]).values}
    starts = ("blocks.0.", "blocks.2.")
    assert names == {name for name in dict(vit.named_parameters()) if name.startswith(starts)}


def test_the_stem_trains_with_some_blocks_where_it_is_asked_for(vit):
    names = {key.replace("/", ".") for key in FullTune(vit, layers=[0], has_stem=True).values}
    assert {"patch_embed.proj.weight", "pos_embed", "cls_token"} < names
    assert {name.split(".")[1] for name in names if name.startswith("blocks.")} == {"0"}
    assert "norm.weight" not in names


def test_the_rate_falls_from_the_last_block_to_the_embedding(vit):
    adapter = FullTune(vit, rate=0.2, layer_decay=0.5)
    names = dict(adapter.named_parameters())
    expected = {"blocks/2": 0.2, "blocks/1": 0.1, "blocks/0": 0.05, "": 0.025}
    for start, rate in expected.items():
        found = [name for name in names if f"values.{start}" in name]
        if not start:
            found = [name for name in names if "blocks" not in name]
        assert found
        assert all(adapter.rate(name) == pytest.approx(rate) for name in found)


def test_weight_decay_acts_on_weight_matrices_only(vit):
    adapter = FullTune(vit)
    decayed = {n.removeprefix("values.") for n in dict(adapter.named_parameters())}
    decayed = {name for name in decayed if adapter.is_decayed(f"values.{name}")}
    layers = ("attn/qkv", "attn/proj", "mlp/fc1", "mlp/fc2")
    expected = {f"blocks/{block}/{layer}/weight" for block in range(3) for layer in layers}
    assert decayed == expected | {"patch_embed/proj/weight"}


def test_lora_can_work_on_top_of_it_but_not_below(vit, images):
    full, lora = FullTune(vit), PeftAdapter(vit, LoraAdapterConfig(rank=2))
    before = vit(images)
    with attach(vit, Chain([full, lora])):
        assert torch.allclose(vit(images), before, atol=1e-6)
    assert torch.equal(vit(images), before)
    with attach(vit, lora), pytest.raises(ConfigError, match="this adapter before others"):
        attach(vit, full)
    assert torch.equal(vit(images), before)


@pytest.mark.parametrize("options", [{"rate": 0.0}, {"layer_decay": 0.0}, {"layer_decay": 1.1}])
def test_a_rate_out_of_range_is_refused(vit, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        FullTune(vit, **options)


def test_a_model_without_such_parameters_is_refused(vit):
    other = make_model()
    other.blocks[1].mlp.fc1 = torch.nn.Linear(48, 96)
    with pytest.raises(ConfigError, match=r"no parameter blocks.1.mlp.fc1.\w+ of shape"):
        attach(other, FullTune(vit))
