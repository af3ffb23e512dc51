"""Tokens that join in the last blocks: what they and the patch tokens become, and what stays."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from causalseg.adapters.base import attach, install_after_blocks
from causalseg.adapters.rein import Rein
from causalseg.adapters.vpt import Vpt
from causalseg.backbones.joined import JoinedTokens, check_takes_tokens
from causalseg.backbones.trunk import find_trunk
from causalseg.errors import ConfigError
from families import FAMILIES, make_backbone, make_images, outputs_of
from tiny_vit import make_small, make_vit

COUNT, WIDTH = 3, 48
TAKES = ["dinov2", "dinov2_registers", "dinov2_giant", "siglip", "clip_openai", "mae"]
ROTARY = ["dinov3", "dinov3_plus", "eva02", "eva02_clip"]


def make_tokens() -> nn.Parameter:
    generator = torch.Generator().manual_seed(2)
    return nn.Parameter(torch.randn(COUNT, WIDTH, generator=generator))


def give(tokens):
    return tokens


def join(vit, layers, tokens=None) -> JoinedTokens:
    return JoinedTokens(vit, layers, partial(give, make_tokens() if tokens is None else tokens))


class CatchInputs:
    """Keeps what a block is called with."""

    def __call__(self, block, args, kwargs):
        self.args, self.kwargs = args, kwargs


@pytest.fixture(params=[*TAKES, *ROTARY])
def family(request):
    return request.param


def test_they_pass_a_block_as_prefix_tokens_do(family):
    backbone = make_backbone(family)
    p, block, caught = FAMILIES[family][2], backbone.vit.blocks[3], CatchInputs()
    images, handle = (
        make_images(backbone),
        block.register_forward_pre_hook(caught, with_kwargs=True),
    )
    with torch.no_grad():
        backbone(images)
    handle.remove()
    tokens = make_tokens()
    before = caught.args[0]
    prefix, patches = before[:, :p], before[:, p:]
    block.attn.num_prefix_tokens = p + COUNT  # rotary positions begin behind it
    with torch.no_grad():
        expected = block(torch.cat([prefix, tokens.expand(2, -1, -1), patches], 1), **caught.kwargs)
    block.attn.num_prefix_tokens = p
    joined = join(backbone.vit, [3], tokens)
    after = outputs_of(backbone, images)[3]
    torch.testing.assert_close(after[:, :p], expected[:, :p])
    torch.testing.assert_close(joined.outputs, expected[:, p : p + COUNT])
    torch.testing.assert_close(after[:, p:], expected[:, p + COUNT :])


def test_only_the_blocks_they_pass_change_until_they_are_removed(family):
    backbone = make_backbone(family)
    images = make_images(backbone, 2, 3)
    before = outputs_of(backbone, images)
    joined = join(backbone.vit, [2, 3])
    after = outputs_of(backbone, images)
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [True, True, False, False]
    assert [a.shape for a in before] == [a.shape for a in after]
    joined.remove()
    for a, b in zip(before, outputs_of(backbone, images), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("family", ["beit", "beitv2", "sam", "convnext", "resnet"])
def test_blocks_that_take_no_further_tokens_are_refused(family):
    vit = make_backbone(family).vit
    with pytest.raises(ConfigError, match=f"{type(vit).__name__} take no queries"):
        check_takes_tokens(vit)


def test_edits_see_patch_tokens_alone_and_prompts_join_in_either_order():
    class Look(nn.Module):
        def forward(self, tokens, layer, grid):
            seen.append((tokens.shape[1], grid))
            return tokens

    outputs = []
    images = torch.rand(2, 3, 42, 70, generator=torch.Generator().manual_seed(1))
    for prompts_first in (True, False):
        seen, vit = [], make_vit()
        torch.manual_seed(3)
        vpt = Vpt(48, 2, num_prompts=4)
        if prompts_first:
            attach(vit, vpt)
        install_after_blocks(vit, Look(), [0, 1])
        joined = join(vit, [0, 1])
        if not prompts_first:
            attach(vit, vpt)
        with torch.no_grad():
            outputs.append((vit(images), joined.outputs))
        assert seen == [(15, (3, 5))] * 2
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("layers", [[3], [1, 2, 3]])
def test_activation_checkpointing_gives_the_same_gradients_in_every_step(layers):
    gradients = []
    for checkpointing in (False, True):
        vit, tokens = make_vit(depth=4), make_tokens()
        vit.set_grad_checkpointing(checkpointing)
        attach(vit, make_small(Rein, 48, 4))  # so that hooks after a block are computed again
        joined, mine = join(vit, layers, tokens), []
        with ThreadPoolExecutor(1) as pool:  # one thread for all backward passes
            for seed in range(3):
                images = torch.rand(1, 3, 42, 70, generator=torch.Generator().manual_seed(seed))
                tokens.grad = None
                loss = vit(images).square().mean() + joined.outputs.square().mean()
                pool.submit(loss.backward).result()
                mine.append(tokens.grad.clone())
                with torch.no_grad():
                    tokens.mul_(-2)
        gradients.append(mine)
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_copies_have_their_own_and_threads_do_not_meet():
    model = SimpleNamespace(vit=make_vit())
    model.joined = join(model.vit, [0, 1])
    sizes = [(28, 56), (42, 42)]
    batches = [
        torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(4)) for size in sizes
    ]

    def outputs(model, images):
        with torch.no_grad():
            return model.vit(images), model.joined.outputs

    expected = [outputs(model, images) for images in batches]
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied.joined.last is not model.joined.last
        again = outputs(copied, batches[1])
        assert all(torch.equal(a, b) for a, b in zip(again, expected[1], strict=True))
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            made = list(pool.map(partial(outputs, model), batches))
            for ours, theirs in zip(made, expected, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_trunk_is_that_of_the_plain_model():
    vit = make_vit()
    before = find_trunk(vit), list(vit.state_dict())
    join(vit, [1])
    assert (find_trunk(vit), list(vit.state_dict())) == before
