"""Images with labels: the base of all data sets of files, and synthetic scenes.

A data set is indexed and yields `Sample`s. Labels are train ids 0..k-1 with 255 for `ignored`,
whatever the ids in the files; files are never changed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from causalseg import scenes
from causalseg.data.classes import IGNORE, ClassList
from causalseg.data.files import read_bytes
from causalseg.data.labels import LabelReader, open_image
from causalseg.errors import ConfigError, DataError

_DEEP = "I;16"  # Pillow's modes of one channel of 16 bits
_MAX_STRETCH = 0.1  # of a label that is resized to its image
_IMAGE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


class Sample(NamedTuple):
    """An image in [0, 1], its label (train ids, 255 ignored) and its name."""

    image: Float[Tensor, "3 H W"]
    label: Int[Tensor, "H W"]
    name: str


class Decoding(NamedTuple):
    """How image files are read: options of `config.data.DataConfig`."""

    is_turned: bool = True  # by the orientation in the EXIF data
    bits: int = 16  # used of 16-bit images


_DEFAULT = Decoding()


class PairData(Dataset[Sample]):
    """Images and labels in files: the base of folders and published layouts.

    ``pairs`` are the image and label file of each sample, as `read` takes them. A label of another
    size than its image's is an error unless ``is_label_resized``: then it is resized by the nearest
    pixel, if the aspect ratio differs by at most 10 %. ``unpaired`` are messages about files
    skipped because their image or label is missing.
    """

    def __init__(
        self,
        pairs: list[tuple[str, str]],
        names: list[str],
        labels: LabelReader,
        is_label_resized: bool = False,
        unpaired: Sequence[str] = (),
        decoding: Decoding = _DEFAULT,
    ):
        self.pairs, self.names, self.labels, self.decoding = pairs, names, labels, decoding
        self.is_label_resized, self.unpaired = is_label_resized, unpaired

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        return self.join(index, self.read_image(index), self.read_label(index))

    def join(self, index: int, image: Float[Tensor, "3 H W"], label: Int[Tensor, "_ _"]) -> Sample:
        """Return the sample of an image and its label; raise DataError if sizes do not match."""
        H, W = image.shape[1:]
        if label.shape != (H, W):
            h, w = label.shape
            if not self.is_label_resized or abs(h * W / (w * H) - 1) > _MAX_STRETCH:
                image_file, label_file = map(self.where, self.pairs[index])
                same = "proportions" if self.is_label_resized else "size"
                raise DataError(
                    f"{image_file} is {W} x {H} pixels and its label {label_file} is {w} x {h}: "
                    f"they must be the same {same}{self._advise(index, (h, w), (H, W))}"
                )
            label = resize_label(label, (H, W))
        return Sample(image, label, self.names[index])

    def read_image(self, index: int) -> Float[Tensor, "3 H W"]:
        """Return an image in [0, 1]; raise DataError if it cannot be read."""
        file = self.pairs[index][0]
        return decode_image(self.read(file), self.where(file), self.decoding)

    def read_label(self, index: int) -> Int[Tensor, "H W"]:
        """Return a label's train ids at its own size; raise DataError if it cannot be read."""
        raw = self.read_label_ids(index)
        return self.labels.to_train_ids(raw, self.where(self.pairs[index][1]))

    def read_label_ids(self, index: int) -> Int[np.ndarray, "H W"]:
        """Return a label's raw ids, before the table; raise DataError if it cannot be read."""
        file = self.pairs[index][1]
        return self.labels.read(self.read(file), self.where(file))

    def _advise(self, index: int, label: tuple[int, int], image: tuple[int, int]) -> str:
        """Return the way out if the label fits the image as it is stored."""
        content = self.read(self.pairs[index][0])
        if label == image[::-1] and self.decoding.is_turned and read_orientation(content) >= 5:
            return (
                ". Its EXIF data turn the image by 90 degrees; if the label is of the image as it "
                "is stored, set data.exif=ignore"
            )
        return ""

    def read(self, file: str) -> bytes:
        """Return the content of a file of a pair."""
        raise NotImplementedError

    def where(self, file: str) -> str:
        """Return the location of a file of a pair, for messages."""
        raise NotImplementedError


