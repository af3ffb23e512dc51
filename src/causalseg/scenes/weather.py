"""The domain effects of the drawn scenes: one function a domain, from layers to a photograph.

A scene is drawn once, as layers (colour without light, shadow, depth, what snow lies on, what
shines at night); an effect only lights it and puts weather before it. So label and depth are the
same in every domain and the image alone changes. All colours are linear in [0, 1] except after
`_expose`, which makes the uint8 image. An effect works on the colour layer in place.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFilter

from causalseg.scenes.canvas import SKY, Random
from causalseg.scenes.layers import Layers
from causalseg.scenes.noise import Array, grain, smooth_noise, white_noise

# Koschmieder's law: at the visibility range a black object keeps 5 % contrast, exp(-beta V) = 0.05.
_VISIBILITY = 2.996


def _clear(scene: Layers, rng: Random) -> UInt8[Array, "H W 3"]:
    """Day: direct light of a random warmth with cast shadows, a little haze far away."""
    warmth = rng.uniform(-0.06, 0.08)
    light = rng.uniform(0.85, 1.12) * _rgb(1 + warmth, 1, 1 - warmth)
    rgb = scene.colour
    # A shadow is lit by the sky, so it is bluer than what the sun reaches.
    rgb *= light - (light * _rgb(1.0, 0.94, 0.82)) * (1 - scene.sun())
    haze = 1 - np.exp(scene.depth * (-1 / rng.uniform(300, 1500)))
    haze[scene.label == SKY] = 0
    _mix(rgb, haze, _rgb(0.72, 0.78, 0.86))
    return _expose(rgb, rng, noise=rng.uniform(0.004, 0.015))


def _night(scene: Layers, rng: Random) -> UInt8[Array, "H W 3"]:
    """Night: a dark blue ambient, lamps, own headlights, windows and lights that glow, noise."""
    height, width = scene.label.shape
    rows = np.arange(height, dtype=np.float32)[:, None] - scene.horizon
    columns = (np.arange(width, dtype=np.float32) - width / 2) / scene.focal
    ambient = rng.uniform(0.07, 0.2) * _rgb(0.72, 0.86, 1.2)
    # Dipped headlights: a flat beam just below the horizon that fades with distance.
    beam = np.exp(np.minimum(scene.depth, 300) * (-1 / rng.uniform(14, 26)))
    beam *= np.exp(-((columns / 0.55) ** 2)) * np.clip(0.35 + rows / (0.1 * height), 0, 1)
    beam *= rng.uniform(0.4, 0.9)
    lit = ambient + beam * _rgb(1, 0.96, 0.86)
    lamps = _rgb(1, 0.78, 0.45) if rng.random() < 0.6 else _rgb(0.9, 0.95, 1)
    lit += (rng.uniform(0.35, 0.8) * scene.lamp()) * lamps
    glow = scene.glow()
    glow *= rng.uniform(0.7, 1.1)
    halo = _blur(_picture(255 * glow), 0.012)
    shine = _blur(halo, 0.045)
    lit += _planes(_blur(shine, 0.12), scene, 0.9)
    # The light of the town: brighter towards the horizon.
    town = np.exp(-np.abs(rows) / (0.25 * height)) * rng.uniform(0.02, 0.11)
    sky_light = ambient * rng.uniform(0.3, 0.9) + town * _rgb(1, 0.85, 0.75)
    np.copyto(lit, sky_light, where=scene.label == SKY)
    rgb = scene.colour
    rgb *= lit
    rgb += glow
    rgb += _planes(Image.blend(halo, shine.resize(halo.size), 0.37), scene, 1.9)
    rgb *= 1.35 - 0.35 * np.minimum(rgb, 1)
    return _expose(rgb, rng, noise=rng.uniform(0.015, 0.04))


def _fog(scene: Layers, rng: Random) -> UInt8[Array, "H W 3"]:
    """Fog by Koschmieder's law, I = J t + A (1 - t) with t = exp(-beta d)."""
    visibility = math.exp(rng.uniform(math.log(35), math.log(160)))  # metres
    density = 1 + 0.15 * smooth_noise(rng, scene.label.shape, scene.focal / 3)
    beta = _VISIBILITY / visibility * np.clip(density, 0.5, 1.5)
    airlight = rng.uniform(0.62, 0.86) * _rgb(rng.uniform(0.96, 1.0), 0.985, 1.0)
    rgb = _overcast(scene.colour, 0.3)
    _mix(rgb, 1 - np.exp(-beta * scene.depth), airlight)
    return _expose(rgb, rng, noise=rng.uniform(0.004, 0.012))


