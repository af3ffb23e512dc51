"""One protocol for all backbones: images in [0, 1] -> four feature maps, shallow to deep.

    plain           every ViT of timm: DINOv2, DINOv3, EVA-02, CLIP, SigLIP, SAM, MAE, BEiT ...;
                    all four maps at patch stride
    hierarchical    ConvNeXt, ResNet: the maps of the four stages, strides 4, 8, 16 and 32

The model runs by its own ``forward_intermediates``, so forward hooks in it (adapters) take effect.
It is frozen and in eval mode; what trains is attached from outside.
"""

import logging
from collections.abc import Sequence
from typing import Any, Self

import torch
from jaxtyping import Float
from timm.data import resolve_model_data_config
from timm.layers import use_fused_attn
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from causalseg.backbones.positions import set_position_rule, take_any_size
from causalseg.backbones.repair import Maps, average_shifts, check_repair, replace_outliers
from causalseg.backbones.trunk import find_trunk
from causalseg.backbones.weights.formats import PositionRule
from causalseg.backbones.weights.model import build_model
from causalseg.config.backbone import BackboneConfig, Repair
from causalseg.errors import ConfigError, DataError

logger = logging.getLogger("causalseg")
_NUM_LEVELS = 4
# Up to here plain attention is as fast as torch's fused one on a CPU in bfloat16: a step takes 0.6
# to 0.8 of the time at 200 to 1,000 tokens, 1.1 at 2,700 (benchmarks/attention.py).
_PLAIN_TOKENS = 2000
_VIT_L_LEVELS = (7, 11, 15, 23)  # the field's choice for 24 blocks (Rein); not evenly spaced


