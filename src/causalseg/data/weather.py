"""The domain effects of the drawn scenes: one function a domain, from layers to a photograph.

A scene is drawn once, as layers (colour without light, shadow, depth, what snow lies on, what
shines at night); an effect only lights it and puts weather before it. So label and depth are the
same in every domain and the image alone changes. All colours are linear in [0, 1] except after
`_expose`, which makes the uint8 image.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFilter

from causalseg.data.classes import CITYSCAPES19

Array = np.ndarray
_SKY = CITYSCAPES19.names.index("sky")
# Koschmieder's law: at the visibility range a black object keeps 5 % contrast, exp(-beta V) = 0.05.
_VISIBILITY = 2.996


class Layers(NamedTuple):
    """A scene before light and weather.

    Attributes:
        colour: Reflectance in [0, 1] with the shading of the faces.
        sun: Share of the light that arrives, in [0, 1]: cast shadows.
        label: Train ids.
        depth: Metres along the view axis.
        cover: Share of a surface that fallen snow hides, in [0, 1].
        glow: Light that comes from the pixel itself at night, in [0, 1].
        lamp: Light of street lamps on the ground at night, in [0, 1].
        puddle: How much of a mirror the ground is when wet, in [0, 1].
        horizon: Row of the horizon, in pixels.
        focal: Focal length in pixels.
    """

    colour: Float[Array, "3 H W"]
    sun: Float[Array, "H W"]
    label: UInt8[Array, "H W"]
    depth: Float[Array, "H W"]
    cover: Float[Array, "H W"]
    glow: Float[Array, "3 H W"]
    lamp: Float[Array, "H W"]
    puddle: Float[Array, "H W"]
    horizon: float
    focal: float


def smooth_noise(
    rng: np.random.Generator, size: tuple[int, int], cell: float
) -> Float[Array, "H W"]:
    """Return noise of about unit variance that varies over ``cell`` pixels, float32."""
    height, width = size
    coarse = (max(2, round(height / cell) + 1), max(2, round(width / cell) + 1))
    field = Image.fromarray(rng.standard_normal(coarse, dtype=np.float32))
    return np.asarray(field.resize((width, height), Image.Resampling.BICUBIC))


def white_noise(rng: np.random.Generator, size: tuple[int, ...]) -> Float[Array, "..."]:
    """Return noise of unit variance, each number on its own: a triangle in place of a Gauss bell.

    The sum of two random bytes is ten times as fast as a normal variate.
    """
    count = math.prod(size)
    first, second = np.frombuffer(rng.bytes(2 * count), np.uint8).reshape(2, *size)
    return (np.add(first, second, dtype=np.float32) - 255) * np.float32(1 / 104.5)


def _clear(scene: Layers, rng: np.random.Generator) -> UInt8[Array, "H W 3"]:
    """Day: direct light of a random warmth with cast shadows, a little haze far away."""
    warmth = rng.uniform(-0.06, 0.08)
    light = rng.uniform(0.85, 1.12) * _rgb(1 + warmth, 1, 1 - warmth)
    # A shadow is lit by the sky, so it is bluer than what the sun reaches.
    shadow = (1 - scene.sun) * _rgb(1.0, 0.94, 0.82)
    rgb = scene.colour * (1 - shadow) * light
    haze = np.exp(-scene.depth / rng.uniform(300, 1500))
    rgb = _veil(rgb, np.where(scene.label == _SKY, 1, haze), _rgb(0.72, 0.78, 0.86))
    return _expose(rgb, rng, noise=rng.uniform(0.004, 0.015))


def _night(scene: Layers, rng: np.random.Generator) -> UInt8[Array, "H W 3"]:
    """Night: a dark blue ambient, lamps, own headlights, windows and lights that glow, noise."""
    height, width = scene.label.shape
    rows = np.arange(height, dtype=np.float32)[:, None] - scene.horizon
    columns = (np.arange(width, dtype=np.float32) - width / 2) / scene.focal
    ambient = rng.uniform(0.07, 0.2) * _rgb(0.72, 0.86, 1.2)
    # Dipped headlights: a flat beam just below the horizon that fades with distance.
    beam = np.exp(-np.minimum(scene.depth, 300) / rng.uniform(14, 26))
    beam *= np.exp(-((columns / 0.55) ** 2)) * np.clip(0.35 + rows / (0.1 * height), 0, 1)
    lit = ambient + (rng.uniform(0.4, 0.9) * beam) * _rgb(1, 0.96, 0.86)
    lamps = _rgb(1, 0.78, 0.45) if rng.random() < 0.6 else _rgb(0.9, 0.95, 1)
    lit += (rng.uniform(0.35, 0.8) * scene.lamp) * lamps
    glow = scene.glow * rng.uniform(0.7, 1.1)
    halo, shine, bounce = _blooms(glow, 0.012 * width, 0.045 * width, 0.12 * width)
    lit += 0.9 * bounce
    sky = scene.label == _SKY
    # The light of the town: brighter towards the horizon.
    town = np.exp(-np.abs(rows) / (0.25 * height)) * rng.uniform(0.02, 0.11)
    lit = np.where(sky, ambient * rng.uniform(0.3, 0.9) + town * _rgb(1, 0.85, 0.75), lit)
    rgb = scene.colour * lit + glow + 1.2 * halo + 0.7 * shine
    return _expose(rgb * (1.35 - 0.35 * np.minimum(rgb, 1)), rng, noise=rng.uniform(0.015, 0.04))


def _fog(scene: Layers, rng: np.random.Generator) -> UInt8[Array, "H W 3"]:
    """Fog by Koschmieder's law, I = J t + A (1 - t) with t = exp(-beta d)."""
    visibility = math.exp(rng.uniform(math.log(35), math.log(160)))  # metres
    density = 1 + 0.15 * smooth_noise(rng, scene.label.shape, scene.focal / 3)
    beta = _VISIBILITY / visibility * np.clip(density, 0.5, 1.5)
    airlight = rng.uniform(0.62, 0.86) * _rgb(rng.uniform(0.96, 1.0), 0.985, 1.0)
    rgb = _veil(_overcast(scene.colour, 0.3), np.exp(-beta * scene.depth), airlight)
    return _expose(rgb, rng, noise=rng.uniform(0.004, 0.012))


