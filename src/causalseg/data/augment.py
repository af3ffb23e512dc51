"""Training augmentation of the field's protocol; all randomness comes from the given generator.

Resize (shortest edge a random multiple of the crop height) -> crop in which no class dominates ->
horizontal flip -> random corruption -> photometric distortion. The generator belongs to the sample,
so a sample does not depend on the worker or the process.

Photometric distortion is SSD's, as in mmseg. Each step has probability 1/2 and clips to [0, 1]:

    brightness   X + b                    b in +-32/255
    contrast     c X                      c in [0.5, 1.5]
    saturation   S of HSV times s         s in [0.5, 1.5], S at most 1
    hue          H of HSV turned by h     h in +-18/180 of a full turn: OpenCV counts H to 180

Brightness comes first, hue after saturation, and contrast before both or, equally often, after.

HSV has V = max(R, G, B) and S = (V - min(R, G, B)) / V, so that with V and H kept

    (1) S -> min(s S, 1)   is   X -> V - (V - X) min(s, 1 / S)
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as F

from causalseg.config.run import AugmentConfig, RandomCorruptionConfig
from causalseg.corruptions import check_corruption, corrupt
from causalseg.data.classes import IGNORE
from causalseg.data.dataset import Sample, resize_label, scale_size

_CROP_TRIES = 10
_RANGES = ((-32 / 255, 32 / 255), (0.5, 1.5), (0.5, 1.5), (-18 / 180, 18 / 180))
_DEFAULT = AugmentConfig()


class Augment:
    """Turns samples into random crops of a height and width; ConfigError for a wrong corruption."""

    def __init__(self, crop: tuple[int, int], options: AugmentConfig = _DEFAULT):
        self.crop, self.options = crop, options
        if options.corrupt:
            for name in options.corrupt.names:
                check_corruption(name, options.corrupt.severity[0])

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the augmented sample: image (3, *crop), label (*crop); padding is ignored."""
        sample = self._crop(self._resize(sample, generator), generator)
        if _draw_uniform(generator) < self.options.flip:
            image, label = F.horizontal_flip(sample.image), F.horizontal_flip(sample.label)
            sample = sample._replace(image=image, label=label)
        if self.options.corrupt:
            image = corrupt_randomly(sample.image, self.options.corrupt, generator)
            sample = sample._replace(image=image)
        if self.options.photometric:
            sample = sample._replace(image=draw_distortion(generator)(sample.image))
        return sample

    def _resize(self, sample: Sample, generator: Generator) -> Sample:
        low, high = self.options.scale
        scale = low + 0.1 * _draw_integer(0, round((high - low) * 10), generator)
        H, W = sample.label.shape
        factor = min(scale * self.crop[0] / min(H, W), self.options.longest / max(H, W))
        size = scale_size((H, W), factor)
        return sample._replace(
            image=F.resize(sample.image, list(size), antialias=True).clamp(0, 1),
            label=resize_label(sample.label, size),
        )

    def _crop(self, sample: Sample, generator: Generator) -> Sample:
        sample = self._pad(sample)
        height, width = self.crop
        for _ in range(_CROP_TRIES):
            top, left = (
                _draw_integer(0, total - part, generator)
                for total, part in zip(sample.label.shape, self.crop, strict=True)
            )
            label = F.crop(sample.label, top, left, height, width)
            counts = torch.bincount(label[label != IGNORE])
            if len(counts) and counts.max() <= self.options.max_class_share * counts.sum():
                break
        return sample._replace(image=F.crop(sample.image, top, left, height, width), label=label)

    def _pad(self, sample: Sample) -> Sample:
        """Grow an image smaller than the crop to the right and bottom with its mean colour."""
        H, W = sample.label.shape
        below, right = max(0, self.crop[0] - H), max(0, self.crop[1] - W)
        if not (below or right):
            return sample
        image = sample.image.mean((1, 2), keepdim=True).repeat(1, H + below, W + right)
        image[:, :H, :W] = sample.image
        label = F.pad(sample.label[None], [0, 0, right, below], fill=IGNORE)[0]
        return sample._replace(image=image, label=label)


def corrupt_randomly(
    image: Float[Tensor, "3 H W"], options: RandomCorruptionConfig, generator: Generator
) -> Float[Tensor, "3 H W"]:
    """Return the image, or with probability ``options.p`` the image under a corruption."""
    if _draw_uniform(generator) >= options.p:
        return image
    name = options.names[_draw_integer(0, len(options.names) - 1, generator)]
    severity = _draw_integer(*options.severity, generator)
    return corrupt(image, name, severity, seed=_draw_integer(0, 2**31 - 1, generator))


class Distortion(NamedTuple):
    """A photometric distortion; the default changes nothing."""

    brightness: float = 0.0  # b
    contrast: float = 1.0  # c
    saturation: float = 1.0  # s
    hue: float = 0.0  # h, in full turns
    is_contrast_first: bool = False  # before saturation and hue

    def __call__(self, image: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 H W"]:
        """Return a distorted image; both in [0, 1]."""
        image = (image + self.brightness).clamp(0, 1)
        before, after = (self.contrast, 1.0) if self.is_contrast_first else (1.0, self.contrast)
        image = scale_saturation((before * image).clamp(0, 1), self.saturation)
        if self.hue:
            image = F.adjust_hue(image, self.hue)
        return (after * image).clamp(0, 1)


def draw_distortion(generator: Generator) -> Distortion:
    """Draw a distortion; always takes nine numbers from the generator."""
    *coins, is_contrast_first = (torch.rand(5, generator=generator) < 0.5).tolist()
    fractions = torch.rand(4, generator=generator).tolist()
    values = [low + (high - low) * f for (low, high), f in zip(_RANGES, fractions, strict=True)]
    brightness, contrast, saturation, hue = (
        value if is_used else neutral
        for value, is_used, neutral in zip(values, coins, Distortion()[:4], strict=True)
    )
    return Distortion(brightness, contrast, saturation, hue, is_contrast_first)


def scale_saturation(image: Float[Tensor, "3 H W"], factor: float) -> Float[Tensor, "3 H W"]:
    """Multiply the saturation of an image in [0, 1], up to 1; hue and value stay."""
    value = image.amax(0)
    missing = value - image
    largest = value / missing.amax(0).clamp(min=torch.finfo(image.dtype).tiny)  # 1 / S
    return value - missing * largest.clamp(max=factor)  # (1)


def mix_classes(onto: Sample, other: Sample, generator: Generator) -> Sample:
    """Paste a random half of the classes of another crop onto a crop of the same size."""
    present = other.label[other.label != IGNORE].unique()
    order = torch.randperm(len(present), generator=generator)
    chosen = present[order[: (len(present) + 1) // 2]]
    mask = torch.isin(other.label, chosen)
    image = torch.where(mask, other.image, onto.image)
    return onto._replace(image=image, label=torch.where(mask, other.label, onto.label))


def _draw_uniform(generator: Generator) -> float:
    return float(torch.rand((), generator=generator))


def _draw_integer(low: int, high: int, generator: Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))
