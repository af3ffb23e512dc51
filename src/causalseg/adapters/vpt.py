"""VPT (Jia et al., ECCV 2022, arXiv 2203.12119), deep: learnt tokens at the input of every block.

    [prefix, _, patches] of block l = block_l([prefix, P_l, patches])

The prompts P_l take part in the attention of their block only; their outputs are dropped.
"""

from typing import Any

import torch
from jaxtyping import Float
from timm.models.beit import Beit
from torch import Tensor, nn

from causalseg.adapters.base import Adapter, Removable
from causalseg.adapters.tokens import draw_uniform
from causalseg.backbones.trunk import find_trunk
from causalseg.config.adapters import VptConfig
from causalseg.config.mistakes import check
from causalseg.errors import ConfigError
from causalseg.spectral.grid import split_prefix


class Vpt(Adapter):
    """Prompts of every block, behind the prefix tokens."""

    has_one_width = True

    def __init__(self, width: int, depth: int, **options: Any):
        checked = check(VptConfig, options)
        super().__init__(width, depth, checked.layers)
        self.options = checked
        self.prompts = draw_uniform((len(self.layers), checked.num_prompts, width), width)

    def install(self, vit: nn.Module) -> list[Removable]:
        """Hook the prompts into the blocks.

        Raises ConfigError if they count tokens for their positions, or have no token sequences.
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
            hook = _PromptHook(self, number, trunk.num_prefix)
            handles.append(block.register_forward_pre_hook(hook.insert))
            # First of the hooks, so that other adapters never see prompts.
            handles.append(block.register_forward_hook(hook.drop, prepend=True))
        return handles

    def is_decayed(self, name: str) -> bool:
        """Prompts are learnt inputs, which need not be small."""
        return False


class _PromptHook:
    """Inserts the prompts of a block behind its prefix tokens and drops their outputs."""

    def __init__(self, adapter: Vpt, number: int, num_prefix: int):
        self.adapter, self.number, self.num_prefix = adapter, number, num_prefix

    def insert(self, block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        tokens: Float[Tensor, "b p_n c"] = inputs[0]
        prefix, patches = split_prefix(tokens, self.num_prefix)
        prompts = self.adapter.prompts[self.number].to(tokens.dtype)
        prompts = prompts.expand(tokens.shape[0], -1, -1)
        return (torch.cat([prefix, prompts, patches], dim=1), *inputs[1:])

    def drop(self, block: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        prefix, rest = split_prefix(output, self.num_prefix)
        patches = rest[:, self.adapter.prompts.shape[1] :]
        return patches if self.num_prefix == 0 else torch.cat([prefix, patches], dim=1)
