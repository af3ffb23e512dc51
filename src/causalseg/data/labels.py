"""From label files to train ids.

A reader turns a file into *raw ids*, and has a table from raw ids to train ids:

    ids       the id itself
    colours   red + 256 green + 65536 blue
    polygons  index of the label in the table, from 1; 0 in no polygon
"""

import functools
import io
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image, ImageDraw, ImageFile, UnidentifiedImageError
from torch import Tensor

from causalseg.data.classes import IGNORE, Colour
from causalseg.errors import DataError, did_you_mean

NOT_DRAWN = -1
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")  # others may start programs, as EPS does
_UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, KeyError)  # what PIL raises
# Raised by JSON of another form, and by huge numbers or depths.
_NO_POLYGONS = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
# Pillow scales grey samples of 2 and 4 bits to 0..255.
_GREY_FACTORS = {"L;2": 85, "L;4": 17}
_CHANNEL_MODES = ("LA", "PA", "RGB", "RGBA")
_COLOUR_MODES = ("L", "P", "RGB", "RGBA")


@contextmanager
def open_image(content: bytes, what: str) -> Iterator[ImageFile.ImageFile]:
    """Open an encoded image; raise DataError with the name ``what`` if it cannot be read."""
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
                raise DataError(f"{what} has several pages: save each as a file of its own")
            yield image
    except DataError:
        raise
    except UnidentifiedImageError as error:
        formats = ", ".join(_FORMATS)
        raise DataError(f"cannot read {what}: it is no image of the formats {formats}") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"cannot read {what}: {error}; cut it into tiles") from error
    except _UNREADABLE as error:
        raise DataError(f"cannot read {what}: {error}") from error


class LabelReader:
    """Reads label files of one kind.

    ``table`` sends raw ids to train ids, 255 to ignore; another raw id in a file is an error, and
    ``advice`` what to do about it.
    """

    noun = "ids"

    def __init__(self, table: Mapping[int, int], advice: str):
        self.table, self.advice = dict(table), advice

    def read(self, content: bytes, where: str) -> Int[np.ndarray, "H W"]:
        """Return a file's raw ids; raise DataError if it is unreadable or of another kind."""
        raise NotImplementedError

    def name(self, raw_id: int) -> str:
        """Return the id, colour or label of a raw id."""
        return str(raw_id)

    def to_train_ids(self, raw: Int[np.ndarray, "H W"], where: str) -> Int[Tensor, "H W"]:
        """Return train ids, 255 to ignore; raise DataError if a raw id is not in the table."""
        lookup = _lookup(tuple(self.table.items()))
        is_inside = raw.min() >= 0 and raw.max() < len(lookup)
        known = np.take(lookup, raw) if is_inside else None
        if known is None or not known.all():
            unknown = [i for i in np.unique(raw).tolist() if i not in self.table]
            raise DataError(
                f"label {where} has {self.noun} [{', '.join(map(self.name, unknown[:8]))}] that are"
                f" no class: allowed are {self._allowed()}; {self.advice}"
            )
        return torch.from_numpy((known - 1).astype(np.int64))

    def _allowed(self) -> str:
        return ", ".join(map(self.name, self.table))


class IdLabels(LabelReader):
    """Reads images of ids: 8 or 16 bit, or a palette.

    With ``is_first_channel`` the first of several channels is read, otherwise they are an error.
    """

    def __init__(self, table: Mapping[int, int], advice: str, is_first_channel: bool = False):
        super().__init__(table, advice)
        self.is_first_channel = is_first_channel

    def read(self, content: bytes, where: str) -> Int[np.ndarray, "H W"]:
        """Return the ids of an image."""
        with open_image(content, f"label {where}") as image:
            raw_mode = image.tile[0][3] if image.tile else None
            ids = np.asarray(image)
            if raw_mode in _GREY_FACTORS:
                ids = ids // _GREY_FACTORS[raw_mode]
            if image.format == "TIFF":
                _need_lossless_tiff(image, where)
            if image.format == "WEBP":
                _need_lossless(content, where)
                if (ids[..., :1] != ids[..., :3]).any():
                    raise DataError(
                        f"label {where} is in colour: a label is one channel of class ids"
                    )
                ids = ids[..., 0]
            if self.is_first_channel and image.mode in _CHANNEL_MODES:
                ids = ids[..., 0]
                if isinstance(raw_mode, str) and raw_mode.endswith(";16B"):
                    ids = ids.astype(np.uint16) * 256 + _read_low_bytes(content, raw_mode)
        if ids.ndim != 2 or ids.dtype.kind not in "iub":
            channels = "the first channel holds" if self.is_first_channel else "one channel of"
            raise DataError(
                f"label {where} has mode {image.mode}: a label is {channels} class ids "
                "(8 or 16 bit, or a palette)"
            )
        return ids.astype(np.uint8) if ids.dtype.kind == "b" else ids

    def _allowed(self) -> str:
        return _format_ranges(sorted(self.table))


