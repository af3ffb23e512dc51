"""The window model: one size of image, from 8-bit pixels to classes and confidence, for export.

    uint8 (b, H, W, 3) -> / 255, backbone, adapter, head -> uint8 classes (b, H, W), confidence

Positions are resampled to the window beforehand and are constants; preprocessing is inside.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from causalseg.backbones.positions import bake_positions
from causalseg.errors import ConfigError
from causalseg.model import Segmenter


class WindowModel(nn.Module):
    """A trained model for images of one size; it takes over ``model``, whose adapter is merged.

    Raises ConfigError if height or width is not divisible by the patch.
    """

    def __init__(self, model: Segmenter, size: tuple[int, int]):
        super().__init__()
        patch = model.backbone.patch
        if any(side % patch or side < patch for side in size):
            near = [max(patch, round(side / patch) * patch) for side in size]
            raise ConfigError(
                f"size {list(size)} is not divisible by the patch of {patch} pixels: the nearest "
                f"is {near[0]} {near[1]}"
            )
        self.size = size
        self.model: Any = model.eval().requires_grad_(False)
        model.merge()
        bake_positions(model.backbone.vit, (size[0] // patch, size[1] // patch))

    def forward(
        self, images: Int[Tensor, "b H W 3"]
    ) -> tuple[Int[Tensor, "b H W"], Float[Tensor, "b H W"]]:
        """Return train ids in 8 bits, and the probability of the class, 0 to 1."""
        planes = images.permute(0, 3, 1, 2).float() / 255
        scores = self.model.logits(planes).float()
        probabilities = self.model.head.probabilities(scores.movedim(1, 0))
        confidence, labels = probabilities.max(dim=0)
        return labels.to(torch.uint8), confidence
