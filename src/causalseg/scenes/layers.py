"""From inks to a photograph by day: colour, label and depth of each pixel, then light and sensor.

Colour is the mean over finer pixels, so edges are smooth; label and depth are of one of them.
"""

import functools

import numpy as np
from jaxtyping import Float, UInt8
from PIL import ImageFilter

from causalseg.corruptions.noise import Array, Random, rgb, smooth_noise, white_noise
from causalseg.scenes.canvas import INK, Canvas, Label
from causalseg.scenes.ground import Layers

_UNIT = 16000  # an ink's colour as a whole number; four of them fit 16 bits
_TILE = 512  # pixels: the grain of an image repeats after this many


def merge_layers(canvas: Canvas, ground: Layers, rng: Random) -> Layers:
    """Lay the painted inks over ground and sky."""
    table = np.array(canvas.inks, np.float32).reshape(-1, INK).T.copy()  # a column for each ink
    ink = canvas.middle_inks()
    texture = table[5][ink] * _grain(rng, ink.shape)
    colour = _paint_over(ground.colour, table, np.asarray(canvas.numbers), texture)
    label = np.where(ink, table[3].astype(np.uint8)[ink], ground.label)
    return Layers(colour, label, np.where(ink, table[4][ink], ground.depth))


def photograph(layers: Layers, canvas: Canvas, rng: Random) -> UInt8[Array, "H W 3"]:
    """Return the scene by day: sun, shadows, haze and sensor noise."""
    blur = ImageFilter.BoxBlur(canvas.shadow.width / 300)
    sunlight = 1 - np.asarray(canvas.shadow.filter(blur)) * np.float32(0.5 / 255)
    sunlight[canvas.middle_inks() > 0] = 1  # shadows are on the ground
    warmth = rng.uniform(-0.06, 0.08)
    light = rng.uniform(0.85, 1.12) * rgb(1 + warmth, 1, 1 - warmth)
    # A shadow is lit by the sky, so it is bluer than what the sun reaches.
    image = layers.colour * (light - (light * rgb(1.0, 0.94, 0.82)) * (1 - sunlight))
    haze = 1 - np.exp(layers.depth * (-1 / rng.uniform(300, 1500)))
    haze[layers.label == Label.SKY] = 0
    image += haze * (rgb(0.72, 0.78, 0.86) - image)
    noise = rng.uniform(0.004, 0.015) * 255
    values = white_noise(rng, image.shape) * noise + 255 * image + 0.5
    return np.stack(np.clip(values, 0, 255).astype(np.uint8), axis=-1)


def _paint_over(
    colour: Float[Array, "3 H W"], table: Float[Array, "6 inks"], numbers: Array, texture: Array
) -> Float[Array, "3 H W"]:
    """Lay the colours of the inks over those of the ground."""
    # Four 16-bit fields in one number, red, green, blue and how much is painted: the mean over
    # the finer pixels is one sum of four.
    fields = np.full((table.shape[1], 4), _UNIT, np.uint16)
    fields[:, :3] = table[:3].T.clip(0, 1) * _UNIT
    fields[0] = 0
    packed = fields.view(np.uint64)[:, 0]
    total = packed[numbers[::2, ::2]]
    for row, column in ((0, 1), (1, 0), (1, 1)):
        total += packed[numbers[row::2, column::2]]
    means = np.moveaxis(total.view(np.uint16).reshape(*total.shape, 4), -1, 0)
    inks, painted = means[:3], means[3]
    fraction = np.float32(1 / 4 / _UNIT)
    shade = (texture + 1) * fraction
    return np.clip(colour * (1 - painted * fraction) + inks * shade, 0.01, 1)


def _grain(rng: Random, size: tuple[int, ...]) -> Float[Array, "H W"]:
    """Return the noise of a texture, white and of 4 pixels, each of unit variance."""
    rows, columns = (
        (np.arange(side) + start) % _TILE
        for side, start in zip(size, rng.integers(_TILE, size=2).tolist(), strict=True)
    )
    return _grain_tile().take(rows, axis=0).take(columns, axis=1)


@functools.cache
def _grain_tile() -> Float[Array, "512 512"]:
    rng, size = np.random.default_rng(0), (_TILE, _TILE)
    return white_noise(rng, size) + smooth_noise(rng, size, 4)
