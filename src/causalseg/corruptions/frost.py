"""Synthetic ice on a window: ferns of frost that grow from the edges, over a milky film.

These plates replace the photographs of the published frost, with means of 0.36 to 0.81 and
standard deviations of 0.07 to 0.17. A fern is a bent stem with twigs on both sides, which have
twigs themselves, at 60 degrees as ice grows. An image gets a part of one of a few plates.
"""

import functools
import math

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFilter

from causalseg.corruptions.noise import Array, Random, smooth_noise

_SIZE = (640, 960)
_PLATES = ((0.4, 0.16), (0.52, 0.14), (0.62, 0.11), (0.82, 0.09))  # mean, standard deviation
_TINT = (0.94, 1.0, 1.06)
_BRANCH = math.radians(60)
_MIN_TWIG = 5.0  # pixels


def grow_frost(size: tuple[int, ...], rng: Random) -> Float[Array, "3 H W"]:
    """Return ice of a size, in [0, 1]: a random part of a random plate, randomly mirrored."""
    height, width = size
    plate = _plate(int(rng.integers(len(_PLATES))))
    # The part has the shape of the image and 60 to 95 % of the largest that fits into the plate.
    scale = rng.uniform(0.6, 0.95) * min(plate.width / width, plate.height / height)
    wide, high = scale * width, scale * height
    left, top = rng.uniform(0, plate.width - wide), rng.uniform(0, plate.height - high)
    box = (left, top, left + wide, top + high)
    part = plate.resize((width, height), Image.Resampling.BILINEAR, box)
    planes = np.asarray(part).transpose(2, 0, 1)
    turns = rng.integers(2, size=2) * 2 - 1
    return planes[:, :: turns[0], :: turns[1]].astype(np.float32, order="C") / 255


@functools.cache
def _plate(number: int) -> Image.Image:
    rng = np.random.default_rng(number)
    height, width = _SIZE
    ferns = Image.new("L", (width, height))
    draw = ImageDraw.Draw(ferns)
    middle = np.array((width / 2, height / 2))
    for _ in range(22):  # ferns that grow inwards from points of the edge
        around = rng.uniform(0, 2 * math.pi)
        x, y = (middle * (1 + 1.15 * np.array((math.cos(around), math.sin(around))))).tolist()
        inward = around + math.pi + rng.normal(0, 0.45)
        _grow(draw, rng, (x, y), inward, rng.uniform(220, 520), 3)
    ice = np.asarray(ferns.filter(ImageFilter.GaussianBlur(0.7)), np.float32)
    bloom = np.asarray(ferns.filter(ImageFilter.GaussianBlur(9)), np.float32)
    film = 30 * smooth_noise(rng, _SIZE, 120) + 9 * smooth_noise(rng, _SIZE, 14)
    film += 7 * smooth_noise(rng, _SIZE, 2)
    ice = 0.75 * ice + 1.1 * bloom + film
    mean, deviation = _PLATES[number]
    ice = mean + deviation * (ice - ice.mean()) / ice.std()
    planes = [np.clip(255 * tint * ice, 0, 255).astype(np.uint8) for tint in _TINT]
    return Image.merge("RGB", [Image.fromarray(plane) for plane in planes])


def _grow(
    draw: ImageDraw.ImageDraw,
    rng: Random,
    start: tuple[float, float],
    angle: float,
    length: float,
    levels: int,
) -> None:
    """Draw a stem that bends and thins out, and its twigs to both sides; the last are straight."""
    count = int(length / max(_MIN_TWIG, length / 32)) if levels > 1 else 1
    step, bend, bright = length / count, rng.normal(0, 0.012), int(rng.uniform(110, 235))
    dice = rng.random((count, 2)).tolist()
    x, y = start
    for k, (turn, size) in enumerate(dice):
        left = 1 - k / count
        angle += bend + 0.06 * (turn - 0.5)
        X, Y = x + step * math.cos(angle), y + step * math.sin(angle)
        draw.line((x, y, X, Y), fill=bright, width=2 + int(2 * left) if levels > 2 else 1)
        x, y = X, Y
        twig = length * 0.36 * left * (0.5 + 0.5 * size)
        if levels > 1 and twig > _MIN_TWIG:
            for side in (-1, 1):
                _grow(draw, rng, (x, y), angle + side * _BRANCH, twig, levels - 1)
