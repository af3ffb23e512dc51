"""Example images of a report: image, truth, prediction and errors, side by side as data: URIs."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from causalseg.data.classes import IGNORE
from causalseg.errors import RunError
from causalseg.report.format import format_percent

WRONG = (225, 45, 45)  # the colour of a wrong pixel
_WIDTH = 400  # pixels; an example of one run is then about 65 kB
_KINDS = ("image", "truth", "prediction")
_ROLES = ("median", "best", "worst")


class EncodedImage(NamedTuple):
    """A data: URI, width and height in pixels, and the alternative text."""

    uri: str
    width: int
    height: int
    alt: str


class ShownPrediction(NamedTuple):
    """The prediction of a run; ``wrong`` is in percent of the labelled pixels."""

    labels: EncodedImage
    errors: EncodedImage
    wrong: float


class GalleryImage(NamedTuple):
    """An image of a domain; the prediction is None for a run without images of it."""

    name: str
    image: EncodedImage
    truth: EncodedImage
    runs: list[ShownPrediction | None]


class Gallery(NamedTuple):
    """Examples with a caption for every run, the number of other images, and the classes."""

    examples: list[tuple[GalleryImage, list[str]]]
    left_out: int
    classes: set[str]

    @property
    def names(self) -> set[str]:
        """The names of the examples."""
        return {example.name for example, _ in self.examples}


def build_gallery(
    folders: Sequence[Path],
    rankings: Sequence[Sequence[tuple[str, float]]],
    palette: Mapping[str, tuple[int, int, int]],
    limit: int,
) -> Gallery | None:
    """Read up to ``limit`` examples of a domain, preferably the best, median and worst of any run.

    Each run has a folder with NAME_image.png, NAME_truth.png and NAME_prediction.png, and a ranking
    of its images by mIoU, the lowest first. The palette is in the order of train ids. None if there
    are no images; RunError if a file is broken, the files differ in size, or hold ids of no class.
    """
    names = list_pictures(folders)
    if not names:
        return None
    captions = [_write_captions(ranking) for ranking in rankings]
    extremes = {n for n in names if any(text.get(n, "").endswith(_ROLES) for text in captions)}
    chosen = set(sorted(names, key=lambda name: name not in extremes)[:limit])
    examples, seen = [], set()
    for name in (name for name in names if name in chosen):
        example, ids = build_example(folders, name, palette)
        examples.append((example, [text.get(name, "") for text in captions]))
        seen |= ids
    classes = {name for i, name in enumerate(palette) if i in seen}
    return Gallery(examples, len(names) - len(chosen), classes)


def list_pictures(folders: Sequence[Path]) -> list[str]:
    """Return the images that all folders have; if there is none, those of any folder."""
    found = []
    for folder in folders:
        paths = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*_truth.png"))]
        names = [path.removesuffix("_truth.png") for path in paths]
        found.append([n for n in names if all((folder / f"{n}_{k}.png").is_file() for k in _KINDS)])
    anywhere = list(dict.fromkeys(name for names in found for name in names))
    return [name for name in anywhere if all(name in names for names in found)] or anywhere


def build_example(
    folders: Sequence[Path], name: str, palette: Mapping[str, tuple[int, int, int]]
) -> tuple[GalleryImage, set[int]]:
    """Return an example and its train ids; the number of classes stands for no class."""
    triples = [_read_triple(folder, name, len(palette)) for folder in folders]
    known = [triple for triple in triples if triple]
    image, truth, _ = known[0]
    alt = f"Predicted in {name}"
    predictions = [
        triple
        and ShownPrediction(_draw_labels(triple[2], palette, alt), *_draw_errors(name, *triple))
        for triple in triples
    ]
    ids = {int(i) for triple in known for part in triple[1:] for i in np.unique(part)} - {IGNORE}
    photo = _encode(image, f"Photograph {name}")
    labels = _draw_labels(truth, palette, f"Truth of {name}")
    return GalleryImage(name, photo, labels, predictions), ids


def data_uri(kind: str, content: bytes) -> str:
    """Return the content of a file of image/``kind`` as a data: URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _read_triple(
    folder: Path, name: str, num_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Read image (H W 3), truth and prediction (H W, train ids); None if the run has none."""
    paths = [folder / f"{name}_{kind}.png" for kind in _KINDS]
    if not all(path.is_file() for path in paths):
        return None
    again = "make them again with `causalseg eval`"
    try:
        image, truth, prediction = (_read_pixels(path) for path in paths)
    except (OSError, SyntaxError, ValueError) as error:
        text = f"{folder}: cannot read the pictures of {name} ({error}): {again}"
        raise RunError(text) from error
    if image.shape != (*truth.shape, 3) or truth.shape != prediction.shape:
        raise RunError(f"{folder}: the pictures of {name} differ in size: {again}")
    for ids in (truth, prediction):
        strange = set(np.unique(ids).tolist()) - {*range(num_classes + 1), IGNORE}
        if strange:
            text = f"hold class {min(strange)}, but there are {num_classes} classes: {again}"
            raise RunError(f"{folder}: the pictures of {name} {text}")
    return image, truth, prediction


def _read_pixels(path: Path) -> np.ndarray:
    with Image.open(path, formats=("PNG",)) as image:
        return np.asarray(image)


def _encode(pixels: np.ndarray, alt: str, palette: Sequence[int] = ()) -> EncodedImage:
    """Encode a photo as JPEG, or train ids with their colours as PNG; shrink what is too wide."""
    buffer, image = io.BytesIO(), Image.fromarray(pixels)
    if palette:
        image.putpalette([*palette, *[0] * (768 - len(palette))])
    scale = min(1.0, _WIDTH / image.width)
    size = round(image.width * scale), max(1, round(image.height * scale))
    image = image.resize(size, Image.Resampling.NEAREST if palette else Image.Resampling.BOX)
    if palette:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=80)
    return EncodedImage(data_uri("png" if palette else "jpeg", buffer.getvalue()), *size, alt)


def _draw_labels(
    label: np.ndarray, palette: Mapping[str, tuple[int, int, int]], title: str
) -> EncodedImage:
    names = list(palette)
    shares = 100 * np.bincount(label.ravel(), minlength=256)[: len(names)] / label.size
    largest = [int(i) for i in np.argsort(-shares, kind="stable")[:3] if shares[i] >= 1]
    listed = ", ".join(f"{names[i]} {shares[i]:.0f} %" for i in largest) or "no labelled pixels"
    colours = [value for colour in palette.values() for value in colour]
    return _encode(label, f"{title}: {listed}", colours)


def _draw_errors(
    name: str, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray
) -> tuple[EncodedImage, float]:
    """Draw right pixels gray, wrong ones red, ignored ones black; also return the percent wrong."""
    is_labelled = truth != IGNORE
    is_wrong = is_labelled & (truth != prediction)
    pixels = np.repeat(60 + 0.5 * image.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    pixels[is_wrong], pixels[~is_labelled] = WRONG, 0
    wrong = 100 * is_wrong.sum() / max(1, is_labelled.sum())
    text = f"Errors in {name}: {format_percent(wrong)} % of the labelled pixels"
    return _encode(pixels, text), float(wrong)


def _write_captions(ranking: Sequence[tuple[str, float]]) -> dict[str, str]:
    """Return what to say of each image: its mIoU, and whether it is the best, median or worst."""
    captions = {name: f"mIoU {format_percent(value)}" for name, value in ranking}
    for index, role in zip((len(ranking) // 2, -1, 0), _ROLES, strict=True):
        if ranking:
            name, value = ranking[index]
            captions[name] = f"mIoU {format_percent(value)}, {role}"
    return captions