def _rain(scene: Layers, rng: Random) -> UInt8[Array, "H W 3"]:
    """Rain: a grey sky, dark wet ground that mirrors, lights on, haze, streaks, drops on glass."""
    rgb = _overcast(scene.colour, 0.4)
    rgb *= rng.uniform(0.5, 0.75)
    grey = rng.uniform(0.5, 0.68) * _rgb(0.96, 0.99, 1.03)
    _mix(rgb, (scene.label == SKY) * np.float32(0.7), grey)
    rgb += 0.5 * scene.glow()
    wet = scene.puddle()
    mirrored = _mirror(rgb, scene.horizon, rng)
    rgb *= 1 - 0.55 * np.minimum(1, 2 * wet)
    start = rgb.shape[1] - mirrored.shape[1]
    rgb[:, start:] += wet[start:] * mirrored
    _mix(rgb, 1 - np.exp(scene.depth * (-1 / rng.uniform(70, 200))), grey)
    _mix(rgb, _streaks(scene.label.shape, rng) * rng.uniform(0.35, 0.7), 0.85)
    _add_drops(rgb, scene, rng)
    return _expose(rgb, rng, noise=rng.uniform(0.006, 0.018))


def _snow(scene: Layers, rng: Random) -> UInt8[Array, "H W 3"]:
    """Snow: it lies on what faces up, the sky is white, the far is hazy, flakes fall."""
    size = scene.label.shape
    rgb = _overcast(scene.colour, 0.25)
    rgb *= rng.uniform(0.75, 0.95)
    white = rng.uniform(0.8, 0.92) * _rgb(0.97, 0.99, 1.02)
    lying = scene.snow()
    is_bare = lying == 0
    lying *= 1.3 * rng.uniform(0.85, 1.25)
    drifts = smooth_noise(rng, size, 7)
    lying += 0.13 * drifts - 0.12
    lying[is_bare] = 0
    relief = 1 + 0.03 * drifts + 0.015 * grain(rng, size)
    _mix(rgb, np.clip(lying, 0, 0.95), white * relief)
    air = rng.uniform(0.74, 0.9) * _rgb(0.98, 0.99, 1.0)
    _mix(rgb, (scene.label == SKY) * np.float32(0.8), air)
    _mix(rgb, 1 - np.exp(scene.depth * (-1 / rng.uniform(60, 220))), air)
    _mix(rgb, _flakes(size, rng), 0.96)
    return _expose(rgb, rng, noise=rng.uniform(0.004, 0.012))


EFFECTS: dict[str, Callable[[Layers, Random], UInt8[Array, "H W 3"]]] = {
    "clear": _clear,
    "night": _night,
    "fog": _fog,
    "rain": _rain,
    "snow": _snow,
}


def _rgb(red: float, green: float, blue: float) -> Float[Array, "3 1 1"]:
    return np.array((red, green, blue), dtype=np.float32)[:, None, None]


def _overcast(rgb: Float[Array, "3 H W"], share: float) -> Float[Array, "3 H W"]:
    """Take ``share`` of the saturation away in place, as light without sun does."""
    grey = (rgb[0] + rgb[1] + rgb[2]) * np.float32(share / 3)
    rgb *= 1 - share
    rgb += grey
    return rgb


