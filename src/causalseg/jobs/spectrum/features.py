"""The features after every block of a backbone, and what each block gives without its adapter."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from causalseg.adapters.base import Attachment, Removable, install_after_blocks
from causalseg.backbones.timm import FrozenBackbone
from causalseg.backbones.trunk import Trunk, find_trunk
from causalseg.spectral.grid import Features, GridSize, Tokens, split_prefix, tokens_to_grid


class BlockFeatures:
    """Gives the features after each block, after the adapter's edit if there is one."""

    def __init__(self, backbone: FrozenBackbone):
        self.backbone, self._kept = backbone, _Keep()
        self._handles = install_after_blocks(backbone.vit, self._kept, range(backbone.depth))

    @torch.inference_mode()
    def __call__(self, images: Float[Tensor, "b 3 H W"]) -> list[Features]:
        """Return the features in float32 on the CPU, the first block first; sides fit the patch."""
        self.backbone(images)
        return [self._kept.features[layer] for layer in range(self.backbone.depth)]

    def remove(self) -> None:
        """Let go of the backbone."""
        Attachment(self._handles).detach()


class UneditedBlocks:
    """Gives what each block of a frozen backbone makes of the input that the adapted one got."""

    def __init__(self, adapted: FrozenBackbone, frozen: FrozenBackbone):
        self.trunk, self.frozen = find_trunk(frozen.vit), frozen
        self._inputs: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._handles: list[Removable] = []
        self._grid: GridSize | None = None
        for layer, name in enumerate(self.trunk.names):
            hook = _KeepInputs(self._inputs, layer)
            block = adapted.vit.get_submodule(name)
            self._handles.append(
                block.register_forward_pre_hook(hook, prepend=True, with_kwargs=True)
            )

    @torch.inference_mode()
    def __call__(self, like: list[Features], images: Float[Tensor, "b 3 H W"]) -> list[Features]:
        """Return the features that belong to the last pass of the adapted backbone.

        ``like`` and ``images`` are those of that pass.
        """
        grid = (like[0].shape[1], like[0].shape[2])
        if grid != self._grid:  # some models keep what their blocks need for a size
            self.frozen(images)
            self._grid = grid
        made = []
        for layer, features in enumerate(like):
            args, kwargs = self._inputs[layer]
            output = self.frozen.vit.get_submodule(self.trunk.names[layer])(*args, **kwargs)
            size = (features.shape[1], features.shape[2])
            made.append(to_features(output, self.trunk, size).cpu())
        return made

    def remove(self) -> None:
        """Let go of the adapted backbone."""
        Attachment(self._handles).detach()
        self._inputs.clear()


def to_features(output: Any, trunk: Trunk, grid: GridSize) -> Features:
    """Return the output of a block as features in float32, without prefix tokens."""
    if isinstance(output, tuple | list):
        output = output[0]
    if trunk.layout == "tokens":
        return tokens_to_grid(split_prefix(output, trunk.num_prefix)[1], grid).float()
    return (output.movedim(1, -1) if trunk.layout == "maps" else output).float()


class _Keep(nn.Module):
    """An edit that changes nothing and keeps what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.features: dict[int, Features] = {}

    def forward(self, tokens: Tokens, layer: int, grid: GridSize) -> Tokens:
        self.features[layer] = tokens_to_grid(tokens, grid).float().cpu()
        return tokens


class _KeepInputs:
    """Keeps what a block is called with; a forward pre-hook."""

    def __init__(self, kept: dict[int, tuple[tuple[Any, ...], dict[str, Any]]], layer: int):
        self.kept, self.layer = kept, layer

    def __call__(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.kept[self.layer] = (args, kwargs)
