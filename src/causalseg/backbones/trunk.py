"""Where a model outputs its features: after its blocks, or after its stages.

    layout   features after a block       models
    tokens   (b, p + n, c)                ViTs: p prefix tokens, then n = h w patch tokens
    grid     (b, h, w, c)                 SAM's ViT
    maps     (b, c, h, w), c per stage    ConvNeXt, ResNet: four stages

An adapter sees patch tokens (b, n, c) in any layout; `EditTokens` and `EditGrid` are the forward
hooks that convert.
"""

import threading
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import torch
from timm.layers import to_2tuple
from timm.models.convnext import ConvNeXt
from timm.models.resnet import ResNet
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from causalseg.errors import ConfigError
from causalseg.spectral.grid import GridSize, grid_to_tokens, split_prefix, tokens_to_grid

T = TypeVar("T")
Sizes = tuple[int, ...]  # one per block or stage
_NEEDED = ("blocks", "patch_embed", "embed_dim", "num_prefix_tokens")


@dataclass(frozen=True)
class Trunk:
    """The blocks of a model, or its stages, as ``layers`` counts them."""

    layout: Literal["tokens", "grid", "maps"]
    names: tuple[str, ...]  # paths of the blocks in the model
    outputs: tuple[str, ...]  # paths of the modules whose outputs are the features of the blocks
    widths: Sizes  # c after each block
    strides: Sizes  # pixels between features
    num_prefix: int = 0  # p, class and register tokens before the patch tokens
    embed: str = ""  # path of the module that takes the images of a ViT


def find_trunk(model: nn.Module) -> Trunk:
    """Return the trunk of a ViT, or of timm's ConvNeXt or ResNet.

    A ViT is one of timm, of Hugging Face's DINOv2 and DINOv3 kind, of Meta's own code, or a module
    that has ``blocks`` (with outputs (b, p + n, c)), ``patch_embed`` (with ``patch_size``; takes
    the images), ``embed_dim`` and ``num_prefix_tokens``; ConfigError if one is missing.
    """
    vit: Any = model
    if trunk := _find_in_transformers(vit):
        return trunk
    if isinstance(model, ConvNeXt | ResNet):
        stages = {info["module"]: info for info in vit.feature_info}
        names = outputs = tuple(name for name in stages if name.startswith(("stages.", "layer")))
        if isinstance(model, ResNet):
            # With activation checkpointing timm calls the blocks of a stage, never the stage.
            outputs = tuple(f"{name}.{len(vit.get_submodule(name)) - 1}" for name in names)
        widths = tuple(stages[name]["num_chs"] for name in names)
        strides = tuple(stages[name]["reduction"] for name in names)
        return Trunk("maps", names, outputs, widths, strides)
    is_sam = isinstance(model, VisionTransformerSAM)
    num_prefix = getattr(model, "num_prefix_tokens", _count_as_meta(vit))
    has = [name for name in _NEEDED if hasattr(model, name)]
    has += ["num_prefix_tokens"] * (num_prefix is not None)
    missing = [name for name in _NEEDED if name not in has and not is_sam]
    if missing:
        raise ConfigError(
            f"{type(model).__name__} has no {', '.join(missing)}: adapters work on a ViT, ConvNeXt "
            "or ResNet of timm, such as timm.create_model('vit_small_patch14_dinov2'), on DINOv2 "
            "and DINOv3 of Hugging Face and Meta, or on a module of your own that has "
            f"{', '.join(_NEEDED)}"
        )
    names = tuple(f"blocks.{i}" for i in range(len(vit.blocks)))
    widths = (vit.embed_dim,) * len(names)
    strides = (to_2tuple(vit.patch_embed.patch_size)[0],) * len(names)
    if is_sam:
        return Trunk("grid", names, names, widths, strides)
    return Trunk("tokens", names, names, widths, strides, num_prefix or 0, "patch_embed")


def _find_in_transformers(model: Any) -> Trunk | None:
    """Return the trunk of a ViT of Hugging Face; None for another model."""
    sizes = getattr(model, "config", None)
    embed = getattr(getattr(model, "embeddings", None), "patch_embeddings", None)
    for owner in ("encoder", "model"):
        blocks = getattr(getattr(model, owner, None), "layer", None)
        if isinstance(blocks, nn.ModuleList) and embed is not None and sizes is not None:
            names = tuple(f"{owner}.layer.{i}" for i in range(len(blocks)))
            widths = (sizes.hidden_size,) * len(names)
            strides = (to_2tuple(sizes.patch_size)[0],) * len(names)
            num_prefix = 1 + getattr(sizes, "num_register_tokens", 0)
            path = "embeddings.patch_embeddings"
            return Trunk("tokens", names, names, widths, strides, num_prefix, path)
    return None


