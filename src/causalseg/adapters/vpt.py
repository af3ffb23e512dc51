"""VPT (Jia et al., ECCV 2022, arXiv 2203.12119), deep: learnt tokens at the input of every block.

    [prefix, _, patches] of block l = block_l([prefix, P_l, patches])

The prompts P_l take part in the attention of their block only; what it makes of them is dropped.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from timm.models.beit import Beit
from torch import Tensor, nn

from causalseg.adapters.base import Adapter, Removable
from causalseg.backbones.trunk import find_trunk
from causalseg.errors import ConfigError
from causalseg.spectral.grid import split_prefix

_PATCH_INPUTS = 3 * 16 * 16  # the paper's start is that of a projection of such patches


class Vpt(Adapter):
    """Prompts of every block, behind the prefix tokens.

    Args:
        width: c, channels of the backbone.
        depth: number of blocks.
        num_prompts: m, prompts of a block.
        layers: the blocks it works on; None for all.

    Raises:
        ConfigError: if there is no prompt.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        num_prompts: int = 50,
        layers: Sequence[int] | None = None,
    ):
        super().__init__(width, depth, layers)
        if num_prompts < 1:
            raise ConfigError(f"num_prompts = {num_prompts}: one at least")
        self.prompts = nn.Parameter(torch.empty(len(self.layers), num_prompts, width))
        bound = math.sqrt(6 / (_PATCH_INPUTS + width))
        nn.init.uniform_(self.prompts, -bound, bound)

    def install(self, vit: nn.Module) -> list[Removable]:
        """Hook the prompts into the blocks.

        Raises:
            ConfigError: if the blocks take no further tokens: they count them for rotary or
                relative positions, or are no token sequences.
        """
        trunk = find_trunk(vit)
        has_rope = getattr(vit, "rope", None) is not None
        if trunk.layout != "tokens" or has_rope or isinstance(vit, Beit):
            raise ConfigError(
                f"the blocks of {type(vit).__name__} take no further tokens: use another adapter, "
                "or a plain ViT with a position embedding, such as DINOv2 or CLIP"
            )
        handles: list[Removable] = []
        for number, layer in enumerate(self.layers):
            block = vit.get_submodule(trunk.names[layer])
            insert = _InsertPrompts(self, number, trunk.num_prefix)
            drop = _DropPrompts(trunk.num_prefix, self.prompts.shape[1])
            handles.append(block.register_forward_pre_hook(insert))
            # First of the hooks, so that other adapters never see prompts.
            handles.append(block.register_forward_hook(drop, prepend=True))
        return handles

    def is_decayed(self, name: str) -> bool:
        """Prompts are learnt inputs: pulling them to zero means nothing."""
        return False


class _InsertPrompts:
    """Puts the prompts of a block behind the prefix tokens of its input."""

    def __init__(self, adapter: Vpt, number: int, num_prefix: int):
        self.adapter, self.number, self.num_prefix = adapter, number, num_prefix

    def __call__(self, block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        tokens: Float[Tensor, "b p_n c"] = inputs[0]
        prefix, patches = split_prefix(tokens, self.num_prefix)
        prompts = self.adapter.prompts[self.number].to(tokens.dtype)
        prompts = prompts.expand(tokens.shape[0], -1, -1)
        return (torch.cat([prefix, prompts, patches], dim=1), *inputs[1:])


class _DropPrompts:
    """Takes the prompts out of a block's output."""

    def __init__(self, num_prefix: int, num_prompts: int):
        self.num_prefix, self.num_prompts = num_prefix, num_prompts

    def __call__(self, block: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        prefix, rest = split_prefix(output, self.num_prefix)
        patches = rest[:, self.num_prompts :]
        return patches if self.num_prefix == 0 else torch.cat([prefix, patches], dim=1)
