"""Difficult light as seen from a car: night and a low sun.

Our own. Light adds up, so both work on linear values, X^2 for an image X (the square approximates
the display's power of 2.2), and return the root.
"""

import math

import numpy as np
from jaxtyping import Float

from causalseg.corruptions.noise import Array, Random, rgb, white_noise
from causalseg.corruptions.view import View

_AMBIENT = (0.2, 0.12, 0.07, 0.04, 0.022)  # light of the night over that of the day
_READ = (0.001, 0.002, 0.003, 0.0045, 0.006)  # standard deviation of the sensor's noise in the dark
_SHOT = (0.0002, 0.0005, 0.001, 0.0018, 0.003)  # its variance over the light
_SKYLIGHT = (0.75, 0.9, 1.3)  # about 10000 K
_HEADLIGHT = (1.0, 0.95, 0.85)  # 4500 K
_SODIUM, _WHITE = (1.0, 0.72, 0.38), (0.9, 0.97, 1.05)  # 2200 K and 6000 K
_LAMPS, _LAMP_SPACING, _LAMP_HEIGHT, _LAMP_SIDE = 5, 28.0, 5.0, 5.0  # metres; over the camera
_SKY = 150.0  # metres: from here on most is sky
_GLARE = (0.1, 0.18, 0.3, 0.5, 0.8)  # light of the veil beside the sun's disc
_SUN = (1.0, 0.86, 0.62)
_DISC = 1.2  # degrees, with the bloom of a lens
_GHOSTS = 4


def night(view: View, severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """Night: faint blue light, own headlights, street lamps, signals and tail lights, noise."""
    linear = view.image**2
    is_far = 1 - np.exp(view.depth * (-1 / _SKY))
    is_sky = is_far * np.clip(-view.rows * np.float32(20 / len(view.depth)), 0, 1)
    ambient = _AMBIENT[severity - 1] * (1 - 0.75 * is_sky)
    lit = ambient * rgb(*_SKYLIGHT) + 0.5 * _headlights(view) * rgb(*_HEADLIGHT)
    colour = rgb(*(_SODIUM if rng.random() < 0.6 else _WHITE))
    pools, halos = _lamps(view, rng)
    # Only signals and tail lights are of such a bright red or green.
    red, green, blue = linear
    strong = np.maximum(red - np.maximum(green, blue), green - red)
    emitted = 0.8 * np.clip(2.5 * strong - 0.8, 0, 1)
    linear = linear * (lit + 0.3 * pools * colour + emitted) + halos * colour
    noise = white_noise(rng, linear.shape)
    noise *= np.sqrt(_READ[severity - 1] ** 2 + _SHOT[severity - 1] * np.minimum(linear, 1))
    return np.sqrt(np.clip(linear + noise, 0, 1))


def sun_glare(view: View, severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """A low sun ahead: its disc, a veil after Stiles and Holladay, lens ghosts, less gain.

    The veil of a light at an angle of a degrees is ~ 1 / a^2 (Stiles and Holladay; CIE's formula of
    disability glare); here 1 / (1 + (a / a0)^2) with a0 = 8, and a tenth of it everywhere.
    """
    H, W = view.depth.shape
    glare = _GLARE[severity - 1]
    right, down = rng.uniform(-0.3, 0.3) * W, rng.uniform(-0.35, -0.08) * H
    columns, rows = view.columns - np.float32(right), view.rows - np.float32(down)
    degrees = math.degrees(1 / view.focal)
    a2 = (columns**2 + rows**2) * np.float32(degrees**2)
    veil = glare * (0.9 / (1 + a2 / 64) + 0.1) + 3 * np.exp(a2 * (-1 / _DISC**2))
    for _ in range(_GHOSTS):
        # Ghosts are on the line from the sun through the middle of the image.
        position, radius = rng.uniform(0.5, 2.4), rng.uniform(0.015, 0.05) * H
        u, v = right * (1 - position), down * (1 - position)
        away = np.sqrt((view.columns - u) ** 2 + (view.rows - v) ** 2)
        veil += 0.15 * glare * np.clip((radius - away) / (0.2 * radius) + 1, 0, 1)
    light = view.image**2 * np.float32(1 - 0.5 * glare) + veil * rgb(*_SUN)
    return np.sqrt(np.minimum(light, 1))


def _headlights(view: View) -> Float[Array, "H W"]:
    """Return the light of dipped beams: below the horizon, ahead, fading with distance."""
    H = len(view.depth)
    beam = np.exp(np.minimum(view.depth, 200) * np.float32(-1 / 22))
    beam *= np.exp(-((view.columns / np.float32(0.45 * view.focal)) ** 2))
    return beam * np.clip(0.25 + view.rows * np.float32(12 / H), 0, 1)


def _lamps(view: View, rng: Random) -> tuple[Float[Array, "H W"], Float[Array, "H W"]]:
    """Return the light that street lamps throw on the street, and their halos."""
    pools = np.zeros_like(view.depth)
    halos = np.zeros_like(view.depth)
    x, side = view.across(), -1.0 if rng.random() < 0.5 else 1.0
    z = rng.uniform(10, 10 + _LAMP_SPACING)
    for _ in range(_LAMPS):
        pools += np.exp(-((x - 0.8 * side * _LAMP_SIDE) ** 2 + (view.depth - z) ** 2) / 50)
        scale = view.focal / z
        u, v = side * _LAMP_SIDE * scale, -_LAMP_HEIGHT * scale
        away2 = (view.columns - np.float32(u)) ** 2 + (view.rows - np.float32(v)) ** 2
        away2 /= np.float32((0.35 * scale) ** 2 + 1)
        halos += 1.2 * np.exp(-away2) + 0.04 / (1 + away2 / 9)
        z, side = z + _LAMP_SPACING / 2, -side
    return pools, halos
