"""The adapter contract, and attaching one to a frozen timm ViT.

Most adapters edit patch tokens after a block: they derive from `Adapter` and write `forward`. Those
that work elsewhere in a block write `install` instead. Either way `attach` puts an adapter to work
and `Attachment.detach`, or leaving its context, gives the old model back, bit for bit.

Hooks are callable objects of module-level classes: a closure would silently break deepcopy and
pickle, a wrapper module would rename the state dict.
"""

from collections.abc import Sequence
from typing import Any, Protocol, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from causalseg.errors import ConfigError
from causalseg.spectral.grid import split_prefix


class Removable(Protocol):
    """What an installed part can do: be taken off again."""

    def remove(self) -> None:
        """Undo the installation."""


class Adapter(nn.Module):
    """What trains beside a frozen backbone.

    Args:
        width: c, channels of the backbone.
        depth: number of blocks of the backbone.
        layers: the blocks it works on, from 0; None for all.

    Raises:
        ConfigError: if a layer is no block of the backbone, or named twice.
    """

    def __init__(self, width: int, depth: int, layers: Sequence[int] | None = None):
        super().__init__()
        self.width, self.depth = width, depth
        self.layers = check_layers(layers, depth)

    def forward(
        self, tokens: Float[Tensor, "b n c"], layer: int, grid: tuple[int, int]
    ) -> Float[Tensor, "b n c"]:
        """Return the adapted patch tokens of one block.

        Args:
            tokens: patch tokens of the block, without prefix tokens.
            layer: number of the block among ``layers``, from 0.
            grid: ``(h, w)`` in patches.
        """
        raise NotImplementedError(f"{type(self).__name__} works inside the blocks: attach it")

    def queries(self) -> Float[Tensor, "q d"] | None:
        """Return queries for a query-based head, or None."""
        return None

    def install(self, vit: nn.Module) -> list[Removable]:
        """Put the adapter to work on a model; here: `forward` after each of ``layers``."""
        return install_after_blocks(vit, self, self.layers)

    def merge(self) -> None:
        """Fold an attached adapter into the backbone's weights, where the method allows it.

        For inference: the outputs stay, the cost goes, training ends. Detaching still restores the
        old model. Methods that cannot be folded do nothing here.
        """

    def rate(self, name: str) -> float:
        """Return the factor on the learning rate of a parameter, by its name."""
        return 1.0

    def is_decayed(self, name: str) -> bool:
        """Say whether weight decay acts on a parameter, beside the rules for all modules."""
        return True


class Chain(Adapter):
    """Several adapters at work on one model, in the order given.

    Args:
        adapters: made for the same width and depth; the last one that offers queries gives them.
    """

    def __init__(self, adapters: Sequence[Adapter]):
        super().__init__(adapters[0].width, adapters[0].depth)
        self.parts = nn.ModuleList(adapters)

    def queries(self) -> Float[Tensor, "q d"] | None:
        """Return the queries of the last part that offers some."""
        offers = [part.queries() for part in self._adapters()]
        return next((queries for queries in reversed(offers) if queries is not None), None)

    def install(self, vit: nn.Module) -> list[Removable]:
        """Install every part; hooks on a block run in this order."""
        handles: list[Removable] = []
        try:
            for part in self._adapters():
                handles += part.install(vit)
        except BaseException:
            Attachment(handles).detach()
            raise
        return handles

    def merge(self) -> None:
        """Fold the parts that can be folded."""
        for part in self._adapters():
            part.merge()

    def rate(self, name: str) -> float:
        """Ask the part a parameter belongs to."""
        _, index, inner = name.split(".", 2)
        return self._adapters()[int(index)].rate(inner)

    def is_decayed(self, name: str) -> bool:
        """Ask the part a parameter belongs to."""
        _, index, inner = name.split(".", 2)
        return self._adapters()[int(index)].is_decayed(inner)

    def _adapters(self) -> list[Adapter]:
        return list(self.parts)  # type: ignore[arg-type]


