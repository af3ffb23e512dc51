"""The images that exported files are compared, calibrated and scored on, at the window's size."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from causalseg.build.data import build_data, build_domains
from causalseg.build.pairs import decoding_of
from causalseg.config import Config
from causalseg.data.classes import IGNORE
from causalseg.data.dataset import Sample, decode_image, resize_label
from causalseg.errors import ConfigError
from causalseg.heads.pyramid import resize
from causalseg.jobs.pictures import Picture, find_pictures

Pixels = Int[np.ndarray, "b H W 3"]


class Labelled(NamedTuple):
    """Images of a domain, each as a batch of one, with labels in the classes ``names``.

    ``mapping`` sends a class of the model to one of them, or to their number where there is none.
    """

    pixels: list[Pixels]
    labels: list[Int[Tensor, "H W"]]
    names: tuple[str, ...]
    mapping: Int[np.ndarray, " k"]


def to_pixels(image: Float[Tensor, "3 _ _"], size: tuple[int, int]) -> Pixels:
    """Return an image in [0, 1] as a batch of one, 8 bits a channel."""
    scaled = resize(image[None], size, antialias=True).clamp(0, 1)
    return (255 * scaled).round().byte().movedim(1, -1).numpy()


def images_to_compare(
    config: Config, images: str | None, size: tuple[int, int], most: int
) -> Pixels:
    """Return images as `predict` takes them; without, of the run's domains, spread over them."""
    readers: list[Callable[[], Float[Tensor, "3 H W"]]] = []
    if images is not None:
        for picture in find_pictures(images, [], is_recursive=True):
            readers.append(functools.partial(_decode, picture, config))
    elif config.data.domains:
        for domain in build_domains(config.data, config.inference).values():
            readers += [functools.partial(_image_of, domain.data, i) for i in _spread(domain.data)]
    else:
        raise ConfigError("the run names no data to compare the file with: give --images FOLDER")
    used = min(most, len(readers))
    found = [readers[number * len(readers) // used]() for number in range(used)]
    return np.concatenate([to_pixels(image, size) for image in found])


def source_images(config: Config, size: tuple[int, int], most: int) -> list[Pixels]:
    """Return images of the run's training data, whole: a domain must decide nothing."""
    if not config.data.sources:
        raise ConfigError("the run names no training images to calibrate int8 with")
    data, _ = build_data(config.data, config.inference)
    return [to_pixels(data[index].image, size) for index in _spread(data, most)]


def labelled_images(config: Config, domain: str, size: tuple[int, int], most: int) -> Labelled:
    """Return images and labels of a domain; ConfigError if the run has none of that name."""
    if domain not in config.data.domains:
        names = ", ".join(config.data.domains) or "none"
        raise ConfigError(f"no domain {domain!r} to take images from; the run has {names}")
    alone = config.with_options("data", only=[domain], mean_over=None)
    built = build_domains(alone.data, config.inference)[domain]
    samples = [built.data[index] for index in _spread(built.data, most)]
    classes = built.classes.names
    mapping = np.array(range(len(classes)) if built.mapping is None else built.mapping)
    return Labelled(
        [to_pixels(sample.image, size) for sample in samples],
        [resize_label(sample.label, size) for sample in samples],
        classes,
        np.where(mapping == IGNORE, len(classes), mapping),
    )


def _spread(data: Dataset[Sample], most: int | None = None) -> list[int]:
    count = len(data)  # type: ignore[arg-type]
    used = count if most is None else min(most, count)
    return [number * count // used for number in range(used)]


def _decode(picture: Picture, config: Config) -> Float[Tensor, "3 H W"]:
    return decode_image(picture.read(), picture.where, decoding_of(config.data))


def _image_of(data: Dataset[Sample], index: int) -> Float[Tensor, "3 H W"]:
    return data[index].image