class FrozenBackbone(nn.Module):
    """A frozen model that gives four levels of features.

    Attributes:
        vit: the model itself; attach adapters to it.
        patch: pixels; divides the sides of an image. The patch, or the stride of the last stage.
        widths: channels c of the blocks, or of the stages; `depth` is their number.
        levels: the blocks whose outputs are the levels, shallow to deep.
        level_widths: c of the levels; `strides` are their strides in pixels.
        sha256: checksum of the weight file; None without one.
        repair: how the levels are repaired; none gives those of the model.
    """

    mean: Float[Tensor, "3 1 1"]
    std: Float[Tensor, "3 1 1"]

    def __init__(
        self,
        vit: nn.Module,
        levels: Sequence[int] | None = None,
        position: PositionRule = "antialias",
        checkpointing: bool = False,
        sha256: str | None = None,
        repair: Repair = "none",
    ):
        """Freeze a model and give it the protocol.

        ``vit`` is a ViT (``dynamic_img_size=True`` where timm has that option), ConvNeXt or ResNet
        of timm, or a module of your own that `causalseg.backbones.trunk.find_trunk` accepts, with a
        ``forward_intermediates`` like that of timm's ViTs. ``levels`` are four block indices,
        repetitions allowed; None: 7, 11, 15, 23 for 24 blocks, else evenly spaced (12 blocks: 2, 5,
        8, 11), or the four stages. See `causalseg.backbones.positions` for ``position``. With
        ``checkpointing``, which recomputes the blocks in the backward pass to save memory, finish
        the backward pass of one image size before the forward pass of another.

        Raises ConfigError if the model takes one image size only, a level is not one of its blocks,
        the position rule is unknown or has no effect, or the repair is unknown.
        """
        super().__init__()
        check_repair(repair)
        trunk = find_trunk(vit)
        _check_model(vit)
        self.vit: Any = vit.requires_grad_(False).eval()
        self.widths, self.depth = trunk.widths, len(trunk.widths)
        self.levels = _check_levels(levels, self.depth)
        self.level_widths = tuple(self.widths[level] for level in self.levels)
        self.strides = tuple(trunk.strides[level] for level in self.levels)
        self.patch, self.sha256, self.repair = max(trunk.strides), sha256, repair
        # timm counts the stem of a ResNet as its first feature.
        self._offset = 1 if isinstance(vit, ResNet) else 0
        # Copies and a second backbone of a model find what an image of bfloat16 left in it.
        has_choice = [part for part in vit.modules() if hasattr(part, "fused_attn")]
        self._attentions: list[Any] = has_choice if use_fused_attn() else []
        data = resolve_model_data_config(vit)
        self.register_buffer("mean", torch.tensor(data["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(data["std"]).view(3, 1, 1), persistent=False)
        set_position_rule(vit, position)
        if isinstance(vit, Beit):
            take_any_size(vit)
        if switch := getattr(vit, "set_grad_checkpointing", None):
            switch(checkpointing)
        elif checkpointing:
            raise ConfigError(
                f"{type(vit).__name__} does not support activation checkpointing: leave it off"
            )

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b c h w"]]:
        """Return the outputs of the levels' blocks, without the final norm, for RGB in [0, 1].

        They are repaired as ``repair`` says. Raises DataError if H or W is not divisible by
        ``patch``.
        """
        self._check_size(*images.shape[-2:])
        self._choose_attention(images)
        if self.repair == "shift_average":
            return average_shifts(self._compute, images, self.patch)
        levels = self._compute(images)
        if self.repair == "defect":
            return [replace_outliers(z.movedim(1, -1)).movedim(-1, 1) for z in levels]
        return levels

    def last_layers(self, count: int) -> range:
        """Return the ``count`` blocks up to the last level; ConfigError if there are fewer."""
        end = self.levels[-1] + 1
        if count > end:
            raise ConfigError(
                f"the queries pass {count} blocks, but there are {end} up to the last level: lower "
                "head.blocks"
            )
        return range(end - count, end)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode."""
        return super().train(False)

    def _compute(self, images: Float[Tensor, "b 3 H W"]) -> Maps:
        blocks = sorted(set(self.levels))
        features = self.vit.forward_intermediates(
            (images - self.mean) / self.std,
            indices=[block + self._offset for block in blocks],
            norm=False,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        return [features[blocks.index(level)] for level in self.levels]

    def _choose_attention(self, images: Float[Tensor, "b 3 H W"]) -> None:
        """Take the faster of fused and plain attention; compiled models keep the fused one."""
        if torch.compiler.is_compiling():
            return
        tokens = images.shape[-2] * images.shape[-1] // self.patch**2
        is_bf16 = torch.is_autocast_enabled("cpu") and images.device.type == "cpu"
        for attention in self._attentions:
            attention.fused_attn = not (is_bf16 and tokens <= _PLAIN_TOKENS)

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


def build_backbone(options: BackboneConfig, seed: int = 0) -> FrozenBackbone:
    """Build a frozen backbone; ``seed`` is that of random weights.

    Raises ConfigError if the name, a level, the patch or the position rule does not fit, and
    WeightsError if the weights cannot be found, read or placed.
    """
    loaded = build_model(options, seed)
    rule = loaded.position if options.position == "auto" else options.position
    if loaded.is_ambiguous and options.position == "auto":
        logger.info(
            "%s is in timm's naming: its position grid is resampled by timm's rule, antialias. If "
            "it is Meta's file without its mask_token, set backbone.position=offset",
            options.weights,
        )
    how = (rule, options.checkpointing, loaded.sha256, options.repair)
    return FrozenBackbone(loaded.model, options.levels, *how)


def _check_model(model: nn.Module) -> None:
    if isinstance(model, VisionTransformer | Eva) and not model.dynamic_img_size:
        raise ConfigError("the timm model takes one image size: make it with dynamic_img_size=True")
    if not hasattr(model, "forward_intermediates"):
        raise ConfigError(
            f"{type(model).__name__} has no forward_intermediates: write one like that of timm's "
            "ViTs, or attach an adapter to the model and use it in a loop of your own"
        )


def _check_levels(levels: Sequence[int] | None, depth: int) -> tuple[int, ...]:
    if levels is None:
        if depth == 24:
            return _VIT_L_LEVELS
        return tuple(-(-depth * part // _NUM_LEVELS) - 1 for part in range(1, _NUM_LEVELS + 1))
    unknown = [level for level in levels if not 0 <= level < depth]
    if unknown or len(levels) != _NUM_LEVELS or sorted(levels) != list(levels):
        raise ConfigError(
            f"levels {list(levels)}: four block indices from 0 to {depth - 1} are needed, shallow "
            "to deep" + (f"; the model has no block {unknown[0]}" if unknown else "")
        )
    return tuple(levels)