class Swap:
    """A parameter, submodule or flag that another one stands in for, until `remove`."""

    def __init__(self, owner: nn.Module, name: str, replacement: nn.Module | nn.Parameter | bool):
        self.owner, self.name, self.original = owner, name, getattr(owner, name)
        setattr(owner, name, replacement)

    def remove(self) -> None:
        """Put the original back, where the model is by now."""
        now, original = getattr(self.owner, self.name), self.original
        if isinstance(original, nn.Parameter):
            original.data = original.data.to(now.device, now.dtype)
        elif isinstance(original, nn.Module):
            like = next(now.parameters())
            original.to(like.device, like.dtype)
        setattr(self.owner, self.name, original)


class Attachment:
    """An adapter at work on a model; a context manager that detaches on leaving."""

    def __init__(self, handles: list[Removable]):
        self._handles = handles

    def detach(self) -> None:
        """Take the adapter off; the model computes what it did before. Safe to call twice."""
        while self._handles:
            self._handles.pop().remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()


def attach(vit: nn.Module, adapter: Adapter) -> Attachment:
    """Put ``adapter`` to work on a timm ViT.

    The ``requires_grad`` of the model's parameters stays as it is: freeze the model yourself where
    you want it frozen. With activation checkpointing, finish the backward pass of one image size
    before the forward pass of another: blocks are recomputed on the grid of the last image.

    Args:
        vit: a timm VisionTransformer (``blocks``, ``patch_embed``, ``num_prefix_tokens``).
        adapter: made for this width and depth.

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
    if not isinstance(adapter, Adapter):
        raise ConfigError(
            f"{type(adapter).__name__} is no adapter: derive it from causalseg.adapters.base."
            "Adapter and write its forward(tokens, layer, grid)"
        )
    _check_fit(vit, adapter)
    return Attachment(adapter.install(vit))


def install_after_blocks(vit: nn.Module, edit: nn.Module, layers: Sequence[int]) -> list[Removable]:
    """Call ``edit(patch tokens, number, grid)`` after each of ``layers``; prefix tokens pass by."""
    grid = _PatchGrid(tuple(vit.patch_embed.patch_size))  # type: ignore[union-attr, arg-type]
    handles: list[Removable] = [vit.patch_embed.register_forward_pre_hook(grid)]  # type: ignore[union-attr]
    for number, layer in enumerate(layers):
        hook = _AfterBlock(edit, number, grid, vit.num_prefix_tokens)  # type: ignore[arg-type]
        handles.append(vit.blocks[layer].register_forward_hook(hook))  # type: ignore[index, union-attr]
    return handles


def check_layers(layers: Sequence[int] | None, depth: int) -> tuple[int, ...]:
    """Return the blocks that ``layers`` names, in order; None means all.

    Raises:
        ConfigError: if one is no block of the backbone, or named twice, or there is none.
    """
    chosen = tuple(range(depth)) if layers is None else tuple(sorted(layers))
    unknown = [layer for layer in chosen if not 0 <= layer < depth]
    if unknown or not chosen or len(set(chosen)) < len(chosen):
        raise ConfigError(f"layers = {list(chosen)}: give different blocks from 0 to {depth - 1}")
    return chosen


def trainable_parameters(module: nn.Module) -> int:
    """Return how many numbers of a module train."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


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
    """Runs an edit on the patch tokens that a block puts out."""

    def __init__(self, edit: nn.Module, number: int, grid: _PatchGrid, num_prefix: int):
        self.edit, self.number, self.grid, self.num_prefix = edit, number, grid, num_prefix

    def __call__(self, block: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        prefix, patches = split_prefix(output, self.num_prefix)
        edited = self.edit(patches, self.number, self.grid.size)
        return edited if self.num_prefix == 0 else torch.cat([prefix, edited], dim=1)


def _check_fit(vit: nn.Module, adapter: Adapter) -> None:
    has = (vit.embed_dim, len(vit.blocks))  # type: ignore[arg-type]
    made_for = (adapter.width, adapter.depth)
    if has != made_for:
        raise ConfigError(
            f"{type(adapter).__name__} was made for width {made_for[0]} and {made_for[1]} blocks, "
            f"the model has width {has[0]} and {has[1]} blocks: build the adapter with "
            f"width={has[0]}, depth={has[1]}"
        )
