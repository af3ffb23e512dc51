"""Weather and speed as seen from a car, by depth: fog, rain, snow and motion blur.

Our own, with physics where it is simple. Depth comes from the data set or from the planes of
`view`. Lengths on the image are fractions of its size: it looks the same at any resolution.
"""

import math

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFilter

from causalseg.corruptions.noise import Array, Random, fractal_noise, smooth_noise
from causalseg.corruptions.resampling import shift
from causalseg.corruptions.view import View

# Koschmieder's law: at the visibility range a black object keeps 5 % contrast, exp(-beta V) = 0.05.
_LEAST_CONTRAST = 0.05
_FOG = (300, 150, 90, 55, 35)  # visibility, metres
_RAIN_STREAKS = (120, 240, 400, 600, 900)
_RAIN_VISIBILITY = (900, 500, 300, 200, 140)  # metres
_RAIN_LIGHT = (0.94, 0.87, 0.8, 0.73, 0.66)  # light left under the cloud
_RAIN_WET = (0.35, 0.5, 0.65, 0.8, 0.95)  # fraction of the road that is wet
_WET_ALBEDO = 0.45  # of wet asphalt over that of dry
_SNOW_COVER = (0.25, 0.45, 0.65, 0.8, 0.95)  # fraction of the ground
_SNOW_FLAKES = (120, 250, 450, 700, 1000)
_SNOW_VISIBILITY = (600, 350, 220, 140, 90)  # metres
_TRACK, _TYRE = 0.8, 0.25  # metres from the middle of the car, half the width of a track
_TRAVEL = (0.1, 0.2, 0.35, 0.6, 1.0)  # metres while the shutter is open
_LONGEST = 0.25  # of the distance to the vanishing point
_HALVINGS = 4  # 16 samples along a trail