def _mix(
    rgb: Float[Array, "3 H W"], share: Float[Array, "H W"], other: Float[Array, "..."] | float
) -> None:
    """Put ``share`` of another colour in the place of the picture's, in place."""
    difference = other - rgb
    difference *= share
    rgb += difference


def _expose(rgb: Float[Array, "3 H W"], rng: Random, noise: float) -> UInt8[Array, "H W 3"]:
    """Add the noise of a sensor and round to 0..255."""
    out = white_noise(rng, rgb.shape)
    out *= noise * 255
    rgb *= 255
    out += rgb
    out += 0.5
    return _interleave(out)


def _interleave(planes: Float[Array, "3 H W"]) -> UInt8[Array, "H W 3"]:
    """Turn planes of 0..255 into pixels, channel by channel: much faster than a transposed copy."""
    np.clip(planes, 0, 255, out=planes)
    pixels = np.empty((*planes.shape[1:], 3), np.uint8)
    for channel, plane in enumerate(planes):
        pixels[..., channel] = plane
    return pixels


def _picture(planes: Float[Array, "3 H W"]) -> Image.Image:
    """Return planes of 0..255, which are clipped in place, as a picture."""
    return Image.fromarray(_interleave(planes))


def _blur(picture: Image.Image, share: float) -> Image.Image:
    """Blur over ``share`` of the width, on a smaller grid since nothing of it is sharp."""
    radius = share * picture.width
    shrink = max(1, int(radius / 1.5))
    return picture.reduce(shrink).filter(ImageFilter.GaussianBlur(radius / shrink))


def _planes(picture: Image.Image, scene: Layers, strength: float) -> Float[Array, "3 H W"]:
    """Enlarge a picture to the size of the scene, as planes in [0, strength]."""
    height, width = scene.label.shape
    wide = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    planes = np.empty((3, height, width), np.float32)
    return np.multiply(wide.transpose(2, 0, 1), np.float32(strength / 255), out=planes)


def _mirror(rgb: Float[Array, "3 H W"], horizon: float, rng: Random) -> Float[Array, "3 h W"]:
    """Return what wet ground shows: the picture upside down about the horizon, rows rippled.

    Only the rows below the horizon: there is no ground above it.
    """
    height = rgb.shape[1]
    below = np.arange(int(horizon), height)
    rows = below + rng.normal(0, height / 80, len(below))
    source = np.clip(np.abs(2 * horizon - rows), 0, height - 1).astype(np.intp)
    mirrored = rgb[:, source]
    for above in (4, 9):
        mirrored += rgb[:, np.maximum(source - above, 0)]
    mirrored *= np.float32(1 / 6)
    return mirrored + np.roll(mirrored, 2, axis=2)


def _streaks(size: tuple[int, ...], rng: Random) -> Float[Array, "H W"]:
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
    return np.asarray(layer.filter(ImageFilter.BoxBlur(0.6))) * np.float32(1 / 255)


def _add_drops(rgb: Float[Array, "3 H W"], scene: Layers, rng: Random) -> None:
    """Now and then drops on the lens: round spots through which the picture is blurred."""
    count = int(rng.integers(0, 9)) * int(rng.random() < 0.5)
    if count == 0:
        return
    height, width = scene.label.shape
    spots = Image.new("L", (width, height))
    draw = ImageDraw.Draw(spots)
    for _ in range(count):
        x, y, radius = (
            rng.uniform(0, width),
            rng.uniform(0, height),
            rng.uniform(0.01, 0.035) * width,
        )
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=200)
    share = np.asarray(spots.filter(ImageFilter.BoxBlur(2))) * np.float32(1 / 255)
    _mix(rgb, share, _planes(_blur(_picture(255 * rgb), 0.03), scene, 1.08))


def _flakes(size: tuple[int, ...], rng: Random) -> Float[Array, "H W"]:
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
        total += np.asarray(layer.filter(ImageFilter.BoxBlur(blur))) * np.float32(1 / 255)
    return np.minimum(total, 1)
