"""Training augmentation of the field's protocol, drawn from a generator that is handed in.

Resize (shortest edge a random multiple of the crop height) -> crop in which no class dominates ->
horizontal flip -> photometric distortion. Everything random comes from the generator of the
sample, so a sample does not depend on the worker or the process that made it.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as F

from causalseg.corruptions import check_corruption, corrupt
from causalseg.data.classes import IGNORE
from causalseg.data.dataset import Sample, resize_label
from causalseg.data.photometric import draw_distortion

_CROP_TRIES = 10


class RandomCorruption:
    """One of several corruptions at a random severity, now and then.

    Args:
        names: corruptions to choose from, all alike.
        p: probability in [0, 1].
        severity: lowest and highest.

    Raises:
        ConfigError: if there is no such corruption or severity.
    """

    def __init__(self, names: Sequence[str], p: float, severity: tuple[int, int]):
        for name in names:
            for level in severity:
                check_corruption(name, level)
        self.names, self.p, self.severity = list(names), p, severity

    def __call__(
        self, image: Float[Tensor, "3 H W"], generator: Generator
    ) -> Float[Tensor, "3 H W"]:
        """Return the image, or the image under a corruption."""
        if _uniform(generator) >= self.p:
            return image

        def draw(low: int, high: int) -> int:
            return int(torch.randint(low, high + 1, (), generator=generator))

        name = self.names[draw(0, len(self.names) - 1)]
        return corrupt(image, name, draw(*self.severity), seed=draw(0, 2**31 - 1))


class Augment:
    """Turns a sample into a random crop of a fixed size.

    Args:
        crop: height and width in pixels.
        scale: range of the resize in steps of 0.1: shortest edge = scale x crop height.
        longest: no edge is resized beyond this many pixels.
        max_class_share: crops where one class covers more are drawn again; ten draws at most.
        flip: probability of a horizontal flip.
        photometric: whether to distort brightness, contrast, saturation and hue.
        corruption: a random corruption of the crop; None for none.
    """

    def __init__(
        self,
        crop: tuple[int, int],
        scale: tuple[float, float] = (0.5, 2.0),
        longest: int = 2048,
        max_class_share: float = 0.75,
        flip: float = 0.5,
        photometric: bool = True,
        corruption: "RandomCorruption | None" = None,
    ):
        self.crop, self.scale, self.longest = crop, scale, longest
        self.max_class_share, self.flip, self.photometric = max_class_share, flip, photometric
        self.corruption = corruption

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Return the augmented sample: image (3, *crop), label (*crop); padding is ignored."""
        sample = self._crop(self._resize(sample, generator), generator)
        if _uniform(generator) < self.flip:
            image, label = F.horizontal_flip(sample.image), F.horizontal_flip(sample.label)
            sample = sample._replace(image=image, label=label)
        if self.corruption:
            sample = sample._replace(image=self.corruption(sample.image, generator))
        if self.photometric:
            sample = sample._replace(image=draw_distortion(generator)(sample.image))
        return sample

    def _resize(self, sample: Sample, generator: Generator) -> Sample:
        low, high = self.scale
        choices = round((high - low) * 10) + 1
        scale = low + 0.1 * int(torch.randint(choices, (), generator=generator))
        H, W = sample.label.shape
        factor = min(scale * self.crop[0] / min(H, W), self.longest / max(H, W))
        size = (max(1, round(H * factor)), max(1, round(W * factor)))
        return sample._replace(
            image=F.resize(sample.image, list(size), antialias=True).clamp(0, 1),
            label=resize_label(sample.label, size),
        )

    def _crop(self, sample: Sample, generator: Generator) -> Sample:
        sample = self._pad(sample)
        height, width = self.crop
        for _ in range(_CROP_TRIES):
            top, left = (
                int(torch.randint(total - part + 1, (), generator=generator))
                for total, part in zip(sample.label.shape, self.crop, strict=True)
            )
            label = F.crop(sample.label, top, left, height, width)
            counts = torch.bincount(label[label != IGNORE])
            if len(counts) and counts.max() <= self.max_class_share * counts.sum():
                break
        return sample._replace(image=F.crop(sample.image, top, left, height, width), label=label)

    def _pad(self, sample: Sample) -> Sample:
        """Grow an image below the crop's size to the right and bottom with its mean colour."""
        H, W = sample.label.shape
        below, right = max(0, self.crop[0] - H), max(0, self.crop[1] - W)
        if not (below or right):
            return sample
        image = sample.image.mean((1, 2), keepdim=True).repeat(1, H + below, W + right)
        image[:, :H, :W] = sample.image
        label = F.pad(sample.label[None], [0, 0, right, below], fill=IGNORE)[0]
        return sample._replace(image=image, label=label)


def mix_classes(onto: Sample, other: Sample, generator: Generator) -> Sample:
    """Paste half of the classes of another crop, drawn at random, onto a crop of the same size."""
    present = other.label[other.label != IGNORE].unique()
    order = torch.randperm(len(present), generator=generator)
    chosen = present[order[: (len(present) + 1) // 2]]
    mask = torch.isin(other.label, chosen)
    image = torch.where(mask, other.image, onto.image)
    return onto._replace(image=image, label=torch.where(mask, other.label, onto.label))


def _uniform(generator: Generator) -> float:
    return float(torch.rand((), generator=generator))
