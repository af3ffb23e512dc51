"""Positions for any image size: how the position grid is resampled to the grid of an image.

    antialias   bicubic, antialiased, as timm does
    plain       bicubic without antialiasing
    offset      bicubic, scale factor (cells of the image + 0.1) / cells of the model

The wrong rule changes the features without an error. BEiT has no grid but a table of relative
positions in every block, which timm fits to one image size; here it is resampled for each image.

Methods of timm's models are replaced by callable objects: closures break deepcopy and pickle.
"""

import functools
from typing import Any, get_args

import torch
from jaxtyping import Float
from timm.layers import resize_rel_pos_bias_table_simple
from timm.models.beit import Attention, Beit, gen_relative_position_index
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from causalseg.backbones.trunk import PatchGrid, watch_grid
from causalseg.backbones.weights.formats import PositionRule
from causalseg.errors import ConfigError, did_you_mean
from causalseg.spectral.grid import GridSize, grid_to_tokens, split_prefix, tokens_to_grid

_OFFSET = 0.1  # cells; the official DINOv2 code adds it before it divides by the grid


def set_position_rule(model: nn.Module, rule: PositionRule) -> None:
    """Set the rule by which a ViT resamples its position grid.

    Raises ConfigError if it is unknown, or the model has no grid or one that only timm's rule fits.
    """
    if rule not in get_args(PositionRule):
        raise ConfigError(f"position {rule!r}: {did_you_mean(rule, get_args(PositionRule))}")
    model.__dict__.pop("_pos_embed", None)  # of an earlier rule
    if rule == "antialias":
        return
    plain = (VisionTransformer._pos_embed, Eva._pos_embed)
    if getattr(type(model), "_pos_embed", None) not in plain or model.pos_embed is None:
        raise ConfigError(
            f"position = {rule} has no effect on {type(model).__name__}, which has no position "
            "grid or one that is always resampled by antialias: leave position at auto"
        )
    model._pos_embed = _PositionGrid(model, rule)  # type: ignore[assignment]


def take_any_size(model: Beit) -> None:
    """Let a BEiT take images of any size divisible by its patch."""
    model.patch_embed.strict_img_size = False
    grid, _ = watch_grid(model)
    for block in model.blocks:
        if block.attn.relative_position_bias_table is not None:
            block.attn._get_rel_pos_bias = _RelativePositions(block.attn, grid)


def bake_positions(model: nn.Module, grid: GridSize) -> None:
    """Fix the positions of a ViT to one patch grid: for export, where they become constants."""
    embed: Any = getattr(model, "_pos_embed", None)
    if isinstance(model, VisionTransformer | Eva) and embed is not None:
        with torch.no_grad():
            alone = embed(torch.zeros(1, *grid, model.embed_dim, device=model.cls_token.device))
        model._pos_embed = _BakedPositions(alone, model.num_prefix_tokens)
    if isinstance(model, Beit):
        for block in model.blocks:
            if block.attn.relative_position_bias_table is not None:
                find: Any = block.attn._get_rel_pos_bias
                find.grid(None, (torch.empty(1, 3, *(side * find.grid.patch[0] for side in grid)),))
                block.attn._get_rel_pos_bias = functools.partial(_give, find().detach())


def _give(value: Tensor) -> Tensor:
    return value


class _BakedPositions:
    """Replaces a ViT's ``_pos_embed``: adds what it adds to patch tokens of one grid."""

    def __init__(self, alone: Any, num_prefix: int):
        self.alone, self.num_prefix = alone, num_prefix  # its result for patch tokens of 0

    def __call__(self, patches: Float[Tensor, "b h w c"]) -> Any:
        """Return the tokens (b, p + n, c) with positions; for an Eva also its rotary positions."""
        tokens = self.alone[0] if isinstance(self.alone, tuple) else self.alone
        prefix, positions = split_prefix(tokens, self.num_prefix)
        prefix = prefix.expand(patches.shape[0], -1, -1)
        tokens = torch.cat([prefix, grid_to_tokens(patches) + positions], dim=1)
        return (tokens, *self.alone[1:]) if isinstance(self.alone, tuple) else tokens


class _PositionGrid:
    """Replaces a ViT's ``_pos_embed`` by one with another rule for the position grid."""

    def __init__(self, vit: VisionTransformer | Eva, rule: PositionRule):
        self.vit, self.rule = vit, rule

    def __call__(self, patches: Float[Tensor, "b h w c"]) -> Any:
        """Return the tokens (b, p + n, c) with positions; for an Eva also its rotary positions."""
        vit, size = self.vit, (patches.shape[1], patches.shape[2])
        prefix = [
            token.expand(patches.shape[0], -1, -1)
            for token in (vit.cls_token, vit.reg_token)
            if token is not None
        ]
        num_prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
        position = vit.pos_embed[:, num_prefix:]
        grid = self._resample(tokens_to_grid(position, vit.patch_embed.grid_size), size)
        tokens = grid_to_tokens(patches + grid)
        if num_prefix:
            prefix = [torch.cat(prefix, dim=1) + vit.pos_embed[:, :num_prefix]]
        tokens = vit.pos_drop(torch.cat([*prefix, tokens], dim=1))
        if isinstance(vit, VisionTransformer):
            return tokens
        return tokens, None if vit.rope is None else vit.rope.get_embed(shape=size)

    def _resample(
        self, position: Float[Tensor, "1 gh gw c"], size: tuple[int, int]
    ) -> Float[Tensor, "1 h w c"]:
        old = (position.shape[1], position.shape[2])
        if old == size:
            return position
        target: dict[str, Any] = {"size": size}
        if self.rule == "offset":
            scale = [(new + _OFFSET) / cells for new, cells in zip(size, old, strict=True)]
            target = {"scale_factor": scale}
        channels_first = position.movedim(-1, 1).float()
        resized = nn.functional.interpolate(channels_first, mode="bicubic", **target)
        return resized.movedim(1, -1).to(position.dtype)


class _RelativePositions:
    """Replaces ``_get_rel_pos_bias`` of a BEiT attention, for the grid of the last image."""

    def __init__(self, attention: Attention, grid: PatchGrid):
        self.attention, self.grid = attention, grid

    def __call__(self) -> Float[Tensor, "1 heads n n"]:
        """Return the bias of each pair of tokens, class token first."""
        (h, w), table = self.grid.size, self.attention.relative_position_bias_table
        num_extra = 3  # class token to patch, patch to class token, class token to itself
        shape = ((2 * h - 1) * (2 * w - 1) + num_extra, table.shape[1])
        table = resize_rel_pos_bias_table_simple(table, (h, w), shape)
        index = gen_relative_position_index((h, w), device=table.device)
        return table[index].movedim(-1, 0)[None]
