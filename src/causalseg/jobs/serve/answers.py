"""From a request's bytes to an answer: limits, decoding, corruption, prediction, encoding."""

import base64
import io
import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image

from causalseg.build.pairs import decoding_of
from causalseg.corruptions import corrupt
from causalseg.data.dataset import decode_image
from causalseg.data.labels import open_image
from causalseg.engine.prediction import Prediction
from causalseg.errors import CausalsegError, DataError
from causalseg.heads.pyramid import resize
from causalseg.jobs.serve.served import Served, Variant

Output = Literal["labels", "overlay", "confidence", "json", "rle", "page"]
_LONGEST = 1600  # pixels of a side of a picture for the page
Answer = tuple[bytes, str]
"""The body and its media type."""


class TooLargeError(DataError):
    """An image of more bytes or pixels than are allowed."""


class Wanted(NamedTuple):
    """What is asked of an image; ``bands`` adds pictures of the band to what a page gets."""

    output: Output = "labels"
    corruption: str | None = None
    severity: int = 3
    view: Variant = Variant()
    bands: bool = False


def check_image(content: bytes, most_pixels: int) -> int:
    """Read the header alone; return the number of pixels.

    Raises DataError for no image, TooLargeError for a too large one.
    """
    if not content:
        raise DataError("the request is empty: send the content of an image file as its body")
    with open_image(content, "the image") as image:
        if image.width * image.height > most_pixels:
            raise TooLargeError(
                f"the image has {image.width} x {image.height} pixels, and "
                f"{most_pixels / 1e6:g} million are allowed: send a smaller one"
            )
        return image.width * image.height


def answer(served: Served, asked: Sequence[tuple[bytes, Wanted]]) -> list[Answer | CausalsegError]:
    """Return the answers to images of one run and view, or what is wrong with them."""
    images: list[torch.Tensor | CausalsegError] = []
    for content, wanted in asked:
        try:
            images.append(_prepare(served, content, wanted))
        except CausalsegError as error:
            images.append(error)
    good = [image for image in images if isinstance(image, torch.Tensor)]
    with served.seen(asked[0][1].view) as model:
        predictions = iter(model.predict([*good]))
    answers: list[Answer | CausalsegError] = []
    for image, (_, wanted) in zip(images, asked, strict=True):
        if isinstance(image, CausalsegError):
            answers.append(image)
        else:
            answers.append(_encode(served, next(predictions), wanted, image))
    return answers


def _prepare(served: Served, content: bytes, wanted: Wanted) -> torch.Tensor:
    image = decode_image(content, "given", decoding_of(served.model.config.data))
    if wanted.output == "page":  # what a screen shows
        image = _shrink(image)
    if wanted.corruption:
        image = corrupt(image, wanted.corruption, wanted.severity, seed=0)
    return image


def _encode(served: Served, prediction: Prediction, wanted: Wanted, image: torch.Tensor) -> Answer:
    match wanted.output:
        case "labels":
            return _png(Image.fromarray(prediction.label_ids())), "image/png"
        case "overlay":
            return _png(prediction.overlay()), "image/png"
        case "confidence":
            return _png(_gray(prediction)), "image/png"
        case "json":
            body: dict[str, Any] = _summary(prediction)
        case "rle":
            body = {**_summary(prediction), "size": list(prediction.labels.shape)}
            body["rle"] = run_lengths(prediction.labels)
        case "page":
            pictures = {
                "image": Image.fromarray(prediction.image),
                "labels": Image.fromarray(prediction.labels),
                "confidence": _gray(prediction),
            }
            if wanted.bands and served.band is not None:
                pictures["causal"], pictures["rest"] = served.draw_band(image, wanted.view)
            body = _summary(prediction)
            body |= {name: _data_url(picture) for name, picture in pictures.items()}
    return json.dumps(body).encode(), "application/json"


def run_lengths(labels: Int[np.ndarray, "H W"]) -> list[list[int]]:
    """Return pairs of train id and length, row after row."""
    flat = labels.ravel()
    starts = np.flatnonzero(np.r_[True, flat[1:] != flat[:-1]])
    lengths = np.diff(np.r_[starts, len(flat)])
    return np.stack([flat[starts], lengths], axis=1).tolist()


def _summary(prediction: Prediction) -> dict[str, Any]:
    return {"shares": prediction.shares(), "confidence_mean": float(prediction.confidence.mean())}


def _shrink(image: torch.Tensor) -> torch.Tensor:
    H, W = image.shape[-2:]
    factor = _LONGEST / max(H, W)
    if factor >= 1:
        return image
    size = (max(1, round(H * factor)), max(1, round(W * factor)))
    return resize(image[None], size, antialias=True)[0].clamp(0, 1)


def _gray(prediction: Prediction) -> Image.Image:
    return Image.fromarray((255 * prediction.confidence).round().astype(np.uint8))


def _png(picture: Image.Image) -> bytes:
    with io.BytesIO() as file:
        picture.save(file, format="PNG", compress_level=1)
        return file.getvalue()


def _data_url(picture: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(_png(picture)).decode()