def _rain(scene: Layers, rng: np.random.Generator) -> UInt8[Array, "H W 3"]:
    """Rain: a grey sky, dark wet ground that mirrors, lights on, haze, streaks, drops on glass."""
    size = scene.label.shape
    light = rng.uniform(0.5, 0.75)
    rgb = _overcast(scene.colour, 0.4) * light
    grey = rng.uniform(0.5, 0.68) * _rgb(0.96, 0.99, 1.03)
    sky = scene.label == _SKY
    rgb = np.where(sky, 0.3 * rgb + 0.7 * grey, rgb) + 0.5 * scene.glow
    mirrored = _mirror(rgb, scene.horizon, rng)
    wet = scene.puddle
    rgb = rgb * (1 - 0.55 * np.minimum(1, 2 * wet))
    rgb += wet * mirrored
    rgb = _veil(rgb, np.exp(-scene.depth / rng.uniform(70, 200)), grey)
    fall = _streaks(size, rng)
    rgb = rgb + fall * (0.85 - rgb) * rng.uniform(0.35, 0.7)
    return _expose(_drops(rgb, rng), rng, noise=rng.uniform(0.006, 0.018))


def _snow(scene: Layers, rng: np.random.Generator) -> UInt8[Array, "H W 3"]:
    """Snow: it lies on what faces up, the sky is white, the far is hazy, flakes fall."""
    size = scene.label.shape
    rgb = _overcast(scene.colour, 0.25) * rng.uniform(0.75, 0.95)
    white = rng.uniform(0.8, 0.92) * _rgb(0.97, 0.99, 1.02)
    lying = scene.cover * rng.uniform(0.85, 1.25) + 0.1 * smooth_noise(rng, size, 7)
    lying = np.where(scene.cover > 0, np.clip(1.3 * lying - 0.12, 0, 0.95), 0)
    relief = 1 + 0.03 * smooth_noise(rng, size, 10) + 0.02 * smooth_noise(rng, size, 2)
    rgb = rgb + lying * (white * relief - rgb)
    air = rng.uniform(0.74, 0.9) * _rgb(0.98, 0.99, 1.0)
    rgb = np.where((scene.label == _SKY), 0.2 * rgb + 0.8 * air, rgb)
    rgb = _veil(rgb, np.exp(-scene.depth / rng.uniform(60, 220)), air)
    fall = _flakes(size, rng)
    return _expose(rgb + fall * (0.96 - rgb), rng, noise=rng.uniform(0.004, 0.012))


EFFECTS: dict[str, Callable[[Layers, np.random.Generator], UInt8[Array, "H W 3"]]] = {
    "clear": _clear,
    "night": _night,
    "fog": _fog,
    "rain": _rain,
    "snow": _snow,
}


def _rgb(red: float, green: float, blue: float) -> Float[Array, "3 1 1"]:
    return np.array((red, green, blue), dtype=np.float32)[:, None, None]


def _overcast(rgb: Float[Array, "3 H W"], share: float) -> Float[Array, "3 H W"]:
    """Take ``share`` of the saturation away, as light without sun does."""
    return rgb + share * ((rgb[0] + rgb[1] + rgb[2]) / 3 - rgb)


def _veil(
    rgb: Float[Array, "3 H W"], transmission: Float[Array, "H W"], air: Float[Array, "3 1 1"]
) -> Float[Array, "3 H W"]:
    """Koschmieder: what the air lets through and what it adds."""
    return air + (rgb - air) * transmission


