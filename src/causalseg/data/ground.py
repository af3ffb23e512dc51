"""The sky and the ground of a drawn street: every pixel computed, nothing painted.

A pixel below the horizon looks at one point of the ground: z = f h / (row - v0) ahead and
x = (column - u0) z / f + offset - bend(z) to the right of the middle of the road. Where x lies
between the kerbs and bands of the street gives the class; functions of (x, z) in metres give
texture, cracks, markings, tracks and puddles, so they recede as the street does.
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from causalseg.data.canvas import ROAD, SIDEWALK, SKY, TERRAIN, Camera, Place, Random, pick
from causalseg.data.weather import Array, smooth_noise

SKY_DEPTH = 1000.0  # metres; finite, so that exp(-beta d) and means of depth stay defined
_GROUND_END = 400.0  # metres: where the ground fades into the horizon


class Street(NamedTuple):
    """The cross-section of a street, in metres to the right of its middle."""

    lanes: int
    lane: float  # width
    half: float  # from the middle to the kerb
    parking: bool
    bands: tuple[tuple[tuple[float, int], ...], tuple[tuple[float, int], ...]]  # (end, class)
    junction: Place  # where a street crosses, from z to z; far away if none does
    zebra: float  # z of a crossing for people

    def centre(self, lane: int) -> float:
        """The middle of a lane, counted from the left."""
        return (lane + 0.5 - self.lanes / 2) * self.lane


class Layout(NamedTuple):
    """Sky and ground, before anything stands on it; the fields are as in `weather.Layers`."""

    colour: Float[Array, "3 H W"]
    label: UInt8[Array, "H W"]
    depth: Float[Array, "H W"]
    cover: Float[Array, "H W"]
    puddle: Float[Array, "H W"]


@functools.cache
def _tile(slope: float) -> Float[Array, "256 256"]:
    """Noise of unit variance that repeats without a seam, amplitude 1 / frequency ** slope."""
    noise = np.fft.rfft2(np.random.default_rng(0).standard_normal((256, 256)))
    u, v = np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)[None]
    tile = np.fft.irfft2(noise / np.maximum(np.hypot(u, v), 1 / 64) ** slope)
    return ((tile - tile.mean()) / tile.std()).astype(np.float32)


def _sample(
    slope: float, cells: float, x: Float[Array, "h W"], z: Float[Array, "h"], shift: float
) -> Float[Array, "h W"]:
    """Look noise up on the ground, ``cells`` of it a metre."""
    deep, wide = ((z + shift) * cells).astype(np.int32)[:, None], (x * cells).astype(np.int32)
    return _tile(slope)[deep & 255, wide & 255]


def _sky(rng: Random, size: tuple[int, int], horizon: float) -> Float[Array, "3 H W"]:
    """A gradient from zenith to horizon with clouds: blue, milky, grey or evening."""
    height, width = size
    zeniths = ((0.25, 0.45, 0.78), (0.5, 0.62, 0.78), (0.66, 0.69, 0.73), (0.42, 0.45, 0.6))
    hazes = ((0.72, 0.82, 0.92), (0.82, 0.86, 0.9), (0.8, 0.81, 0.83), (0.93, 0.76, 0.6))
    kind = rng.integers(4)
    top, low = (np.array(each[kind], np.float32)[:, None, None] for each in (zeniths, hazes))
    t = np.clip(np.arange(height, dtype=np.float32) / horizon, 0, 1)[:, None]
    sky = top + t * (low - top)
    clouds = smooth_noise(rng, size, width / 5) + 0.5 * smooth_noise(rng, size, width / 14)
    share = np.clip(0.5 * clouds + rng.uniform(-0.4, 0.5), 0, 0.85)
    white = np.float32(rng.uniform(0.75, 0.97))
    return sky + share * (white - 0.06 * clouds - sky)


def lay_ground(rng: Random, street: Street, camera: Camera, size: tuple[int, int]) -> Layout:
    """Return sky and ground of a street; ``size`` is (height, width)."""
    height, width = size
    sky = _sky(rng, size, camera.horizon)
    flat = [np.full(size, value, np.float32) for value in (SKY_DEPTH, 0.0, 0.0)]
    layout = Layout(sky, np.full(size, SKY, np.uint8), *flat)
    first = int(np.ceil(camera.horizon - 0.5 + camera.focal * camera.height / _GROUND_END))
    below = np.arange(first, height, dtype=np.float32) + 0.5 - camera.horizon
    z = camera.focal * camera.height / below
    middle = np.array([camera.offset - camera.bend(d) for d in z.tolist()], np.float32)
    pixel = (z / camera.focal)[:, None]  # metres a pixel is wide
    columns = np.arange(width, dtype=np.float32) + 0.5 - camera.centre
    x = columns * pixel + middle[:, None]
    zone, kinds = _zones(rng, street, x, z)
    label = np.array(kinds, np.uint8)[zone]
    is_road = label == ROAD
    fade, shift = (1 / (1 + z / 12))[:, None], rng.uniform(0, 256)
    fine, coarse = _sample(0.6, 24, x, z, shift), _sample(2.0, 9, x, z, shift)
    rough = np.array([0.12 if kind == TERRAIN else 0.07 for kind in kinds], np.float32)[zone]
    texture = 1 + rough * (0.9 * fade * fine + 0.8 * coarse)
    worn = texture.copy()
    _wear(rng, street, worn, x, z)
    texture = np.where(is_road, worn, texture)
    joints = (np.mod(x, 0.75) < 0.05) | (np.mod(z, 0.75) < 0.05)[:, None]
    texture -= 0.18 * fade * ((label == SIDEWALK) & joints)
    paint = _markings(rng, street, x, z, pixel) * is_road
    paint *= np.clip(rng.uniform(0.5, 1.0) - 0.15 * coarse, 0, 1)
    white_or_yellow = (0.88, 0.88, 0.84) if rng.random() < 0.8 else (0.85, 0.7, 0.25)
    lines = np.array(white_or_yellow, np.float32)[:, None, None]
    tints = np.array([_tint(rng, kind) for kind in kinds], np.float32).T.copy()
    colour = tints[:, zone] * texture
    kerb = np.minimum(0.12 / pixel, 1) * (np.abs(np.abs(x) - street.half - 0.09) < 0.09) * ~is_road
    colour += 0.5 * kerb * (0.7 - colour)
    layout.colour[:, first:] = colour + paint * (lines - colour)
    layout.label[first:], layout.depth[first:] = label, z[:, None]
    # Wheels clear the snow from two tracks in each lane; water stands where the ground is low.
    place = np.abs(np.mod(x / street.lane + street.lanes / 2, 1) - 0.5) * street.lane
    tracks = is_road * np.exp(-(((place - 0.8) / 0.3) ** 2)) * np.float32(rng.uniform(0, 0.65))
    lies = np.array([{ROAD: 0.75, SIDEWALK: 0.85}.get(k, 0.9) for k in kinds], np.float32)[zone]
    layout.cover[first:] = np.clip(lies - tracks + 0.1 * coarse, 0.02, 1)
    wet = np.array([{ROAD: 0.34, SIDEWALK: 0.22}.get(k, 0.04) for k in kinds], np.float32)[zone]
    layout.puddle[first:] = np.clip(wet * (1 + np.clip(1.6 * coarse, -0.4, 1.2)), 0, 0.8)
    return layout


def _zones(
    rng: Random, street: Street, x: Float[Array, "h W"], z: Float[Array, "h"]
) -> tuple[Int[Array, "h W"], list[int]]:
    """Return for each pixel the number of its strip of ground, and the class of each strip."""
    left, right = street.bands
    edges = [*(-end for end, _ in reversed(left)), -street.half, street.half]
    edges += [end for end, _ in right]
    outer = [TERRAIN if rng.random() < 0.7 else SIDEWALK for _ in range(2)]
    kinds = [outer[0], *(kind for _, kind in reversed(left)), ROAD]
    kinds += [*(kind for _, kind in right), outer[1]]
    zone = np.searchsorted(np.array(edges, np.float32), x)
    zone[(z > street.junction[0]) & (z < street.junction[1])] = kinds.index(ROAD)
    return zone, kinds


def _tint(rng: Random, zone: int) -> tuple[float, float, float]:
    greys = ((0.34, 0.34, 0.35), (0.42, 0.41, 0.4), (0.26, 0.26, 0.28))
    if zone == ROAD:
        return pick(rng, greys, 0.01)
    if zone == SIDEWALK:
        return pick(
            rng, (*greys[:2], (0.55, 0.54, 0.52), (0.58, 0.45, 0.4), (0.6, 0.57, 0.5)), 0.02
        )
    return pick(rng, ((0.25, 0.36, 0.14), (0.36, 0.4, 0.18), (0.42, 0.35, 0.22)), 0.02)


def _wear(
    rng: Random,
    street: Street,
    texture: Float[Array, "h W"],
    x: Float[Array, "h W"],
    z: Float[Array, "h"],
) -> None:
    """Darken cracks and repair patches, and the oil line in the middle of each lane, in place."""
    line = np.abs(_sample(1.4, 12, x, z, rng.uniform(0, 256))) < rng.uniform(0.0, 0.06)
    texture -= line * (0.35 / (1 + z / 9))[:, None]
    for _ in range(int(rng.integers(0, 7))):
        near, left = rng.uniform(3, 45), rng.uniform(-street.half, street.half)
        rows = slice(*np.searchsorted(-z, (-near - rng.uniform(0.5, 9), -near)))
        part = x[rows]
        texture[rows] *= 1 + rng.uniform(-0.28, 0.16) * (
            (part > left) & (part < left + rng.uniform(0.4, 3))
        )
    oil = np.cos(2 * np.pi * (x / street.lane + street.lanes / 2))
    texture -= np.float32(rng.uniform(-0.02, 0.06)) * oil


def _markings(
    rng: Random,
    street: Street,
    x: Float[Array, "h W"],
    z: Float[Array, "h"],
    pixel: Float[Array, "h 1"],
) -> Float[Array, "h W"]:
    """Return the share of each pixel that lane lines and crossings cover, in [0, 1]."""
    paint = np.zeros_like(x)
    period, on = rng.uniform(5, 12), rng.uniform(0.35, 0.6)
    dashes = (np.mod(z + rng.uniform(0, 12), period) < on * period)[:, None]
    is_solid = rng.random() < 0.4
    for line in range(street.lanes + 1):
        at = (line - street.lanes / 2) * street.lane
        is_edge = line in (0, street.lanes)
        if is_edge and rng.random() < 0.45:
            continue
        half = 0.5 * rng.uniform(0.1, 0.2)
        share = np.clip((half - np.abs(x - np.float32(at))) / pixel + 0.5, 0, 1)
        share *= np.minimum(1, 2 * half / pixel)
        is_middle = 2 * line == street.lanes
        paint += share if is_edge or (is_middle and is_solid) else share * dashes
    in_junction = (z > street.junction[0] - 1) & (z < street.junction[1] + 1)
    paint[in_junction] = 0
    rows = (z > street.zebra) & (z < street.zebra + 3.2)
    paint[rows] = np.mod(x[rows], 1.1) < 0.55
    stop = (z > street.junction[0] - 2.2) & (z < street.junction[0] - 1.7)
    paint[stop] = (x[stop] > 0) | (street.lanes == 1)
    return np.minimum(paint, 1)
