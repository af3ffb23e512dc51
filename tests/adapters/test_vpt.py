"""VPT: prompts at the input of a block against a plain restatement of the pass."""

import math

import pytest
import torch

from causalseg.adapters.base import attach
from causalseg.adapters.vpt import Vpt
from causalseg.errors import ConfigError
from tiny_vit import make_eva, make_vit


@pytest.fixture
def adapter():
    torch.manual_seed(1)
    return Vpt(48, 3, num_prompts=4, layers=[0, 2])


@pytest.mark.parametrize(("class_token", "num_registers"), [(False, 0), (True, 0), (True, 4)])
def test_each_chosen_block_sees_its_own_prompts_and_drops_them(
    adapter, images, class_token, num_registers
):
    vit = make_vit(depth=3, class_token=class_token, reg_tokens=num_registers)
    p = class_token + num_registers
    x = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
    for block, number in ((0, 0), (1, None), (2, 1)):
        if number is None:
            x = vit.blocks[block](x)
            continue
        prompts = adapter.prompts[number].expand(2, -1, -1)
        y = vit.blocks[block](torch.cat([x[:, :p], prompts, x[:, p:]], dim=1))
        x = torch.cat([y[:, :p], y[:, p + 4 :]], dim=1)
    with attach(vit, adapter):
        assert torch.allclose(vit(images), vit.norm(x), atol=1e-6)


def test_hooks_registered_earlier_see_no_prompts(adapter, images):
    vit, shapes = make_vit(depth=3), []
    for block in vit.blocks:
        block.register_forward_hook(lambda _m, _i, output: shapes.append(output.shape[1]))
    with attach(vit, adapter):
        vit(images)
    assert shapes == [16, 16, 16]


def test_the_start_is_uniform_in_the_papers_bound():
    prompts = Vpt(48, 3, num_prompts=50).prompts.detach()
    bound = math.sqrt(6 / (3 * 16 * 16 + 48))
    assert 0.98 * bound < prompts.abs().max() <= bound
    assert prompts.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_150_prompts_in_vit_large_are_3_69_million_numbers():
    count = Vpt(1024, 24, num_prompts=150).prompts.numel()
    assert count == 24 * 150 * 1024
    assert round(count / 1e6, 2) == 3.69


def test_prompts_are_not_decayed(adapter):
    assert [name for name, _ in adapter.named_parameters()] == ["prompts"]
    assert not adapter.is_decayed("prompts")


def test_rotary_positions_are_refused():
    vit = make_eva(depth=3, use_rot_pos_emb=True)
    with pytest.raises(ConfigError, match="blocks of Eva take no further tokens.*another adapter"):
        attach(vit, Vpt(48, 3))
