"""Tokens that pass the last blocks of a ViT together with its own, such as the queries of a head.

    [prefix, Q_l, patches_l] = block_l([prefix, Q_(l-1), patches_(l-1)])      in k blocks l

They are behind the prefix tokens within a block, and taken out after it: adapters edit patch tokens
alone, and the outputs of a block keep their shape. Attention is that of the block: the queries see
patch tokens and each other, and patch tokens see the queries, so that the features after these k
blocks depend on them. Rotary positions rotate them by 0.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from timm.models.beit import Beit
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from causalseg.backbones.trunk import PerThread, find_trunk
from causalseg.errors import ConfigError
from causalseg.spectral.grid import split_prefix


class JoinedTokens:
    """Lets tokens join in some blocks of a ViT, until `remove`.

    Args:
        vit: the ViT.
        layers: indices of consecutive blocks.
        make: returns the tokens that enter the first of them, always as many; called in every pass.

    Raises:
        ConfigError: if the blocks take no further tokens.
    """

    def __init__(
        self, vit: nn.Module, layers: Sequence[int], make: Callable[[], Float[Tensor, "q c"]]
    ):
        check_takes_tokens(vit)
        trunk = find_trunk(vit)
        self.handles: list[RemovableHandle] = []
        self.last: _Passage | None = None
        for layer in layers:
            enter = make if self.last is None else self.last.passed.get
            self.last = _Passage(enter, trunk.num_prefix)
            block = vit.get_submodule(trunk.names[layer])
            self.handles += [
                block.register_forward_pre_hook(self.last.insert, with_kwargs=True),
                # First of the hooks, so that adapters see patch tokens alone.
                block.register_forward_hook(self.last.take, prepend=True),
            ]

    @property
    def outputs(self) -> Float[Tensor, "b q c"]:
        """The tokens after the last of the blocks, in the last pass of this thread."""
        assert self.last is not None
        passed = self.last.passed.get()
        assert passed is not None
        return passed

    def remove(self) -> None:
        """Restore the ViT."""
        while self.handles:
            self.handles.pop().remove()


def check_takes_tokens(vit: nn.Module) -> None:
    """Raise ConfigError if the blocks of a model take no further tokens."""
    if find_trunk(vit).layout != "tokens" or isinstance(vit, Beit):
        raise ConfigError(
            f"the blocks of {type(vit).__name__} take no queries beside the patch tokens: choose "
            "head=mask2former, or a ViT without windows and relative positions, such as DINOv2"
        )


class _Passage:
    """Inserts tokens at the input of a block and takes them out of its output."""

    def __init__(self, enter: Callable[[], Tensor | None], num_prefix: int):
        self.enter, self.num_prefix = enter, num_prefix
        self.count = 0
        self.passed = PerThread[Tensor]()

    def insert(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        joining = self.enter()
        assert joining is not None
        self.count = joining.shape[-2]
        prefix, patches = split_prefix(args[0], self.num_prefix)
        joining = joining.to(patches.dtype).expand(patches.shape[0], -1, -1)
        if kwargs.get("rope") is not None:
            kwargs = {**kwargs, "rope": _extend(kwargs["rope"], self.count)}
        return (torch.cat([prefix, joining, patches], dim=1), *args[1:]), kwargs

    def take(self, block: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        prefix, rest = split_prefix(output, self.num_prefix)
        # A block that the backward pass computes again may run in a thread of its own, which
        # would find this in the next step.
        if torch.compiler.is_compiling() or torch._C._current_graph_task_id() == -1:
            self.passed.put(rest[:, : self.count])
        return torch.cat([prefix, rest[:, self.count :]], dim=1)


def _extend(rope: Float[Tensor, "... n d"], count: int) -> Float[Tensor, "... q_n d"]:
    """Add tokens that are not rotated before the others: sines, the first half, 0; cosines 1."""
    still = torch.zeros_like(rope[..., :1, :])
    still[..., still.shape[-1] // 2 :] = 1
    return torch.cat([still.expand(*still.shape[:-2], count, -1), rope], dim=-2)