class ScenesData(Dataset[Sample]):
    """Procedural street scenes of one domain (`scenes.render`), rendered on access.

    Scene i has the seed ``first + i``; ``size`` is height and width in pixels. A scene is named by
    its seed alone: a street has the same name in every domain.
    """

    def __init__(self, domain: str, count: int, first: int = 0, size: tuple[int, int] = (240, 320)):
        scenes.render(first, size, domain)  # raises for a wrong domain or size, not in a worker
        self.domain, self.count, self.first, self.size = domain, count, first, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        scene = scenes.render(self.first + index, self.size, self.domain)
        label = torch.from_numpy(scene.label).long()
        return Sample(_to_image(scene.image), label, f"scene_{self.first + index:06d}")

    def read_depth(self, index: int) -> Float[Tensor, "H W"]:
        """Return a scene's depth: metres along the view axis."""
        return torch.from_numpy(scenes.render(self.first + index, self.size, self.domain).depth)


def read_image(file: Path, how: Decoding = _DEFAULT) -> Float[Tensor, "3 H W"]:
    """Read an image as RGB in [0, 1]; raise DataError on failure."""
    return decode_image(read_bytes(file), str(file), how)


def decode_image(content: bytes, where: str, how: Decoding = _DEFAULT) -> Float[Tensor, "3 H W"]:
    """Decode the content of an image file as `read_image` does; ``where`` is for messages."""
    with open_image(content, f"image {where}") as image:
        return from_pillow(image, where, how)


def from_pillow(image: Image.Image, where: str, how: Decoding = _DEFAULT) -> Float[Tensor, "3 H W"]:
    """Return a PIL image, which may be turned in place, as `decode_image` does."""
    if how.is_turned:
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith(_DEEP):  # Pillow would clip 16 bits, not scale them
        gray = np.array(image).astype(np.float32) / (2**how.bits - 1)
        return torch.from_numpy(gray.clip(max=1)).expand(3, -1, -1).contiguous()
    if image.mode not in _IMAGE_MODES:
        allowed = f"{', '.join(_IMAGE_MODES)} and I;16"
        raise DataError(f"image {where} has mode {image.mode}: allowed are {allowed}")
    return _to_image(np.array(image.convert("RGB")))


def from_array(pixels: Float[np.ndarray, "H W *c"]) -> Float[Tensor, "3 H W"]:
    """Return an array (H, W), (H, W, 1) or (H, W, 3) as RGB in [0, 1].

    Numbers are 8-bit integers, or floats in [0, 1]. Raises DataError for others.
    """
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise DataError(
            f"an array of shape {pixels.shape} is no image: it must be (H, W, 3) or (H, W)"
        )
    pixels = np.array(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))  # a copy that is ours
    if pixels.dtype == np.uint8:
        return _to_image(pixels)
    low, high = float(pixels.min()), float(pixels.max())
    if not np.issubdtype(pixels.dtype, np.floating) or not 0 <= low <= high <= 1:  # NaN too
        raise DataError(
            f"an image of {pixels.dtype} from {low:.4g} to {high:.4g}: it must have 8-bit "
            "integers, or floats in [0, 1]"
        )
    return torch.from_numpy(pixels.astype(np.float32)).movedim(-1, 0).contiguous()


def read_orientation(content: bytes) -> int:
    """Return the orientation in the EXIF data of an image, 1 to 8; 1 is as it is stored."""
    with open_image(content, "image") as image:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def read_depth(content: bytes) -> int | None:
    """Return the largest value of an image of 16 bits a channel; None for others."""
    with open_image(content, "image") as image:
        return int(np.array(image).max()) if image.mode.startswith(_DEEP) else None


def _to_image(pixels: Int[np.ndarray, "H W 3"]) -> Float[Tensor, "3 H W"]:
    """Return planes in [0, 1], contiguous for the speed of later steps."""
    return torch.from_numpy(pixels).movedim(-1, 0).contiguous().float().div_(255)


def check_train_ids(train_ids: Mapping[Any, int], classes: ClassList, what: str) -> None:
    """Raise ConfigError if the table ``what`` sends a label id to an unknown class."""
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
    """Return the size of an image fit inside another in proportion, rotated if it is upright."""
    short, long = sorted(inside)
    return scale_size(size, min(short / min(size), long / max(size)))


def resize_label(label: Int[Tensor, "h w"], size: tuple[int, int]) -> Int[Tensor, "H W"]:
    """Resize train ids to another height and width by the pixels nearest to the centres."""
    return F.resize(label[None], list(size), interpolation=InterpolationMode.NEAREST_EXACT)[0]
