"""A feature pyramid from a plain ViT, without parameters: strides 4 to 32 for patches of 16 pixels.

A ViT has one stride, dense heads need four: the maps of four blocks are resized.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

_SCALES = (4, 2, 1, 0.5)


def build_pyramid(features: list[Float[Tensor, "b c h w"]]) -> list[Float[Tensor, "b c _ _"]]:
    """Resize four maps at patch stride, shallow to deep, to 4h x 4w, 2h x 2w, h x w and h/2 x w/2.

    The last is rounded down, to at least 1 x 1. The maps of a hierarchical model already are a
    pyramid and are returned unchanged. Raises ValueError unless there are four maps.
    """
    h, w = features[0].shape[-2:]
    if (h, w) != features[-1].shape[-2:]:
        return features
    # Sizes instead of scales: both grids then cover the same extent when h or w is odd.
    sizes = [(max(1, int(h * scale)), max(1, int(w * scale))) for scale in _SCALES]
    return [resize(x, size) for x, size in zip(features, sizes, strict=True)]


def resize(
    x: Float[Tensor, "b c _ _"], size: tuple[int, ...], antialias: bool = False
) -> Float[Tensor, "b c H W"]:
    """Resize maps or images bilinearly; those of this size are returned unchanged."""
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=antialias)
