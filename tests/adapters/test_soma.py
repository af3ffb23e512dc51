"""SoMA: which components train, and what is left of the weight."""

import pytest
import torch

from causalseg.adapters.base import attach
from causalseg.adapters.soma import Soma, minor_components
from causalseg.errors import ConfigError
from tiny_vit import make_vit


@pytest.fixture
def vit():
    vit = make_vit()
    for parameter in vit.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return vit


@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (12, 12)])
def test_the_factors_are_the_smallest_singular_components(shape):
    W = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    B0, A0 = minor_components(W, 5)
    assert B0.shape == (shape[0], 5)
    assert A0.shape == (5, shape[1])
    smallest = torch.linalg.svdvals(W)[-5:]
    assert torch.allclose(torch.linalg.svdvals(B0 @ A0)[:5], smallest, atol=1e-5)
    assert torch.allclose(B0.T @ B0, smallest.diag(), atol=1e-5)
    assert torch.allclose(A0 @ A0.T, smallest.diag(), atol=1e-5)


def test_the_frozen_weight_keeps_all_but_the_components_that_train(vit):
    layer = vit.blocks[1].mlp.fc1
    W = layer.weight
    with attach(vit, Soma(vit, rank=6)):
        residual = layer.weight
        assert not residual.requires_grad
        spectrum, rest = torch.linalg.svdvals(W), torch.linalg.svdvals(residual)
        assert torch.allclose(rest[:-6], spectrum[:-6], atol=1e-5)
        assert rest[-6:].max() < 1e-5 < spectrum[-6:].min()
    assert layer.weight is W


def test_after_training_the_weight_is_the_residual_plus_the_product(vit):
    adapter = Soma(vit, rank=6, targets=["attn.qkv"])
    layer = vit.blocks[0].attn.qkv
    names = [f"blocks/0/attn/qkv/lora_{letter}/default/weight" for letter in "BA"]
    B, A = (adapter.values[name] for name in names)
    expected = layer.weight - B.detach() @ A.detach()
    with torch.no_grad():
        B += 0.1
        A -= 0.2
    x = torch.rand(3, 48)
    with attach(vit, adapter):
        given = vit.blocks[0].attn.qkv(x)
        adapter.merge()
        merged = vit.blocks[0].attn.qkv.weight
    assert torch.allclose(given, x @ (expected + B @ A).T + layer.bias, atol=1e-5)
    assert torch.allclose(merged, expected + B @ A, atol=1e-6)


def test_made_again_for_the_same_backbone_it_is_the_same(vit, images):
    first, second = Soma(vit, rank=4), Soma(vit, rank=4)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter *= 1.5
    second.load_state_dict(first.state_dict())
    with attach(vit, first):
        expected = vit(images)
    with attach(vit, second):
        assert torch.equal(vit(images), expected)


def test_biases_of_all_adapted_layers_train_where_asked_for(vit):
    plain, adapter = Soma(vit, rank=2), Soma(vit, rank=2, bias="adapted")
    biases = {key: value for key, value in adapter.values.items() if key not in plain.values}
    assert len(biases) == 8  # of every linear layer
    for key, value in biases.items():
        assert torch.equal(value, vit.get_parameter(key.replace("/", ".")))
        assert not adapter.is_decayed(f"values.{key}")


def test_a_rank_above_the_number_of_components_is_refused(vit):
    with pytest.raises(ConfigError, match=r"rank = 49: blocks.0.attn.qkv has 48 singular"):
        Soma(vit, rank=49)