class ColourLabels(LabelReader):
    """Reads RGB images with one colour for each class; ``train_ids`` has 255 to ignore."""

    noun = "colours"

    def __init__(self, train_ids: Mapping[Colour, int], advice: str):
        super().__init__({r + 256 * g + 65536 * b: t for (r, g, b), t in train_ids.items()}, advice)

    def read(self, content: bytes, where: str) -> Int[np.ndarray, "H W"]:
        """Return the colours of an image, packed."""
        with open_image(content, f"label {where}") as image:
            if image.mode not in _COLOUR_MODES:
                raise DataError(
                    f"label {where} has mode {image.mode}: a label is an image of 8-bit colours "
                    f"({', '.join(_COLOUR_MODES)})"
                )
            if image.format == "TIFF":
                _need_lossless_tiff(image, where)
            if image.format == "WEBP":
                _need_lossless(content, where)
            pixels = np.asarray(image.convert("RGBA"))
        return pixels.view("<u4")[..., 0] & 0xFFFFFF

    def name(self, raw_id: int) -> str:
        """Return the colour as (red, green, blue)."""
        return str((raw_id & 255, raw_id >> 8 & 255, raw_id >> 16))


class PolygonLabels(LabelReader):
    """Reads JSON files in Cityscapes' form and draws their polygons, later ones on top.

    As in Cityscapes' and IDD's tools, deleted objects are not drawn, and an unknown label that ends
    in ``group`` is the label before that. Polygons of fewer than two points cover nothing.
    ``train_ids`` has 255 to ignore, ``NOT_DRAWN`` to keep the pixels below.
    """

    def __init__(self, train_ids: Mapping[str, int], advice: str):
        self.labels = {label: index for index, label in enumerate(train_ids, start=1)}
        drawn = {self.labels[label]: t for label, t in train_ids.items() if t != NOT_DRAWN}
        super().__init__({0: IGNORE, **drawn}, advice)

    def read(self, content: bytes, where: str) -> Int[np.ndarray, "H W"]:
        """Return the index of the topmost label of each pixel."""
        try:
            annotation = json.loads(content)
            image = Image.new("I", _read_size(annotation))
            draw = ImageDraw.Draw(image)
            for shape in annotation["objects"]:
                if shape.get("deleted"):
                    continue
                raw_id = self._raw_id(shape["label"], where)
                points = [(x, y) for x, y in shape["polygon"]]
                if not all(math.isfinite(x) and math.isfinite(y) for x, y in points):
                    raise ValueError(f"a polygon of {shape['label']!r} has no finite coordinates")
                if raw_id in self.table and len(points) > 1:
                    draw.polygon(points, fill=raw_id)
        except DataError:
            raise
        except _NO_POLYGONS as error:
            raise DataError(
                f"cannot read label {where}: {error!r}; it must be JSON with imgHeight, imgWidth "
                "and objects, each with label and polygon"
            ) from error
        return np.asarray(image)

    def name(self, raw_id: int) -> str:
        """Return the label."""
        return repr(["in no polygon", *self.labels][raw_id])

    def _raw_id(self, label: str, where: str) -> int:
        for known in (label, label.removesuffix("group")):
            if known in self.labels:
                return self.labels[known]
        raise DataError(
            f"label {where} has the label {label!r} that is no class: "
            f"{did_you_mean(label, self.labels)}; {self.advice}"
        )


def _read_size(annotation: Mapping[str, Any]) -> tuple[int, int]:
    """Return width and height of a file of polygons; ValueError if no image has them."""
    width, height = annotation["imgWidth"], annotation["imgHeight"]
    limit = Image.MAX_IMAGE_PIXELS or math.inf
    if not (type(width) is type(height) is int and min(width, height) > 0):
        raise ValueError(f"imgWidth {width!r} and imgHeight {height!r} are not two numbers from 1")
    if width * height > limit:
        raise ValueError(f"imgWidth {width} x imgHeight {height} are more than {limit} pixels")
    return width, height


@functools.lru_cache(maxsize=16)
def _lookup(table: tuple[tuple[int, int], ...]) -> Int[np.ndarray, " ids"]:
    """Return train id + 1 of every raw id, 0 where there is none: pages never touched cost none."""
    lookup = np.zeros(max(raw_id for raw_id, _ in table) + 1, dtype=np.int16)
    for raw_id, train_id in table:
        lookup[raw_id] = train_id + 1
    return lookup


def _read_low_bytes(content: bytes, raw_mode: str) -> Int[np.ndarray, "H W"]:
    """Return the low bytes of a 16-bit image's first channel: Pillow keeps the high ones only.

    PNG stores the high byte first; with the order swapped, Pillow keeps the low one.
    """
    with Image.open(io.BytesIO(content)) as image:
        swapped = raw_mode.replace(";16B", ";16L")
        image.tile = [(*tile[:3], swapped) for tile in image.tile]  # type: ignore[misc]
        return np.asarray(image)[..., 0]


def _need_lossless_tiff(image: Image.Image, where: str) -> None:
    if image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp"):
        raise DataError(f"label {where} is a lossy TIFF, which changes ids: save it without loss")


def _need_lossless(content: bytes, where: str) -> None:
    if b"VP8L" not in content:
        raise DataError(f"label {where} is a lossy WebP, which changes ids: save it without loss")


def _format_ranges(numbers: list[int]) -> str:
    """``[0, 1, 2, 5]`` as ``0..2, 5``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