def _expose(
    rgb: Float[Array, "3 H W"], rng: np.random.Generator, noise: float
) -> UInt8[Array, "H W 3"]:
    """Add the noise of a sensor and round to 0..255."""
    out = rgb * 255 + white_noise(rng, rgb.shape) * np.float32(noise * 255) + np.float32(0.5)
    return np.ascontiguousarray(np.clip(out, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def _blooms(glow: Float[Array, "3 H W"], *radii: float) -> list[Float[Array, "3 H W"]]:
    """Blur light over each of ``radii`` pixels, on a smaller grid since nothing of it is sharp."""
    height, width = glow.shape[1:]
    bright = (np.clip(glow, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    sharp = Image.fromarray(np.ascontiguousarray(bright))
    blooms = []
    for radius in radii:
        shrink = int(max(1, radius / 1.5))
        small = sharp.reduce(shrink).filter(ImageFilter.GaussianBlur(radius / shrink))
        wide = np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))
        blooms.append(np.ascontiguousarray(wide.transpose(2, 0, 1)) * np.float32(1 / 255))
    return blooms


def _mirror(
    rgb: Float[Array, "3 H W"], horizon: float, rng: np.random.Generator
) -> Float[Array, "3 H W"]:
    """The picture upside down about the horizon, in rippled rows: what wet ground shows."""
    height = rgb.shape[1]
    rows = np.arange(height) + rng.normal(0, height / 80, height)
    source = np.clip(np.abs(2 * horizon - rows), 0, height - 1).astype(np.intp)
    rows = (source, np.maximum(source - 4, 0), np.maximum(source - 9, 0))
    blurred = (rgb[:, rows[0]] + rgb[:, rows[1]] + rgb[:, rows[2]]) / 3
    return 0.5 * (blurred + np.roll(blurred, 2, axis=2))


def _streaks(size: tuple[int, ...], rng: np.random.Generator) -> Float[Array, "H W"]:
    """Falling rain as slanted lines, near ones long and bright, in [0, 1]."""
    height, width = size
    layer = Image.new("L", (width, height))
    draw = ImageDraw.Draw(layer)
    slant = rng.uniform(-0.35, 0.35)
    count = int(rng.uniform(180, 450))
    near = rng.random(count) ** 3
    x, y = rng.uniform(-20, width + 20, count), rng.uniform(-40, height, count)
    length = height * (0.03 + 0.14 * near)
    ink = (70 + 150 * near).astype(int)
    for start_x, start_y, run, bright in zip(
        x.tolist(), y.tolist(), length.tolist(), ink.tolist(), strict=True
    ):
        draw.line((start_x, start_y, start_x + slant * run, start_y + run), fill=bright)
    return np.asarray(layer.filter(ImageFilter.BoxBlur(0.6)), dtype=np.float32) / 255


def _drops(rgb: Float[Array, "3 H W"], rng: np.random.Generator) -> Float[Array, "3 H W"]:
    """Now and then drops on the lens: round spots through which the picture is blurred."""
    count = int(rng.integers(0, 9)) * int(rng.random() < 0.5)
    if count == 0:
        return rgb
    height, width = rgb.shape[1:]
    spots = Image.new("L", (width, height))
    draw = ImageDraw.Draw(spots)
    for _ in range(count):
        x, y, radius = (
            rng.uniform(0, width),
            rng.uniform(0, height),
            rng.uniform(0.01, 0.035) * width,
        )
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=200)
    share = np.asarray(spots.filter(ImageFilter.BoxBlur(2)), dtype=np.float32) / 255
    return rgb + share * (1.08 * _blooms(rgb, 0.03 * width)[0] - rgb)


def _flakes(size: tuple[int, ...], rng: np.random.Generator) -> Float[Array, "H W"]:
    """Falling flakes: many small, some near, large and out of focus, in [0, 1]."""
    height, width = size
    drift = rng.uniform(0, 1)
    total = np.zeros((height, width), dtype=np.float32)
    for count, radius, bright, blur in ((200, 0.003, 230, 0.5), (35, 0.007, 170, 1.5)):
        layer = Image.new("L", (width, height))
        draw = ImageDraw.Draw(layer)
        number = int(count * rng.uniform(0.4, 1.4))
        x, y = rng.uniform(0, width, number), rng.uniform(0, height, number)
        reach = width * radius * rng.uniform(0.5, 1.5, number)
        for u, v, r in zip(x.tolist(), y.tolist(), reach.tolist(), strict=True):
            draw.ellipse((u - r, v - r, u + r + drift, v + 1.5 * r), fill=bright)
        total += np.asarray(layer.filter(ImageFilter.BoxBlur(blur)), dtype=np.float32) / 255
    return np.minimum(total, 1)
