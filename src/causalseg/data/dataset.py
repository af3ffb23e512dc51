"""Images with labels: what all files have in common, and scenes drawn on the fly.

A data set is indexed and yields `Sample`s. Labels come out as train ids 0..k-1 with 255 for
`ignored`, whatever the ids in the files; originals are never touched.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from causalseg import scenes
from causalseg.data.classes import IGNORE, ClassList
from causalseg.data.labels import LabelReader, open_picture
from causalseg.errors import ConfigError, DataError

_MOST_STRETCHED = 0.1  # of a label that is brought to its image's size
_IMAGE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


class Sample(NamedTuple):
    """An image in [0, 1], its label (train ids, 255 ignored) and its name."""

    image: Float[Tensor, "3 H W"]
    label: Int[Tensor, "H W"]
    name: str


class PairData(Dataset[Sample]):
    """Images and labels in files: what folders and published layouts have in common.

    Args:
        pairs: image and label file of each sample, named as `read` takes them.
        names: name of each sample.
        labels: reads the label files.
        is_label_resized: bring labels of another size than their image's to it, by the nearest
            pixel, if their proportions differ by less than a tenth; otherwise they are an error.
        lonely: what was left out for want of an image or a label, in words.
    """

    def __init__(
        self,
        pairs: list[tuple[str, str]],
        names: list[str],
        labels: LabelReader,
        is_label_resized: bool = False,
        lonely: Sequence[str] = (),
    ):
        self.pairs, self.names, self.labels = pairs, names, labels
        self.is_label_resized, self.lonely = is_label_resized, lonely

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        return self.join(index, self.read_image(index), self.read_label(index))

    def join(self, index: int, image: Float[Tensor, "3 H W"], label: Int[Tensor, "_ _"]) -> Sample:
        """Return the sample of an image and its label; a DataError says if sizes do not match."""
        H, W = image.shape[1:]
        if label.shape != (H, W):
            h, w = label.shape
            if not self.is_label_resized or abs(h * W / (w * H) - 1) > _MOST_STRETCHED:
                image_file, label_file = map(self.where, self.pairs[index])
                same = "proportions" if self.is_label_resized else "size"
                raise DataError(
                    f"{image_file} is {W} x {H} pixels and its label {label_file} is {w} x {h}: "
                    f"they must be the same {same}"
                )
            label = resize_label(label, (H, W))
        return Sample(image, label, self.names[index])

    def read_image(self, index: int) -> Float[Tensor, "3 H W"]:
        """Return an image in [0, 1]; a DataError says if it cannot be read."""
        file = self.pairs[index][0]
        return decode_image(self.read(file), self.where(file))

    def read_label(self, index: int) -> Int[Tensor, "H W"]:
        """Return a label's train ids at its own size; a DataError says if it cannot be read."""
        return self.labels.to_train_ids(
            self.read_label_ids(index), self.where(self.pairs[index][1])
        )

    def read_label_ids(self, index: int) -> Int[np.ndarray, "H W"]:
        """Return a label's raw ids, before the table; a DataError says if it cannot be read."""
        file = self.pairs[index][1]
        return self.labels.read(self.read(file), self.where(file))

    def read(self, file: str) -> bytes:
        """Return the content of a file of a pair."""
        raise NotImplementedError

    def where(self, file: str) -> str:
        """Return where a file of a pair is, for messages."""
        raise NotImplementedError


class ScenesData(Dataset[Sample]):
    """Procedural street scenes of one domain (`scenes.render`), drawn when asked for.

    A scene is named by its seed alone: one street has one name under every sky.

    Args:
        domain: weather and light.
        count: number of scenes.
        first: seed of the first; scene i has seed ``first + i``.
        size: height and width in pixels.
    """

    def __init__(self, domain: str, count: int, first: int = 0, size: tuple[int, int] = (240, 320)):
        scenes.render(first, size, domain)  # a wrong domain or size shows now, not in a worker
        self.domain, self.count, self.first, self.size = domain, count, first, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        scene = scenes.render(self.first + index, self.size, self.domain)
        return Sample(
            _to_image(scene.image),
            torch.from_numpy(scene.label).long(),
            f"scene_{self.first + index:06d}",
        )

    def read_depth(self, index: int) -> Float[Tensor, "H W"]:
        """Return a scene's depth: metres along the view axis."""
        return torch.from_numpy(scenes.render(self.first + index, self.size, self.domain).depth)


def read_image(file: Path) -> Float[Tensor, "3 H W"]:
    """Read an image as RGB in [0, 1], pixels as stored: EXIF orientation is not applied.

    Raises:
        DataError: if it is missing, broken or of a kind that has no plain colours.
    """
    return decode_image(read_bytes(file, f"image {file}"), str(file))


def decode_image(content: bytes, where: str) -> Float[Tensor, "3 H W"]:
    """Decode the content of an image file as `read_image` does; ``where`` it is, for messages."""
    with open_picture(content, f"image {where}") as picture:
        if picture.mode.startswith("I;16"):  # Pillow would clip 16 bits, not scale them
            gray = np.array(picture).astype(np.float32) / (2**16 - 1)
            return torch.from_numpy(gray).expand(3, -1, -1).contiguous()
        if picture.mode not in _IMAGE_MODES:
            raise DataError(
                f"image {where} has mode {picture.mode}: allowed are {', '.join(_IMAGE_MODES)}"
                " and I;16"
            )
        pixels = np.array(picture.convert("RGB"))
    return _to_image(pixels)


def _to_image(pixels: Int[np.ndarray, "H W 3"]) -> Float[Tensor, "3 H W"]:
    """Planes of numbers in [0, 1]; contiguous, or everything after would be slower."""
    return torch.from_numpy(pixels).movedim(-1, 0).contiguous().float().div_(255)


def check_train_ids(train_ids: Mapping[str, int], classes: ClassList, what: str) -> None:
    """Refuse a map of label ids, as a user knows them, that leads to no class.

    Raises:
        ConfigError: it names ``what`` the map is and the label id.
    """
    for label_id, train_id in train_ids.items():
        if not (0 <= train_id < len(classes.names) or train_id == IGNORE):
            raise ConfigError(
                f"{what} sends label id {label_id} to {train_id}: train ids are "
                f"0..{len(classes.names) - 1}, or {IGNORE} to ignore"
            )


def scale_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """Return a height and width times a factor, in whole pixels from 1 on."""
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def fit_inside(size: tuple[int, int], inside: tuple[int, int]) -> tuple[int, int]:
    """Return the size of an image fit inside another in proportion, turned for upright images."""
    short, long = sorted(inside)
    return scale_size(size, min(short / min(size), long / max(size)))


def resize_label(label: Int[Tensor, "h w"], size: tuple[int, int]) -> Int[Tensor, "H W"]:
    """Bring train ids to another height and width: those of the pixels nearest to the centres."""
    return F.resize(label[None], list(size), interpolation=InterpolationMode.NEAREST_EXACT)[0]


def read_bytes(file: Path, what: str) -> bytes:
    """Return the content of a file; a DataError says of ``what`` that it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {what}: {error}") from error
