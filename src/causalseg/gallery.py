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
_WIDTH = 320  # pixels


class Picture(NamedTuple):
    """A picture as a data: URI, and what stands below it."""

    uri: str
    caption: str


def make_gallery(
    folders: Sequence[Path], palette: UInt8[np.ndarray, "k 3"]
) -> tuple[set[int], list[list[Picture | None]]]:
    """Make the pictures of one domain.

    Args:
        folders: of each run, with files NAME_image.png, NAME_truth.png and NAME_prediction.png.
        palette: colour of each class.

    Returns:
        The train ids that occur, and a row for each image: image, truth, predictions of all runs
        and their errors; None where a run has no such picture.

    Raises:
        RunError: if a file is broken, or those of one image differ in size.
    """
    ids: set[int] = set()
    rows = []
    found = [file.name for folder in folders for file in sorted(folder.glob("*_truth.png"))]
    for name in dict.fromkeys(file.removesuffix("_truth.png") for file in found):
        triples = [_read_triple(folder, name) for folder in folders]
        known = [triple for triple in triples if triple]
        if known:
            ids |= {int(i) for triple in known for x in triple[1:] for i in np.unique(x)}
            row = [_photo(known[0][0], name), _label_picture(known[0][1], palette)]
            predictions = [triple and _label_picture(triple[2], palette) for triple in triples]
            errors = [triple and _error_picture(*triple) for triple in triples]
            rows.append([*row, *predictions, *errors])
    return ids & set(range(len(palette))), rows


def data_uri(kind: str, buffer: io.BytesIO) -> str:
    """Return the content of a file of image/``kind`` as a data: URI."""
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _read_triple(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Image (H W 3), truth and prediction (H W, train ids); None if the run has no such picture."""
    paths = [folder / f"{name}_{kind}.png" for kind in ("image", "truth", "prediction")]
    if not all(path.is_file() for path in paths):
        return None
    try:
        image, truth, prediction = (np.asarray(Image.open(path)) for path in paths)
    except (OSError, SyntaxError, ValueError) as error:
        raise RunError(f"{folder}: cannot read {name} ({error}): run `causalseg eval`") from error
    if image.shape != (*truth.shape, 3) or truth.shape != prediction.shape:
        raise RunError(f"{folder}: the pictures of {name} differ in size: run `causalseg eval`")
    return image, truth, prediction


def _photo(pixels: np.ndarray, caption: str) -> Picture:
    buffer = io.BytesIO()
    _shrink(Image.fromarray(pixels), Image.Resampling.BOX).save(buffer, "JPEG", quality=85)
    return Picture(data_uri("jpeg", buffer), caption)


def _label_picture(label: np.ndarray, palette: np.ndarray) -> Picture:
    picture, buffer = Image.fromarray(label), io.BytesIO()
    picture.putpalette(np.pad(palette, ((0, 256 - len(palette)), (0, 0))).tobytes())
    _shrink(picture, Image.Resampling.NEAREST).save(buffer, "PNG", optimize=True)
    return Picture(data_uri("png", buffer), "")


def _error_picture(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> Picture:
    """Right pixels as a dim gray image, wrong ones red, ignored ones black."""
    is_labelled = truth != IGNORE
    is_wrong = is_labelled & (truth != prediction)
    pixels = np.repeat(60 + 0.5 * image.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    pixels[is_wrong], pixels[~is_labelled] = WRONG, 0
    return _photo(pixels, f"{100 * is_wrong.sum() / max(1, is_labelled.sum()):.1f} % wrong")


def _shrink(picture: Image.Image, how: Image.Resampling) -> Image.Image:
    scale = min(1.0, _WIDTH / picture.width)
    return picture.resize(
        (round(picture.width * scale), max(1, round(picture.height * scale))), how
    )
