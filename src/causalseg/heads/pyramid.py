"""A feature pyramid from a plain ViT: four maps of one size become strides 4, 8, 16 and 32.

A ViT has one stride. Dense heads want four, so the maps of four blocks, shallow to deep, are
resized by 4, 2, 1 and 1/2: with patches of 16 pixels, strides 4, 8, 16 and 32. Nothing is learnt.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

SCALES = (4, 2, 1, 0.5)


def build_pyramid(features: list[Float[Tensor, "b c h w"]]) -> list[Float[Tensor, "b c _ _"]]:
    """Resize four maps at patch stride by 4, 2, 1 and 1/2, bilinearly.

    Args:
        features: four maps of the same grid (h, w), shallow to deep; any h and w from 1 on. The
            maps of a hierarchical model already are a pyramid and are returned unchanged.

    Returns:
        Maps of (4h, 4w), (2h, 2w), (h, w) and (h // 2, w // 2) cells, the last at least 1 x 1.

    Raises:
        ValueError: if there are not exactly four maps.
    """
    if features[0].shape[-2:] != features[-1].shape[-2:]:
        return features
    return [_resize(x, scale) for x, scale in zip(features, SCALES, strict=True)]


def _resize(x: Float[Tensor, "b c h w"], scale: float) -> Float[Tensor, "b c _ _"]:
    if scale == 1:
        return x
    # A size instead of a scale: both grids then cover the same extent when h or w is odd.
    size = [max(1, int(cells * scale)) for cells in x.shape[-2:]]
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
