"""The adapter contract, and attaching one to a frozen timm ViT.

An adapter edits patch tokens after every block. `attach` registers one forward hook a block and is
undone by `Attachment.detach` or by leaving its context; the model is then the old one, bit for bit.
The hooks are callable objects of a module-level class: a closure would silently break deepcopy and
pickle, a wrapper module would rename the state dict.
"""

from typing import Any, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from causalseg.errors import ConfigError
from causalseg.spectral.grid import split_prefix


@runtime_checkable
class Adapter(Protocol):
    """What every adapter offers, beside being an `nn.Module`."""

    width: int
    depth: int

    def forward(
        self, tokens: Float[Tensor, "b n c"], layer: int, grid: tuple[int, int]
    ) -> Float[Tensor, "b n c"]:
        """Return the adapted patch tokens of block ``layer``."""

    def queries(self) -> Float[Tensor, "q d"] | None:
        """Return queries for a query-based head, or None."""


class _PatchGrid:
    """Notes the patch grid of the image that enters the model: the blocks do not know it."""

    def __init__(self, patch: tuple[int, int]):
        self.patch = patch
        self.size = (0, 0)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        H, W = inputs[0].shape[-2:]
        self.size = (H // self.patch[0], W // self.patch[1])

    def __getstate__(self) -> dict[str, Any]:
        # The size may be symbolic after a trace; the next image sets it again.
        return {"patch": self.patch, "size": (0, 0)}


class _AfterBlock:
    """Runs the adapter on the patch tokens that a block puts out."""

    def __init__(self, adapter: nn.Module, layer: int, grid: _PatchGrid, num_prefix: int):
        self.adapter, self.layer, self.grid, self.num_prefix = adapter, layer, grid, num_prefix

    def __call__(self, block: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        prefix, patches = split_prefix(output, self.num_prefix)
        adapted = self.adapter(patches, self.layer, self.grid.size)
        return adapted if self.num_prefix == 0 else torch.cat([prefix, adapted], dim=1)


class Attachment:
    """An adapter at work on a model; a context manager that detaches on leaving."""

    def __init__(self, handles: list[torch.utils.hooks.RemovableHandle]):
        self._handles = handles

    def detach(self) -> None:
        """Take the adapter off; the model computes what it did before. Safe to call twice."""
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()


def attach(vit: nn.Module, adapter: nn.Module) -> Attachment:
    """Run ``adapter`` after every block of a timm ViT.

    The model's parameters and their names stay as they are, and so does their ``requires_grad``:
    freeze the model yourself where you want it frozen. With activation checkpointing, finish the
    backward pass of one image size before the forward pass of another: blocks are recomputed on
    the grid of the last image.

    Args:
        vit: a timm VisionTransformer (``blocks``, ``patch_embed``, ``num_prefix_tokens``).
        adapter: a module with the `Adapter` contract, made for this width and depth.

    Returns:
        The attachment; use it as a context or call its ``detach``.

    Raises:
        ConfigError: if the model has no block list, or the adapter does not fit its depth or width.
    """
    missing = [
        name for name in ("blocks", "patch_embed", "num_prefix_tokens") if not hasattr(vit, name)
    ]
    if missing:
        raise ConfigError(
            f"{type(vit).__name__} has no {', '.join(missing)}: attach takes a timm ViT such as "
            "timm.create_model('vit_small_patch14_dinov2')"
        )
    _check_fit(vit, adapter)
    grid = _PatchGrid(tuple(vit.patch_embed.patch_size))  # type: ignore[union-attr, arg-type]
    handles = [vit.patch_embed.register_forward_pre_hook(grid)]  # type: ignore[union-attr]
    for layer, block in enumerate(vit.blocks):  # type: ignore[arg-type]
        hook = _AfterBlock(adapter, layer, grid, vit.num_prefix_tokens)  # type: ignore[arg-type]
        handles.append(block.register_forward_hook(hook))
    return Attachment(handles)


def _check_fit(vit: nn.Module, adapter: nn.Module) -> None:
    has = (vit.embed_dim, len(vit.blocks))  # type: ignore[arg-type]
    made_for = (adapter.width, adapter.depth)
    if has != made_for:
        raise ConfigError(
            f"{type(adapter).__name__} was made for width {made_for[0]} and {made_for[1]} blocks, "
            f"the model has width {has[0]} and {has[1]} blocks: build the adapter with "
            f"width={has[0]}, depth={has[1]}"
        )


def trainable_parameters(module: nn.Module) -> int:
    """Return how many numbers of a module train."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
