"""The sky and the ground of a synthetic scene, computed for each pixel.

A pixel below the horizon shows one point of the ground: z = f h / (row - v0) ahead and
x = (column - u0) z / f + offset - bend(z) to the right of the middle of the road. The position of x
between the kerbs and bands of the street gives the class; functions of (x, z) in metres give
texture, cracks and markings, so they recede with the street.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from causalseg.corruptions.noise import Array, Random, fractal_noise, smooth_noise
from causalseg.scenes.canvas import Camera, Label, Position
from causalseg.scenes.choices import pick

Plane = Float[Array, "h W"]  # a value for each pixel below the horizon
Row = Float[Array, "h"]  # a value for each of its rows

SKY_DEPTH = 1000.0  # metres; finite, so that exp(-beta d) and means of depth stay defined
_GROUND_END = 400.0  # metres: where the ground fades into the horizon


class Street(NamedTuple):
    """The cross-section of a street, in metres to the right of its middle."""

    lanes: int
    lane: float  # width
    half: float  # from the middle to the kerb
    parking: bool
    bands: tuple[tuple[tuple[float, int], ...], tuple[tuple[float, int], ...]]  # (end, class)
    junction: Position  # where a street crosses, from z to z; far away if none does
    zebra: float  # z of a crossing for people

    def centre(self, lane: int) -> float:
        """Return x of the middle of a lane, counted from the left."""
        return (lane + 0.5 - self.lanes / 2) * self.lane


class Layers(NamedTuple):
    """A scene, or its sky and ground, before it is lit."""

    colour: Float[Array, "3 H W"]  # reflectance in [0, 1]
    label: UInt8[Array, "H W"]  # Cityscapes train ids
    depth: Float[Array, "H W"]  # metres along the view axis; `SKY_DEPTH` in the sky


def _phase(x: Float[Array, "..."], period: float) -> Float[Array, "..."]:
    """Return the position of x within its period, in [0, 1); faster than the modulo."""
    turns = x * np.float32(1 / period)
    return turns - np.floor(turns)


def _sample(slope: float, cells: float, x: Plane, z: Row, shift: float) -> Plane:
    """Return noise on the ground with ``cells`` values a metre."""
    deep, wide = ((z + shift) * cells).astype(np.int32)[:, None], (x * cells).astype(np.int32)
    return fractal_noise(slope, deep, wide)


def _paint_sky(rng: Random, colour: Float[Array, "3 H W"], rows: int, horizon: float) -> None:
    """Fill the upper rows with a gradient and clouds: blue, milky, grey or evening."""
    size = colour.shape[1:]
    zeniths = ((0.25, 0.45, 0.78), (0.5, 0.62, 0.78), (0.66, 0.69, 0.73), (0.42, 0.45, 0.6))
    hazes = ((0.72, 0.82, 0.92), (0.82, 0.86, 0.9), (0.8, 0.81, 0.83), (0.93, 0.76, 0.6))
    kind = rng.integers(4)
    t = np.clip(np.arange(rows, dtype=np.float32) / horizon, 0, 1)[:, None]
    clouds = smooth_noise(rng, size, size[1] / 5, rows)
    clouds = clouds + 0.5 * smooth_noise(rng, size, size[1] / 14, rows)
    cover = np.clip(0.5 * clouds + rng.uniform(-0.4, 0.5), 0, 0.85)
    white = rng.uniform(0.75, 0.97) - 0.06 * clouds
    for channel, top, low in zip(colour, zeniths[kind], hazes[kind], strict=True):
        blue = top + t * (low - top)
        channel[:rows] = blue + cover * (white - blue)


def lay_ground(rng: Random, street: Street, camera: Camera, size: tuple[int, int]) -> Layers:
    """Return sky and ground of a street; ``size`` is (height, width)."""
    height, width = size
    first = int(np.ceil(camera.horizon - 0.5 + camera.focal * camera.height / _GROUND_END))
    colour = np.empty((3, *size), np.float32)
    _paint_sky(rng, colour, first, camera.horizon)
    below = np.arange(first, height, dtype=np.float32) + 0.5 - camera.horizon
    z = camera.focal * camera.height / below
    middle = np.array([camera.offset - camera.bend(d) for d in z.tolist()], np.float32)
    pixel = (z / camera.focal)[:, None]  # metres a pixel is wide
    columns = np.arange(width, dtype=np.float32) + 0.5 - camera.centre
    x = columns * pixel + middle[:, None]
    zone, kinds = _zones(rng, street, x, z)
    label = np.array(kinds, np.uint8)[zone]
    is_road = label == Label.ROAD
    fade, shift = (1 / (1 + z / 12))[:, None], rng.uniform(0, 256)
    fine, coarse = _sample(0.6, 24, x, z, shift), _sample(2.0, 9, x, z, shift)
    texture = 0.9 * fade * fine + 0.8 * coarse
    texture *= np.where(label == Label.TERRAIN, np.float32(0.12), np.float32(0.07))
    texture += 1
    texture += is_road * _wear(rng, street, texture, x, z)
    joints = (_phase(x, 0.75) < 0.067) | (_phase(z, 0.75) < 0.067)[:, None]
    texture -= 0.18 * fade * (joints & (label == Label.SIDEWALK))
    paint = _markings(rng, street, x, z, pixel) * is_road
    paint *= np.clip(rng.uniform(0.5, 1.0) - 0.15 * coarse, 0, 1)
    white_or_yellow = (0.88, 0.88, 0.84) if rng.random() < 0.8 else (0.85, 0.7, 0.25)
    tints = np.array([_tint(rng, kind) for kind in kinds], np.float32).T.copy()
    kerb = np.minimum(0.06 / pixel, 0.5) * (np.abs(np.abs(x) - street.half - 0.09) < 0.09)
    kerb *= ~is_road
    for channel, tint, line in zip(colour[:, first:], tints, white_or_yellow, strict=True):
        np.multiply(tint[zone], texture, out=channel)
        channel += kerb * (0.7 - channel)
        channel += paint * (line - channel)
    labels, depth = np.full(size, Label.SKY, np.uint8), np.full(size, SKY_DEPTH, np.float32)
    labels[first:], depth[first:] = label, z[:, None]
    rng.random()  # unused, so that a seed keeps its scene
    return Layers(colour, labels, depth)


def _zones(rng: Random, street: Street, x: Plane, z: Row) -> tuple[Int[Array, "h W"], list[int]]:
    """Return the index of the strip of ground at each pixel, and the class of each strip."""
    left, right = street.bands
    edges = [*(-end for end, _ in reversed(left)), -street.half, street.half]
    edges += [end for end, _ in right]
    outer = [Label.TERRAIN if rng.random() < 0.7 else Label.SIDEWALK for _ in range(2)]
    kinds = [outer[0], *(kind for _, kind in reversed(left)), Label.ROAD]
    kinds += [*(kind for _, kind in right), outer[1]]
    zone = np.searchsorted(np.array(edges, np.float32), x)
    zone[(z > street.junction[0]) & (z < street.junction[1])] = kinds.index(Label.ROAD)
    return zone, kinds


def _tint(rng: Random, zone: int) -> tuple[float, float, float]:
    dark, light = (0.34, 0.34, 0.35), (0.42, 0.41, 0.4)
    if zone == Label.ROAD:
        return pick(rng, (dark, light, (0.26, 0.26, 0.28)), 0.01)
    if zone == Label.SIDEWALK:
        stones = ((0.55, 0.54, 0.52), (0.58, 0.45, 0.4), (0.6, 0.57, 0.5))
        return pick(rng, (dark, light, *stones), 0.02)
    return pick(rng, ((0.25, 0.36, 0.14), (0.36, 0.4, 0.18), (0.42, 0.35, 0.22)), 0.02)


def _wear(rng: Random, street: Street, texture: Plane, x: Plane, z: Row) -> Plane:
    """Return the change of texture by cracks, repair patches and the oil line of each lane."""
    line = np.abs(_sample(1.4, 12, x, z, rng.uniform(0, 256))) < rng.uniform(0.0, 0.06)
    change = line * (-0.35 / (1 + z / 9))[:, None]
    for _ in range(int(rng.integers(0, 7))):
        near, left = rng.uniform(3, 45), rng.uniform(-street.half, street.half)
        rows = slice(*np.searchsorted(-z, (-near - rng.uniform(0.5, 9), -near)))
        part = x[rows]
        strength = rng.uniform(-0.28, 0.16)
        is_patch = (part > left) & (part < left + rng.uniform(0.4, 3))
        change[rows] += (strength * is_patch).astype(np.float32) * (texture + change)[rows]
    oil = np.cos(2 * np.pi * (x / street.lane + street.lanes / 2))
    change -= np.float32(rng.uniform(-0.02, 0.06)) * oil
    return change


def _markings(rng: Random, street: Street, x: Plane, z: Row, pixel: Float[Array, "h 1"]) -> Plane:
    """Return the fraction of each pixel covered by lane lines and crossings, in [0, 1]."""
    paint = np.zeros_like(x)
    period, on = rng.uniform(5, 12), rng.uniform(0.35, 0.6)
    dashes = (_phase(z + rng.uniform(0, 12), period) < on)[:, None]
    is_solid = rng.random() < 0.4
    for line in range(street.lanes + 1):
        at = (line - street.lanes / 2) * street.lane
        is_edge = line in (0, street.lanes)
        if is_edge and rng.random() < 0.45:
            continue
        half = 0.5 * rng.uniform(0.1, 0.2)
        cover = np.clip((half - np.abs(x - np.float32(at))) / pixel + 0.5, 0, 1)
        cover *= np.minimum(1, 2 * half / pixel)
        is_middle = 2 * line == street.lanes
        paint += cover if is_edge or (is_middle and is_solid) else cover * dashes
    in_junction = (z > street.junction[0] - 1) & (z < street.junction[1] + 1)
    paint[in_junction] = 0
    rows = (z > street.zebra) & (z < street.zebra + 3.2)
    paint[rows] = _phase(x[rows], 1.1) < 0.5
    stop = (z > street.junction[0] - 2.2) & (z < street.junction[0] - 1.7)
    paint[stop] = (x[stop] > 0) | (street.lanes == 1)
    return np.minimum(paint, 1)
