"""Pictures of a report: image, truth, prediction and what is wrong, side by side as data: URIs."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from causalseg.data.classes import IGNORE
from causalseg.errors import RunError

WRONG = (225, 45, 45)  # the colour of a wrong pixel
_WIDTH = 400  # pixels; an example of one run is then about 65 kB
_KINDS = ("image", "truth", "prediction")


class Picture(NamedTuple):
    """A picture as a data: URI, its size in pixels, and what is seen on it."""

    uri: str
    width: int
    height: int
    alt: str


class Shown(NamedTuple):
    """What a run predicted."""

    prediction: Picture
    errors: Picture
    wrong: float
    """Percent of the labelled pixels."""


class GalleryImage(NamedTuple):
    """An image of a domain; None stands for a run without a picture of it."""

    name: str
    image: Picture
    truth: Picture
    runs: list[Shown | None]


def picture_names(folders: Sequence[Path]) -> list[str]:
    """Return the images that all folders have pictures of; if there is none, those of any folder.

    Args:
        folders: of each run, with files NAME_image.png, NAME_truth.png and NAME_prediction.png.
    """
    found = []
    for folder in folders:
        paths = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*_truth.png"))]
        names = [path.removesuffix("_truth.png") for path in paths]
        found.append([n for n in names if all(_path(folder, n, k).is_file() for k in _KINDS)])
    anywhere = list(dict.fromkeys(name for names in found for name in names))
    return [name for name in anywhere if all(name in names for names in found)] or anywhere


def make_example(
    folders: Sequence[Path], name: str, names: Sequence[str], palette: UInt8[np.ndarray, "k 3"]
) -> tuple[GalleryImage, set[int]]:
    """Make the pictures of one image.

    Args:
        folders: as `picture_names` takes them.
        name: one that it returned.
        names: of the classes.
        palette: colour of each class.

    Returns:
        The example and the train ids that occur in it; k is predicted where there is no class.

    Raises:
        RunError: if a file is broken, the files differ in size, or hold ids of no class.
    """
    triples = [_read_triple(folder, name, len(names)) for folder in folders]
    known = [triple for triple in triples if triple]
    image, truth, _ = known[0]
    shown = [
        triple
        and Shown(
            _label_picture(triple[2], names, palette, f"Predicted in {name}"),
            *_error_picture(name, *triple),
        )
        for triple in triples
    ]
    seen = {int(i) for triple in known for ids in triple[1:] for i in np.unique(ids)} - {IGNORE}
    photo = _photo(image, f"Photograph {name}")
    truth_picture = _label_picture(truth, names, palette, f"Truth of {name}")
    return GalleryImage(name, photo, truth_picture, shown), seen


def data_uri(kind: str, content: bytes) -> str:
    """Return the content of a file of image/``kind`` as a data: URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _path(folder: Path, name: str, kind: str) -> Path:
    return folder / f"{name}_{kind}.png"


def _read_triple(
    folder: Path, name: str, num_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Image (H W 3), truth and prediction (H W, train ids); None if the run has no such picture."""
    paths = [_path(folder, name, kind) for kind in _KINDS]
    if not all(path.is_file() for path in paths):
        return None
    again = "make them anew with `causalseg eval`"
    try:
        image, truth, prediction = (np.asarray(Image.open(path)) for path in paths)
    except (OSError, SyntaxError, ValueError) as error:
        raise RunError(
            f"{folder}: cannot read the pictures of {name} ({error}): {again}"
        ) from error
    if image.shape != (*truth.shape, 3) or truth.shape != prediction.shape:
        raise RunError(f"{folder}: the pictures of {name} differ in size: {again}")
    for ids in (truth, prediction):
        strange = set(np.unique(ids).tolist()) - {*range(num_classes + 1), IGNORE}
        if strange:
            raise RunError(
                f"{folder}: the pictures of {name} hold class {min(strange)}, but there are "
                f"{num_classes} classes: {again}"
            )
    return image, truth, prediction


def _photo(pixels: np.ndarray, alt: str) -> Picture:
    buffer = io.BytesIO()
    picture = _shrink(Image.fromarray(pixels), Image.Resampling.BOX)
    picture.save(buffer, "JPEG", quality=80)
    return Picture(data_uri("jpeg", buffer.getvalue()), *picture.size, alt)


def _label_picture(
    label: np.ndarray, names: Sequence[str], palette: np.ndarray, title: str
) -> Picture:
    picture, buffer = Image.fromarray(label), io.BytesIO()
    picture.putpalette(np.pad(palette, ((0, 256 - len(palette)), (0, 0))).tobytes())
    picture = _shrink(picture, Image.Resampling.NEAREST)
    picture.save(buffer, "PNG", optimize=True)
    shares = 100 * np.bincount(label.ravel(), minlength=256)[: len(names)] / label.size
    largest = [int(i) for i in np.argsort(-shares, kind="stable")[:3] if shares[i] >= 1]
    said = ", ".join(f"{names[i]} {shares[i]:.0f} %" for i in largest)
    return Picture(
        data_uri("png", buffer.getvalue()),
        *picture.size,
        f"{title}: {said or 'no labelled pixels'}",
    )


def _error_picture(
    name: str, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray
) -> tuple[Picture, float]:
    """Right pixels as a dim gray image, wrong ones red, ignored ones black; the share of wrong."""
    is_labelled = truth != IGNORE
    is_wrong = is_labelled & (truth != prediction)
    pixels = np.repeat(60 + 0.5 * image.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    pixels[is_wrong], pixels[~is_labelled] = WRONG, 0
    share = 100 * is_wrong.sum() / max(1, is_labelled.sum())
    return _photo(pixels, f"Errors in {name}: {share:.1f} % of the labelled pixels"), float(share)


def _shrink(picture: Image.Image, how: Image.Resampling) -> Image.Image:
    scale = min(1.0, _WIDTH / picture.width)
    return picture.resize(
        (round(picture.width * scale), max(1, round(picture.height * scale))), how
    )
