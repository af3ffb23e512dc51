"""What adapters that work inside the blocks must keep beside the contract of all adapters."""

import copy
import pickle

import pytest
import torch
from torch import nn

from causalseg.adapters.adaptformer import AdaptFormer
from causalseg.adapters.base import Chain, attach
from causalseg.adapters.causal_tune import CausalTune
from causalseg.adapters.full import FullTune
from causalseg.adapters.peft import PeftAdapter
from causalseg.adapters.soma import Soma
from causalseg.adapters.vpt import Vpt
from causalseg.config.adapters import DoraAdapterConfig, LoraAdapterConfig, PeftAdapterConfig
from tiny_vit import make_vit, move

ADAPTERS = {
    "lora": lambda vit: PeftAdapter(vit, LoraAdapterConfig(rank=4)),
    "lora-all": lambda vit: PeftAdapter(vit, LoraAdapterConfig(targets="all", layers=[1])),
    "dora": lambda vit: PeftAdapter(vit, DoraAdapterConfig(rank=4)),
    "loha": lambda vit: PeftAdapter(vit, PeftAdapterConfig(type="LOHA", options={"r": 2})),
    "ia3": lambda vit: PeftAdapter(vit, PeftAdapterConfig(type="IA3", targets=["attn.proj"])),
    "soma": lambda vit: Soma(vit, rank=4),
    "full": lambda vit: FullTune(vit),
    "full-layers": lambda vit: FullTune(vit, layers=[1]),
    "adaptformer": lambda vit: AdaptFormer(48, 2, bottleneck=8, scale=1),
    "vpt": lambda vit: Vpt(48, 2, num_prompts=4),
}


def features(vit, images):
    """The outputs of both blocks, as the frozen backbone gives them."""
    return torch.cat(
        vit.forward_intermediates(images, norm=False, intermediates_only=True, output_fmt="NCHW")
    )


@pytest.fixture(params=ADAPTERS)
def kind(request):
    return request.param


@pytest.fixture
def adapter(kind, vit):
    torch.manual_seed(1)
    return ADAPTERS[kind](vit)


def test_its_state_is_exactly_what_trains(vit, adapter):
    names = {name for name, p in adapter.named_parameters() if p.requires_grad}
    for attached in (False, True):
        if attached:
            attach(vit, adapter)
        assert set(adapter.state_dict()) == names


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_the_adapter_alone_fits_another_model(vit, adapter, images, copy_of):
    move(adapter)
    twin, other = copy_of(adapter), make_vit()
    attach(vit, adapter)
    attach(other, twin)
    expected = features(vit, images)
    assert torch.equal(features(other, images), expected)
    twin.load_state_dict({key: 0 * value for key, value in twin.state_dict().items()})
    assert not torch.allclose(features(other, images), expected, atol=1e-3)
    assert torch.equal(features(vit, images), expected)


def test_in_bfloat16_as_a_whole_its_features_stay_close(vit, adapter, images):
    move(adapter)
    attach(vit, adapter)
    expected = features(vit, images)
    nn.ModuleList([vit, adapter]).bfloat16()
    half = features(vit, images.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - expected).norm() < 0.05 * expected.norm()


def test_a_float32_adapter_works_on_a_bfloat16_model(kind, vit, adapter, images):
    if kind.startswith("full"):
        pytest.skip("here the adapter is the model: both have one dtype")
    attach(vit.bfloat16(), adapter)
    assert torch.isfinite(features(vit, images.bfloat16())).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_made_for_a_model_in_half_precision_every_part_trains(kind, images, dtype):
    if kind.startswith("full"):
        pytest.skip("here the adapter is the model: both have one dtype")
    vit = make_vit().to(dtype)
    torch.manual_seed(1)
    adapter = ADAPTERS[kind](vit)
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    before = {name: p.detach().clone() for name, p in adapter.named_parameters()}
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-4, weight_decay=0)
    with attach(vit, adapter):
        for _ in range(10):
            features(vit, images.to(dtype)).float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    for name, parameter in adapter.named_parameters():
        assert torch.isfinite(parameter).all(), name
        assert (parameter != before[name]).float().mean() > 0.8, name  # a unit may be off


def test_attached_again_or_converted_with_the_model_it_works_the_same(vit, adapter, images):
    move(adapter)
    with attach(vit, adapter):
        expected = features(vit, images)
    with attach(vit, adapter):
        assert torch.equal(features(vit, images), expected)
    with attach(vit.double(), adapter.double()):
        doubled = features(vit, images.double())
    assert doubled.dtype == torch.float64
    assert torch.allclose(doubled.float(), expected, atol=1e-4)


def test_in_a_chain_another_adapter_sees_patch_tokens_only(vit, adapter, images):
    after = CausalTune(48, 2, init={"kind": "small", "scale": 0.5})
    before = features(vit, images)
    with attach(vit, Chain([adapter, after])):
        chained = features(vit, images)
    assert chained.shape == before.shape
    assert torch.equal(features(vit, images), before)
    with attach(vit, Chain([after, adapter])):
        assert torch.allclose(features(vit, images), chained, atol=1e-6)
