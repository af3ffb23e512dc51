"""Photometric distortion: SSD's, as the segmentation field has it in mmseg's protocol.

Each of these with probability 1/2, every result clipped to [0, 1]:

    brightness   X + b                    b in +-32/255
    contrast     c X                      c in [0.5, 1.5]
    saturation   S of HSV times s         s in [0.5, 1.5], S at most 1
    hue          H of HSV turned by h     h in +-18/180 of a full turn: OpenCV counts H to 180

Brightness comes first, hue after saturation, and contrast before both or, as often, after them.

HSV has V = max(R, G, B) and S = (V - min(R, G, B)) / V, so that with V and H kept

    (1) S -> min(s S, 1)   is   X -> V - (V - X) min(s, 1 / S)
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as F

_RANGES = ((-32 / 255, 32 / 255), (0.5, 1.5), (0.5, 1.5), (-18 / 180, 18 / 180))


class Distortion(NamedTuple):
    """A distortion; as it stands it changes nothing.

    Attributes:
        brightness: b.
        contrast: c.
        saturation: s.
        hue: h, in full turns.
        is_contrast_first: whether contrast comes before saturation and hue.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    is_contrast_first: bool = False

    def __call__(self, image: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 H W"]:
        """Return a distorted image; both in [0, 1]."""
        image = (image + self.brightness).clamp(0, 1)
        before, after = (self.contrast, 1.0) if self.is_contrast_first else (1.0, self.contrast)
        image = scale_saturation((before * image).clamp(0, 1), self.saturation)
        if self.hue:
            image = F.adjust_hue(image, self.hue)
        return (after * image).clamp(0, 1)


def draw_distortion(generator: Generator) -> Distortion:
    """Draw a distortion; nine numbers are taken from the generator, whatever comes out."""
    *coins, is_contrast_first = (torch.rand(5, generator=generator) < 0.5).tolist()
    places = torch.rand(4, generator=generator).tolist()
    drawn = [low + (high - low) * place for (low, high), place in zip(_RANGES, places, strict=True)]
    brightness, contrast, saturation, hue = (
        value if is_wanted else neutral
        for value, is_wanted, neutral in zip(drawn, coins, Distortion()[:4], strict=True)
    )
    return Distortion(brightness, contrast, saturation, hue, is_contrast_first)


def scale_saturation(image: Float[Tensor, "3 H W"], factor: float) -> Float[Tensor, "3 H W"]:
    """Multiply the saturation of an image in [0, 1], up to 1; hue and value stay."""
    value = image.amax(0)
    missing = value - image
    largest = value / missing.amax(0).clamp(min=torch.finfo(image.dtype).tiny)  # 1 / S
    return value - missing * largest.clamp(max=factor)  # (1)
