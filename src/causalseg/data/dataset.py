"""Images with labels: a pair of folders, or scenes drawn on the fly.

A data set is indexed and yields `Sample`s. Labels come out as train ids 0..k-1 with 255 for
`ignored`, whatever the ids in the files; originals are never touched.
"""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from causalseg.data import scenes
from causalseg.data.classes import IGNORE, ClassList
from causalseg.data.files import is_utf8
from causalseg.data.labels import IdLabels, LabelReader, open_picture
from causalseg.errors import ConfigError, DataError, MissingFileError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
LABEL_ENDINGS = (".png", ".webp")  # not JPEG: it changes ids
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
            pixel; otherwise they are an error.
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
        image, label = self.read_image(index), self.read_label(index)
        H, W = image.shape[1:]
        if label.shape != (H, W):
            if not self.is_label_resized:
                image_file, label_file = map(self.where, self.pairs[index])
                raise DataError(
                    f"{image_file} is {W} x {H} pixels and its label {label_file} is "
                    f"{label.shape[1]} x {label.shape[0]}: they must be the same size"
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


class FolderData(PairData):
    """Images and labels of the same stem in two folders, in the order of names.

    Args:
        images: folder of images.
        labels: folder of labels, PNG or lossless WebP, one channel of class ids.
        classes: the class list; its ids say what the label files hold.
        ignore: one more label id that means `no class`.
        id_map: label id -> train id (255 to ignore), in place of the class list's ids.
        every: use every k-th image.
        is_strict: refuse images without label and labels without image; else leave them out.

    Raises:
        MissingFileError: if a folder is not there.
        DataError: if there is no image, or, where strict, an image without label or the other way
            round.
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
        is_strict: bool = True,
    ):
        image_files, label_files = _stems(images, IMAGE_ENDINGS), _stems(labels, LABEL_ENDINGS)
        if not image_files:
            raise DataError(f"{images} has no images: {', '.join(IMAGE_ENDINGS)} are read")
        lonely = _find_lonely(images, labels, image_files.keys(), label_files.keys())
        if lonely and is_strict:
            raise DataError(lonely[0])
        stems = sorted(image_files.keys() & label_files.keys())[::every]
        super().__init__(
            [(str(image_files[stem]), str(label_files[stem])) for stem in stems],
            stems,
            IdLabels(
                _label_table(classes, ignore, id_map), "Mend the file, the class list or id_map"
            ),
            lonely=lonely,
        )

    def read(self, file: str) -> bytes:
        """Return the content of a file."""
        return _read_file(Path(file), file)

    def where(self, file: str) -> str:
        """Return the path of a file."""
        return file


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


def read_image(file: Path) -> Float[Tensor, "3 H W"]:
    """Read an image as RGB in [0, 1], pixels as stored: EXIF orientation is not applied.

    Raises:
        DataError: if it is missing, broken or of a kind that has no plain colours.
    """
    return decode_image(_read_file(file, f"image {file}"), str(file))


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


def resize_label(label: Int[Tensor, "h w"], size: tuple[int, int]) -> Int[Tensor, "H W"]:
    """Bring train ids to another height and width: those of the pixels nearest to the centres."""
    return F.resize(label[None], list(size), interpolation=InterpolationMode.NEAREST_EXACT)[0]


def list_images(folder: Path) -> list[Path]:
    """Return the image files of a folder in the order of names."""
    return [file for _, file in sorted(_stems(folder, IMAGE_ENDINGS).items())]


def _stems(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    """Return the files of a folder by stem; those are left out that are hidden, as macOS's are."""
    if not folder.is_dir():
        raise MissingFileError(f"no folder {folder}: check the path, and data.root if it is set")
    files = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in endings and not file.name.startswith(".") and not file.is_dir()
    ]
    stems: dict[str, Path] = {}
    for file in sorted(files):
        if not is_utf8(file.name):
            raise DataError(f"the file name {file.name!r} in {folder} is not UTF-8: rename it")
        if file.stem in stems:
            raise DataError(f"{stems[file.stem]} and {file} have the same stem: keep one of them")
        stems[file.stem] = file
    return stems


def _find_lonely(
    images: Path, labels: Path, image_stems: Set[str], label_stems: Set[str]
) -> list[str]:
    """Say which images have no label and which labels no image."""
    found = []
    for folder, kind, missing in (
        (labels, "label", sorted(image_stems - label_stems)),
        (images, "image", sorted(label_stems - image_stems)),
    ):
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            found.append(
                f"{folder} has no {kind} for {', '.join(missing[:5])}{more}: every image needs a "
                "label of the same stem, PNG or lossless WebP, and every label an image"
            )
    return found


def _label_table(
    classes: ClassList, ignore: int, id_map: Mapping[int, int] | None
) -> dict[int, int]:
    """Train id of every label id that a file may hold."""
    pairs = dict(zip(classes.ids, range(len(classes.ids)), strict=True))
    pairs = pairs if id_map is None else dict(id_map)
    if pairs.get(ignore, IGNORE) != IGNORE:
        raise ConfigError(
            f"data.ignore = {ignore} is also the label id of class "
            f"{classes.names[pairs[ignore]]!r}: a label id is a class or ignored, not both"
        )
    check_train_ids({str(i): train_id for i, train_id in pairs.items()}, classes, "id_map")
    for label_id in pairs:
        if not 0 <= label_id < 2**16:
            raise ConfigError(f"id_map names label id {label_id}: label ids are 0..65535")
    return dict.fromkeys([*classes.ignore, ignore], IGNORE) | pairs


def _read_file(file: Path, what: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {what}: {error}") from error
