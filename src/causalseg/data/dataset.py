"""Images with labels: a pair of folders, or scenes drawn on the fly.

A data set is indexed and yields `Sample`s. Labels come out as train ids 0..k-1 with 255 for
`ignored`, whatever the ids in the files; originals are never touched.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from causalseg.data import scenes
from causalseg.data.classes import IGNORE, ClassList
from causalseg.errors import ConfigError, DataError, MissingFileError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
_IMAGE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what PIL raises


class Sample(NamedTuple):
    """An image in [0, 1], its label (train ids, 255 ignored) and its name."""

    image: Float[Tensor, "3 H W"]
    label: Int[Tensor, "H W"]
    name: str


class FolderData(Dataset[Sample]):
    """Images and label PNGs of the same stem in two folders, in the order of names.

    Args:
        images: folder of images.
        labels: folder of label PNGs, one channel of class ids.
        classes: the class list; its ids say what the label files hold.
        ignore: one more label id that means `no class`.
        id_map: label id -> train id (255 to ignore), in place of the class list's ids.
        every: use every k-th image.

    Raises:
        MissingFileError: if a folder is not there.
        DataError: if there is no image, or an image without label or the other way round.
        ConfigError: if ``id_map`` leads to no class, or ``ignore`` is the label id of a class.
    """

    def __init__(
        self,
        images: Path,
        labels: Path,
        classes: ClassList,
        ignore: int = IGNORE,
        id_map: Mapping[int, int] | None = None,
        every: int = 1,
    ):
        image_files, label_files = _stems(images, IMAGE_ENDINGS), _stems(labels, (".png",))
        if not image_files:
            raise DataError(f"{images} has no images: {', '.join(IMAGE_ENDINGS)} are read")
        _check_pairs(images, labels, image_files.keys(), label_files.keys())
        pairs = [(image_files[stem], label_files[stem]) for stem in sorted(image_files)]
        self.pairs = pairs[::every]
        self._table = _label_table(classes, ignore, id_map)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        image_file, label_file = self.pairs[index]
        image, label = read_image(image_file), self._read_label(label_file)
        if image.shape[1:] != label.shape:
            raise DataError(
                f"{image_file} is {image.shape[2]} x {image.shape[1]} pixels and its label "
                f"{label_file} is {label.shape[1]} x {label.shape[0]}: they must be the same size"
            )
        return Sample(image, label, image_file.stem)

    def _read_label(self, file: Path) -> Int[Tensor, "H W"]:
        try:
            with Image.open(file) as picture:
                ids = np.asarray(picture)
        except _UNREADABLE as error:
            raise DataError(f"cannot read label {file}: {error}") from error
        if ids.ndim != 2 or ids.dtype.kind not in "iub":
            raise DataError(
                f"label {file} has mode {picture.mode}: a label is one channel of class ids "
                "(8 or 16 bit, or a palette)"
            )
        ids = ids.astype(np.int64)
        known = self._table[np.clip(ids, 0, len(self._table) - 1)]
        wrong = (known < 0) | (ids < 0) | (ids >= len(self._table))
        if wrong.any():
            allowed = np.flatnonzero(self._table >= 0).tolist()
            raise DataError(
                f"label {file} has ids {np.unique(ids[wrong])[:8].tolist()} that are no class; "
                f"allowed are {_ranges(allowed)}. Mend the file, the class list or id_map"
            )
        return torch.from_numpy(known)


class ScenesData(Dataset[Sample]):
    """Procedural street scenes of one domain (`scenes.render`), drawn when asked for.

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
        image = torch.from_numpy(scene.image).movedim(-1, 0).float() / 255
        return Sample(
            image, torch.from_numpy(scene.label).long(), f"{self.domain}_{self.first + index:06d}"
        )


def read_image(file: Path) -> Float[Tensor, "3 H W"]:
    """Read an image as RGB in [0, 1], pixels as stored: EXIF orientation is not applied.

    Raises:
        DataError: if it is missing, broken or of a kind that has no plain colours.
    """
    try:
        with Image.open(file) as picture:
            if picture.mode.startswith("I;16"):  # Pillow would clip 16 bits, not scale them
                gray = np.array(picture).astype(np.float32) / (2**16 - 1)
                return torch.from_numpy(gray).expand(3, -1, -1).contiguous()
            if picture.mode not in _IMAGE_MODES:
                raise DataError(
                    f"image {file} has mode {picture.mode}: allowed are {', '.join(_IMAGE_MODES)}"
                    " and I;16"
                )
            pixels = np.array(picture.convert("RGB"))
    except _UNREADABLE as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot read image {file}: {error}") from error
    return torch.from_numpy(pixels).movedim(-1, 0).float() / 255


def list_images(folder: Path) -> list[Path]:
    """Return the image files of a folder in the order of names."""
    return [file for _, file in sorted(_stems(folder, IMAGE_ENDINGS).items())]


def _stems(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    if not folder.is_dir():
        raise MissingFileError(f"no folder {folder}: check the path, and data.root if it is set")
    files = [file for file in folder.iterdir() if file.suffix.lower() in endings]
    stems: dict[str, Path] = {}
    for file in sorted(files):
        if file.stem in stems:
            raise DataError(f"{stems[file.stem]} and {file} have the same stem: keep one of them")
        stems[file.stem] = file
    return stems


def _check_pairs(images: Path, labels: Path, image_stems: object, label_stems: object) -> None:
    for folder, has, other in (
        (labels, image_stems, label_stems),
        (images, label_stems, image_stems),
    ):
        missing = sorted(set(has) - set(other))  # type: ignore[call-overload]
        if missing:
            kind = "label" if folder == labels else "image"
            raise DataError(
                f"{folder} has no {kind} for {', '.join(missing[:5])}"
                f"{f' and {len(missing) - 5} more' if len(missing) > 5 else ''}: "
                "every image needs a label PNG of the same stem, and every label an image"
            )


def _label_table(classes: ClassList, ignore: int, id_map: Mapping[int, int] | None) -> np.ndarray:
    """Train id of every label id that a file may hold; -1 where there is none."""
    pairs = dict(zip(classes.ids, range(len(classes.ids)), strict=True))
    pairs = pairs if id_map is None else dict(id_map)
    if pairs.get(ignore, IGNORE) != IGNORE:
        raise ConfigError(
            f"data.ignore = {ignore} is also the label id of class "
            f"{classes.names[pairs[ignore]]!r}: a label id is a class or ignored, not both"
        )
    table = np.full(2**16, -1, dtype=np.int64)
    table[[*classes.ignore, ignore]] = IGNORE
    for label_id, train_id in pairs.items():
        is_class = 0 <= train_id < len(classes.names)
        if not (is_class or train_id == IGNORE) or not 0 <= label_id < 2**16:
            raise ConfigError(
                f"id_map sends label id {label_id} to {train_id}: label ids are 0..65535, train "
                f"ids 0..{len(classes.names) - 1}, or {IGNORE} to ignore"
            )
        table[label_id] = train_id
    return table


def _ranges(numbers: list[int]) -> str:
    """``[0, 1, 2, 5]`` as ``0..2, 5``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