def _count_as_meta(model: Any) -> int | None:
    """Return the prefix tokens of a ViT of Meta's DINOv2 or DINOv3 code; None for another."""
    for name in ("num_register_tokens", "n_storage_tokens"):
        if hasattr(model, "cls_token") and hasattr(model, name):
            return 1 + int(getattr(model, name))
    return None


class PerThread(Generic[T]):
    """What one hook leaves for another in the same pass, for each thread by itself.

    A thread that has left nothing, such as one of autograd's that computes a block again, gets what
    was left last. A copy or pickle has nothing.
    """

    def __init__(self) -> None:
        self._last: T | None = None
        self._own: dict[int, T | None] = {}

    def put(self, value: T | None) -> None:
        """Leave a value."""
        self._last = value
        if not torch.compiler.is_compiling():  # a compiled graph has one thread
            self._own[threading.get_ident()] = value

    def get(self) -> T | None:
        """Return what this thread left."""
        if torch.compiler.is_compiling():
            return self._last
        return self._own.get(threading.get_ident(), self._last)

    def __getstate__(self) -> dict[str, Any]:
        return {"_last": None, "_own": {}}  # sizes may be symbolic after a trace


class PatchGrid:
    """Keeps the patch grid of a pass for its blocks; a pre-hook of ``patch_embed``."""

    def __init__(self, patch: tuple[int, int], is_padded: bool = False):
        self.patch, self.is_padded = patch, is_padded  # timm may pad images to whole patches
        self._kept = PerThread[GridSize]()

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Keep the grid of the images."""
        sides = zip(inputs[0].shape[-2:], self.patch, strict=True)
        h, w = (-(-side // patch) if self.is_padded else side // patch for side, patch in sides)
        self._kept.put((h, w))

    @property
    def size(self) -> GridSize:
        """The grid."""
        return self._kept.get() or (0, 0)


def watch_grid(vit: Any) -> tuple[PatchGrid, RemovableHandle]:
    """Return a patch grid that follows the images a ViT gets, and the hook that keeps it so."""
    embed = vit.get_submodule(find_trunk(vit).embed)
    patch = embed.kernel_size if isinstance(embed, nn.Conv2d) else embed.patch_size
    grid = PatchGrid(to_2tuple(patch), bool(getattr(embed, "dynamic_img_pad", False)))
    return grid, embed.register_forward_pre_hook(grid)


class EditTokens:
    """Runs an edit on the patch tokens after a block; a forward hook."""

    def __init__(self, edit: nn.Module, number: int, grid: PatchGrid, num_prefix: int):
        self.edit, self.number, self.grid, self.num_prefix = edit, number, grid, num_prefix

    def __call__(self, block: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """Return the edited output: tokens, a tuple that begins with them, or a list of them."""
        if isinstance(output, tuple):
            return (self._edit(block, output[0]), *output[1:])
        if not isinstance(output, list):
            return self._edit(block, output)
        if len(output) > 1:  # one of Meta's blocks, given crops of several sizes at once
            raise ConfigError(
                f"{type(block).__name__} got {len(output)} batches at once: adapters edit one, "
                "so pass images of one size at a time"
            )
        return [self._edit(block, tokens) for tokens in output]

    def _edit(self, block: nn.Module, output: Tensor) -> Tensor:
        prefix, patches = split_prefix(output, self.num_prefix)
        h, w = self.grid.size
        if patches.shape[1] != h * w:
            raise ConfigError(
                f"{type(block).__name__} outputs {output.shape[1]} tokens; {self.num_prefix} "
                f"prefix tokens and {h} x {w} patches are {self.num_prefix + h * w}: adapters work "
                "after blocks that output prefix tokens and one token per patch"
            )
        edited = self.edit(patches, self.number, self.grid.size)
        return edited if self.num_prefix == 0 else torch.cat([prefix, edited], dim=1)


class EditGrid:
    """Runs an edit on a feature grid (b, h, w, c), or on a map (b, c, h, w); a forward hook."""

    def __init__(self, edit: nn.Module, number: int, is_map: bool):
        self.edit, self.number, self.is_map = edit, number, is_map

    def __call__(self, block: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """Return the edited output."""
        features = output.movedim(1, -1) if self.is_map else output
        size = (features.shape[1], features.shape[2])
        edited = tokens_to_grid(self.edit(grid_to_tokens(features), self.number, size), size)
        return edited.movedim(-1, 1) if self.is_map else edited
