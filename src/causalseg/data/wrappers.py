"""Data sets that wrap others: cached in memory, resized, corrupted."""

import zlib
from collections.abc import Sized
from typing import cast

from jaxtyping import Float, Int
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset, Subset
from torchvision.transforms.v2 import functional as F

from causalseg.config.data import CorruptConfig
from causalseg.corruptions import CORRUPTIONS, check_corruption, corrupt
from causalseg.data.dataset import Sample, ScenesData, fit_inside, resize_label
from causalseg.data.loader import derive_seed


class CachedData(Dataset[Sample]):
    """Every sample of a data set of 8-bit images, decoded once and kept in memory: 4 bytes a pixel.

    Create it before loading processes start, so that they share it.
    """

    def __init__(self, data: Dataset[Sample]):
        bar, indices = Console(stderr=True), range(_length(data))
        is_silent = not bar.is_terminal
        tracked = track(indices, "decoding", console=bar, transient=True, disable=is_silent)
        self.samples = [
            ((255 * image).round().byte(), label.byte(), name)
            for image, label, name in map(data.__getitem__, tracked)
        ]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        image, label, name = self.samples[index]
        return Sample(image.float() / 255, label.long(), name)


class ResizedData(Dataset[Sample]):
    """Images and labels at another height and width in pixels, before augmentation.

    With ``keep_ratio`` each image keeps its proportions and fits inside ``size``.
    """

    def __init__(self, data: Dataset[Sample], size: tuple[int, int], keep_ratio: bool = False):
        self.data, self.size, self.keep_ratio = data, size, keep_ratio

    def __len__(self) -> int:
        return _length(self.data)

    def __getitem__(self, index: int) -> Sample:
        image, label, name = self.data[index]
        size = self.size_of(label)
        resized = F.resize(image, list(size), antialias=True).clamp(0, 1)
        return Sample(resized, resize_label(label, size), name)

    def size_of(self, label: Int[Tensor, "H W"]) -> tuple[int, int]:
        """Return the new height and width of a sample with this label."""
        H, W = label.shape
        return fit_inside((H, W), self.size) if self.keep_ratio else self.size


class CorruptedData(Dataset[Sample]):
    """Images under one corruption, the same on every access; labels stay.

    Corruptions that depend on depth use that of synthetic scenes; elsewhere they assume a street.
    Each image's seed derives from ``options.seed`` and its name, so that a subset of a data set is
    corrupted like all of it. Raises ConfigError if the corruption is unknown.
    """

    def __init__(self, data: Dataset[Sample], options: CorruptConfig):
        check_corruption(options.name, options.severity)
        self.data, self.options = data, options

    def __len__(self) -> int:
        return _length(self.data)

    def __getitem__(self, index: int) -> Sample:
        sample, options = self.data[index], self.options
        seed = derive_seed(options.seed, zlib.crc32(sample.name.encode()))
        is_deep = CORRUPTIONS[options.name] == "driving"
        depth = _read_depth(self.data, index) if is_deep else None
        image = corrupt(sample.image, options.name, options.severity, seed, depth)
        return sample._replace(image=image)


def _read_depth(data: Dataset[Sample], index: int) -> Float[Tensor, "H W"] | None:
    """Return the depth of a sample in metres; None where it is unknown."""
    match data:
        case ScenesData():
            return data.read_depth(index)
        case Subset(dataset=whole, indices=indices):
            return _read_depth(whole, indices[index])
        case _:
            return None


def _length(data: Dataset[Sample]) -> int:
    return len(cast(Sized, data))
