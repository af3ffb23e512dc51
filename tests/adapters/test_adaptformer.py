"""AdaptFormer: the side path against a plain restatement of the block."""

from functools import partial

import pytest
import torch
from torch import nn

from causalseg.adapters.adaptformer import AdaptFormer
from causalseg.adapters.base import attach
from causalseg.errors import ConfigError
from tiny_vit import make_eva, make_vit


@pytest.fixture
def adapter():
    torch.manual_seed(1)
    adapter = AdaptFormer(48, 2, bottleneck=8, scale=0.7)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return adapter


def test_a_block_is_the_papers_formula(adapter):
    vit, x = make_vit(), torch.rand(2, 16, 48)
    block, side = vit.blocks[1], adapter.sides[1]
    attended = x + block.ls1(block.attn(block.norm1(x)))
    normed = block.norm2(attended)
    hidden = torch.relu(normed @ side.down.weight.T + side.down.bias)
    expected = attended + block.ls2(block.mlp(normed))
    expected = expected + 0.7 * (hidden @ side.up.weight.T + side.up.bias)
    with attach(vit, adapter):
        assert torch.allclose(block(x), expected, atol=1e-6)


@pytest.mark.parametrize("make", [make_vit, partial(make_eva, use_rot_pos_emb=True)])
def test_it_works_in_blocks_of_vit_and_eva(make, adapter, images):
    vit = make()
    before = vit(images)
    with attach(vit, AdaptFormer(48, 2)):
        assert torch.equal(vit(images), before)
    with attach(vit, adapter):
        changed = (vit(images) != before).any(-1)
    assert changed.all()  # prefix tokens too
    assert torch.equal(vit(images), before)


def test_only_the_chosen_blocks_change(images):
    vit, adapter = make_vit(), AdaptFormer(48, 2, bottleneck=8, layers=[1])
    nn.init.ones_(adapter.sides[0].up.bias)
    plain = vit.forward_intermediates(images, norm=False, intermediates_only=True)
    with attach(vit, adapter):
        adapted = vit.forward_intermediates(images, norm=False, intermediates_only=True)
    assert torch.equal(adapted[0], plain[0])
    assert not torch.allclose(adapted[1], plain[1], atol=1e-3)


def test_no_features_are_kept_after_a_pass(adapter, images):
    vit = make_vit()
    with attach(vit, adapter):
        vit(images)
        hooks = [h for b in vit.blocks for h in b.drop_path2._forward_hooks.values()]
        assert len(hooks) == 2
        assert all(hook.__self__.tokens.get() is None for hook in hooks)


def test_bottleneck_64_in_vit_large_is_3_17_million_numbers():
    count = sum(p.numel() for p in AdaptFormer(1024, 24, bottleneck=64).parameters())
    assert count == 24 * (2 * 64 * 1024 + 64 + 1024)
    assert round(count / 1e6, 2) == 3.17


def test_blocks_of_another_make_are_refused(adapter):
    vit = make_vit()
    vit.blocks[1] = nn.Identity()
    with pytest.raises(ConfigError, match="Identity has no mlp and drop_path2"):
        attach(vit, adapter)
    assert not vit.blocks[0].mlp._forward_hooks