def fog_depth(view: View, severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """Fog by Koschmieder's law, X t + A (1 - t) with t = exp(-beta Z) and A the sky light."""
    size = view.depth.shape
    density = 1 + 0.12 * smooth_noise(rng, size, max(size) / 4)
    return _veil(view.image, view, _FOG[severity - 1], _air(view.image, rng), density)


def rain_streaks(view: View, severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """Rain: less light, a darker road with reflections, haze, streaks of falling drops."""
    light = _RAIN_LIGHT[severity - 1]
    X = _grey_out(view.image, 0.35) * light
    air = _air(view.image, rng) * light
    wet = view.ground * np.clip(_RAIN_WET[severity - 1] + 0.15 * _patches(view, rng), 0, 1)
    X = X * (1 - (1 - _WET_ALBEDO) * wet) + 0.2 * wet * _mirror(X, view)
    X = _veil(X, view, _RAIN_VISIBILITY[severity - 1], air)
    streaks = _draw_streaks(X.shape[1:], _RAIN_STREAKS[severity - 1], rng)
    return X + streaks * (np.minimum(1.15 * air + 0.05, 1) - X)


def snow_ground(view: View, severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """Snow: a covered ground with wheel tracks, haze and falling flakes."""
    X, air = _grey_out(view.image, 0.25), _air(view.image, rng)
    cover = _SNOW_COVER[severity - 1]
    tracks = np.exp(-(((np.abs(view.across()) - _TRACK) / _TYRE) ** 2))
    snow = 2.2 * cover - 0.6 + 0.35 * _patches(view, rng) - (1.3 - cover) * tracks
    snow = view.ground * np.clip(snow, 0, 0.95)
    white = np.minimum(1.2 * air, 0.95) * (1 + 0.03 * _patches(view, rng))
    X = X + snow * (white - X)
    X = _veil(X, view, _SNOW_VISIBILITY[severity - 1], air)
    flakes = _draw_flakes(X.shape[1:], _SNOW_FLAKES[severity - 1], rng)
    return X + flakes * (np.minimum(1.15 * air, 1) - X)


def motion_drive(view: View, severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """Blur in the direction of travel: pixel p moves by (p - p0) T / Z, p0 the vanishing point.

    T is the distance driven while the shutter is open; p0 is up to 3 % of the width off the middle.
    The mean of two copies half a trail apart, then of two a quarter apart, and so on, is the mean
    of 2^k samples along it.
    """
    aside = rng.uniform(-0.03, 0.03) * view.depth.shape[1]
    moved = np.minimum(_TRAVEL[severity - 1] / view.depth, _LONGEST)
    down, right = view.rows * moved, (view.columns - aside) * moved
    X = view.image
    for halving in range(_HALVINGS):
        part = 2.0 ** -(halving + 2)
        X = (shift(X, part * down, part * right) + shift(X, -part * down, -part * right)) / 2
    return X


def _air(X: Float[Array, "3 H W"], rng: Random) -> Float[Array, "3 1 1"]:
    """Return the light scattered by air: a faint blue or warm grey as bright as the sky."""
    bright = np.quantile(X[:, ::4, ::4].mean(axis=0), 0.95)
    warmth = rng.uniform(-0.02, 0.02)
    tint = np.array((1 + warmth, 1, 1.01 - warmth))[:, None, None]
    return (np.clip(bright, 0.3, 0.88) * tint).astype(np.float32)


def _veil(
    X: Float[Array, "3 H W"],
    view: View,
    visibility: float,
    air: Float[Array, "3 1 1"],
    density: Float[Array, "H W"] | float = 1.0,
) -> Float[Array, "3 H W"]:
    """Koschmieder's law: X t + air (1 - t), t = exp(-beta Z), beta = -log(0.05) / visibility."""
    beta = np.float32(-math.log(_LEAST_CONTRAST) / visibility) * density
    return air + (X - air) * np.exp(-beta * view.depth)


def _grey_out(X: Float[Array, "3 H W"], fraction: float) -> Float[Array, "3 H W"]:
    """Remove a fraction of the saturation, as light without sun does."""
    return X + np.float32(fraction) * (X.mean(axis=0) - X)


def _patches(view: View, rng: Random) -> Float[Array, "H W"]:
    """Return noise of unit variance on the ground; it repeats after 16 metres."""
    ahead, aside = rng.uniform(0, 256, 2)
    rows = (np.minimum(view.depth, 200) * 16 + ahead).astype(np.int32)
    columns = (view.across() * 16 + aside).astype(np.int32)
    return fractal_noise(1.6, rows, columns)


def _mirror(X: Float[Array, "3 H W"], view: View) -> Float[Array, "3 H W"]:
    """Return the image upside down about the horizon, smeared downwards as a rough road does."""
    H = X.shape[1]
    small = X[:, :: max(1, H // 60)]
    scale = small.shape[1] / H
    rows = ((H * scale - 1) / 2 - view.rows[:, 0] * scale).astype(int)
    smeared = (small + np.roll(small, 1, 1) + np.roll(small, -1, 1)) / 3
    return smeared[:, np.clip(rows, 0, small.shape[1] - 1)]


def _draw_streaks(size: tuple[int, ...], count: int, rng: Random) -> Float[Array, "H W"]:
    """Return the opacity of falling drops: slanted lines, near ones long and broad."""
    H, W = size
    layer = Image.new("L", (W, H))
    draw = ImageDraw.Draw(layer)
    slant = rng.uniform(-0.25, 0.25)
    near = rng.random(count) ** 3
    x, y = rng.uniform(-0.1, 1.1, count) * W, rng.uniform(-0.2, 1, count) * H
    length = H * (0.025 + 0.13 * near)
    values = (50 + 90 * near).astype(int).tolist()
    widths = np.maximum(1, (H / 360 * (0.6 + 1.6 * near)).round().astype(int)).tolist()
    lines = np.stack((x, y, x + slant * length, y + length), axis=1).tolist()
    for line, value, width in zip(lines, values, widths, strict=True):
        draw.line(line, fill=value, width=width)
    return _soften(layer, H / 600)


def _draw_flakes(size: tuple[int, ...], count: int, rng: Random) -> Float[Array, "H W"]:
    """Return the opacity of falling flakes: many far and small, few near, large and soft."""
    H, W = size
    total = np.zeros(size, np.float32)
    slant = abs(rng.uniform(-1, 1))
    for part, radius, value, blur in ((0.9, 1 / 300, 230, 1 / 700), (0.1, 1 / 75, 150, 1 / 150)):
        layer = Image.new("L", (W, H))
        draw = ImageDraw.Draw(layer)
        number = int(count * part)
        x, y = rng.random(number) * W, rng.random(number) * H
        r = H * radius * rng.uniform(0.4, 1.3, number)
        for box in np.stack((x - r, y - r, x + r * (1 + slant), y + 1.4 * r), axis=1).tolist():
            draw.ellipse(box, fill=value)
        total += _soften(layer, H * blur)
    return np.minimum(total, 1)


def _soften(layer: Image.Image, sigma: float) -> Float[Array, "H W"]:
    """Blur a layer of 8 bits and bring it to [0, 1]; sigma in pixels."""
    return np.asarray(layer.filter(ImageFilter.GaussianBlur(sigma))) * np.float32(1 / 255)
