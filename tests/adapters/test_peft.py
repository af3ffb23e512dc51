"""Peft's layers inside a ViT: formulas, every type offered, dropout, merging, mistakes."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

from causalseg.adapters.base import Chain, attach
from causalseg.adapters.peft import PEFT_TYPES, PeftAdapter
from causalseg.config.adapters import DoraAdapterConfig, LoraAdapterConfig, PeftAdapterConfig
from causalseg.errors import ConfigError
from tiny_vit import make_eva, make_vit, move

# Options that fit a width of 48, and make the start the backbone where peft's default does not.
OPTIONS = {
    "C3A": {"block_size": 8, "init_weights": True},
    "FOURIERFT": {"n_frequency": 20, "init_weights": True},
    "GRALORA": {"r": 4},
    "MISS": {"r": 4},
    "OFT": {"oft_block_size": 8},
    "PEANUT": {"r": 4},
    "RANDLORA": {"r": 4},
    "ROAD": {"group_size": 8},
    "WAVEFT": {"n_frequency": 20},
}


@pytest.fixture
def tokens():
    return torch.rand(2, 16, 48, generator=torch.Generator().manual_seed(4))


def test_lora_adds_a_scaled_product_to_the_weight(vit, tokens):
    adapter = PeftAdapter(vit, LoraAdapterConfig(rank=4, alpha=6))
    move(adapter)
    layer = vit.blocks[1].attn.qkv
    A = adapter.values["blocks/1/attn/qkv/lora_A/default/weight"]
    B = adapter.values["blocks/1/attn/qkv/lora_B/default/weight"]
    expected = tokens @ (layer.weight + 6 / 4 * B @ A).T + layer.bias
    with attach(vit, adapter):
        assert torch.allclose(vit.blocks[1].attn.qkv(tokens), expected, atol=1e-5)


def test_dora_gives_the_rows_of_the_sum_a_learnt_length(vit, tokens):
    adapter = PeftAdapter(vit, DoraAdapterConfig(rank=4, alpha=6))
    layer = vit.blocks[1].attn.qkv
    names = (
        "lora_A/default/weight",
        "lora_B/default/weight",
        "lora_magnitude_vector/default/weight",
    )
    A, B, m = (adapter.values[f"blocks/1/attn/qkv/{name}"] for name in names)
    assert torch.allclose(m, layer.weight.norm(dim=1))
    move(adapter)
    V = layer.weight + 6 / 4 * B @ A
    expected = tokens @ (m[:, None] * V / V.norm(dim=1, keepdim=True)).T + layer.bias
    with attach(vit, adapter):
        assert torch.allclose(vit.blocks[1].attn.qkv(tokens), expected, atol=1e-5)


def test_rank_8_on_qkv_of_vit_large_is_786432_numbers():
    one_block = PeftAdapter(
        make_vit(embed_dim=1024, depth=1, num_heads=16), LoraAdapterConfig(rank=8)
    )
    count = sum(parameter.numel() for parameter in one_block.parameters())
    assert count == 8 * (1024 + 3 * 1024)
    assert 24 * count == 786_432


@pytest.mark.parametrize("type", PEFT_TYPES)
def test_every_type_offered_keeps_the_contract(type, vit, images):
    def make(seed):
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # hints of peft on sizes
            return PeftAdapter(vit, PeftAdapterConfig(type=type, options=OPTIONS.get(type, {})))

    before = vit(images)
    adapter, other = make(1), make(2)
    with attach(vit, adapter):
        assert torch.allclose(vit(images), before, atol=1e-4)
        move(adapter)
        expected = vit(images)
        assert not torch.allclose(expected, before, atol=1e-3)
        alone = torch.cat([vit(image[None]) for image in images])
        assert torch.allclose(alone, expected, atol=1e-5)
        expected.square().mean().backward()
        assert all(p.grad.abs().sum() > 0 for p in adapter.parameters())
        twin = pickle.loads(pickle.dumps(nn.ModuleDict({"vit": vit, "adapter": adapter})))
        assert torch.equal(twin["vit"](images), expected)
        adapter.merge()
        assert torch.allclose(vit(images), expected, atol=1e-5)
    assert torch.equal(vit(images), before)
    other.load_state_dict(adapter.state_dict())
    with attach(vit, other):
        assert torch.equal(vit(images), expected)


def test_trained_biases_start_as_the_frozen_ones_and_stand_in_for_them(vit, tokens):
    layer = vit.blocks[1].attn.qkv
    nn.init.normal_(layer.bias)
    adapter = PeftAdapter(vit, LoraAdapterConfig(rank=4, bias="adapted"))
    frozen, value = layer.bias, adapter.values["blocks/1/attn/qkv/bias"]
    assert torch.equal(value, frozen)
    assert value.requires_grad
    assert not adapter.is_decayed("values.blocks/1/attn/qkv/bias")
    before = layer(tokens)
    with torch.no_grad():
        value += 2
    with attach(vit, adapter):
        assert torch.allclose(vit.blocks[1].attn.qkv(tokens), before + 2, atol=1e-5)
        adapter.merge()
        assert torch.allclose(vit.blocks[1].attn.qkv.bias, frozen + 2)
    assert layer.bias is frozen
    assert torch.equal(layer(tokens), before)


def test_dora_adds_a_trained_bias_once(vit, tokens):
    adapter = PeftAdapter(vit, DoraAdapterConfig(rank=4, bias="adapted"))
    before = vit.blocks[1].attn.qkv(tokens)
    with torch.no_grad():
        adapter.values["blocks/1/attn/qkv/bias"].add_(2)
    with attach(vit, adapter):
        assert torch.allclose(vit.blocks[1].attn.qkv(tokens), before + 2, atol=1e-5)


def test_layers_without_a_bias_have_none_to_train_and_one_at_least_must_have_it():
    vit = make_vit(qkv_bias=False)
    adapter = PeftAdapter(vit, LoraAdapterConfig(targets="all", bias="adapted", layers=[1]))
    biases = {key for key in adapter.values if key.endswith("/bias")}
    assert biases == {f"blocks/1/{name}/bias" for name in ("attn/proj", "mlp/fc1", "mlp/fc2")}
    with pytest.raises(ConfigError, match=r"no effect: blocks.0.attn.qkv, blocks.1.* no bias"):
        PeftAdapter(vit, LoraAdapterConfig(bias="adapted"))


def test_a_model_without_the_trained_biases_is_refused(vit):
    adapter = PeftAdapter(vit, LoraAdapterConfig(bias="adapted"))
    with pytest.raises(ConfigError, match=r"blocks.0.attn.qkv .* \(144, 48\) with a bias"):
        attach(make_vit(qkv_bias=False), adapter)


def test_all_means_every_linear_layer_and_layers_choose_the_blocks(vit):
    adapter = PeftAdapter(vit, LoraAdapterConfig(rank=1, targets="all", layers=[1]))
    paths = {key.rsplit("/", 3)[0] for key in adapter.values}
    names = ("attn/qkv", "attn/proj", "mlp/fc1", "mlp/fc2")
    assert paths == {f"blocks/1/{name}" for name in names}


def test_dropout_works_in_training_only_and_the_backbone_stays_in_eval_mode(vit, images):
    adapter = PeftAdapter(vit, LoraAdapterConfig(rank=4, dropout=0.5))
    move(adapter)
    attach(vit, adapter)
    own = {id(module) for module in adapter._own_modules()}
    frozen = [module for module in vit.modules() if id(module) not in own]
    vit.eval()
    adapter.train()
    assert not torch.equal(vit(images), vit(images))
    assert not any(module.training for module in frozen)
    adapter.eval()
    assert torch.equal(vit(images), vit(images))


def test_merged_the_model_is_a_plain_one_with_other_weights(vit, images):
    adapter = PeftAdapter(vit, LoraAdapterConfig(rank=4))
    move(adapter)
    weight = vit.blocks[0].attn.qkv.weight
    with attach(vit, adapter):
        expected = vit(images)
        adapter.merge()
        adapter.merge()
        assert type(vit.blocks[0].attn.qkv) is nn.Linear
        plain = make_vit()
        plain.load_state_dict(vit.state_dict())
    assert torch.allclose(plain(images), expected, atol=1e-5)
    assert vit.blocks[0].attn.qkv.weight is weight


def test_buffers_of_peft_follow_a_detached_adapter(vit, images):
    adapter = PeftAdapter(vit, PeftAdapterConfig(type="DELORA", options={"r": 4}))
    move(adapter)
    with attach(vit, adapter):
        expected = vit(images)
    adapter.double()
    assert all(b.dtype == torch.float64 for m in adapter._own_modules() for b in m.buffers())
    with attach(vit.double(), adapter):
        assert torch.allclose(vit(images.double()).float(), expected, atol=1e-4)


def test_weight_decay_acts_on_matrices_only(vit):
    adapter = PeftAdapter(vit, DoraAdapterConfig(rank=4))
    decayed = {name for name, _ in adapter.named_parameters() if adapter.is_decayed(name)}
    assert {name.split("/")[4] for name in decayed} == {"lora_A", "lora_B"}
    scales = PeftAdapter(vit, PeftAdapterConfig(type="IA3"))
    assert not any(scales.is_decayed(name) for name, _ in scales.named_parameters())


def named(type, **options):
    return PeftAdapterConfig(type=type, options=options)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (named("LORRA"), "did you mean 'LORA'.*DELORA"),
        (named("VERA"), "Allowed: .*LOHA"),
        (named("LOHA", rank=4), "LOHA has no option rank: .*rank_dropout"),
        (named("LORA", bias="all"), "no option bias"),
        (named("IA3", feedforward_modules=["mlp.fc1"]), "IA3 refuses.*subset"),
        (named("C3A", block_size=7), "C3A refuses the layers.*block size"),
        (named("LORA", init_lora_weights="pissa"), "changes the frozen weight"),
        (LoraAdapterConfig(targets=["qkv", "mlp.fc1"]), "no linear layer qkv .*attn.qkv"),
        (LoraAdapterConfig(targets=[]), "no linear layer at all"),
    ],
)
def test_what_cannot_work_is_refused_and_the_model_stays_as_it_was(vit, config, message):
    before = copy.deepcopy(vit.state_dict())
    with pytest.raises(ConfigError, match=message):
        PeftAdapter(vit, config)
    assert list(vit.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in vit.state_dict().items())


def test_it_works_on_one_model_at_a_time(vit):
    adapter = PeftAdapter(vit, LoraAdapterConfig())
    with attach(vit, adapter), pytest.raises(ConfigError, match="detach it first"):
        attach(make_vit(), adapter)
    attach(make_vit(), adapter)


def test_attention_that_adds_its_bias_itself_does_not_pass_by_the_adapter(images):
    vit = make_eva()
    nn.init.normal_(vit.blocks[0].attn.q_bias)
    before = vit(images)
    adapter = PeftAdapter(vit, LoraAdapterConfig(rank=2))
    with attach(vit, adapter):
        assert torch.allclose(vit(images), before, atol=1e-5)
        move(adapter)
        expected = vit(images)
        assert not torch.allclose(expected, before, atol=1e-3)
        adapter.merge()
        assert torch.allclose(vit(images), expected, atol=1e-5)
    assert torch.equal(vit(images), before)


def test_two_adapters_on_one_layer_are_refused(vit, images):
    first, second = PeftAdapter(vit, LoraAdapterConfig()), PeftAdapter(vit, DoraAdapterConfig())
    with pytest.raises(ConfigError, match=r"blocks.0.attn.qkv .* only one adapter"):
        attach(vit, Chain([first, second]))


def test_a_model_with_other_layers_is_refused(vit):
    adapter = PeftAdapter(vit, LoraAdapterConfig(targets=["mlp.fc1"]))
    other = make_vit()
    other.blocks[1].mlp.fc1 = nn.Linear(48, 96)
    names = list(other.state_dict())
    with pytest.raises(ConfigError, match=r"blocks.1.mlp.fc1 .* shape \(192, 48\)"):
        attach(other, adapter)
    assert list(other.state_dict()) == names


def test_layers_that_are_read_past_are_refused():
    vit = make_vit()
    vit.blocks[1] = torch.nn.TransformerEncoderLayer(48, 3, 96, batch_first=True)
    with pytest.raises(ConfigError, match=r"blocks\.1 has one of torch's own attention layers"):
        PeftAdapter(vit, LoraAdapterConfig(targets="all"))
