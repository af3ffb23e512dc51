"""Synthetic street scenes: composition and rendering.

A seed gives a street (lanes, kerbs, house fronts, objects and traffic), a camera and a sun. The
ground is computed for each pixel, the rest is painted from far to near; then the layers
are lit. Night and weather are corruptions of the clear image with its exact depth, so label and
depth of a seed are the same in every domain.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8

from causalseg.corruptions import corrupt
from causalseg.corruptions.noise import Array, Random
from causalseg.errors import DataError, did_you_mean
from causalseg.scenes import props, traffic
from causalseg.scenes.canvas import NEAR, Camera, Canvas, Label
from causalseg.scenes.choices import choose, pick, uniform
from causalseg.scenes.ground import Layers, Street, lay_ground
from causalseg.scenes.layers import merge_layers, photograph

# The corruption that turns clear scenes into each other domain.
_WEATHER = {"night": "night", "fog": "fog_depth", "rain": "rain_streaks", "snow": "snow_ground"}
_SEVERITIES = (3, 4, 5)
DOMAINS = ("clear", *_WEATHER)

_MIN_SIZE = 64  # pixels
_FAR = 140.0  # metres: only the backdrop is beyond

Thing = tuple[float, Callable[[], None]]  # distance that orders the painting, function that paints


class Scene(NamedTuple):
    """An image with exact labels."""

    image: UInt8[Array, "H W 3"]
    label: UInt8[Array, "H W"]  # Cityscapes train ids 0..18
    depth: Float[Array, "H W"]  # metres along the view axis; `SKY_DEPTH` in the sky


def render(seed: int, size: tuple[int, int] = (240, 320), domain: str = "clear") -> Scene:
    """Render the scene of a seed in one of `DOMAINS`; (height, width) are at least 64 pixels.

    The same seed gives the same label and depth in every domain.

    Raises:
        DataError: if the domain is unknown, the size too small or the seed negative.
    """
    if domain not in DOMAINS:
        raise DataError(f"unknown scene domain '{domain}': {did_you_mean(domain, DOMAINS)}")
    if len(size) != 2 or min(size) < _MIN_SIZE:
        raise DataError(
            f"scene size {size}: give (height, width) in pixels, each at least {_MIN_SIZE}"
        )
    if seed < 0:
        raise DataError(f"scene seed {seed}: give 0 or more")
    layers, canvas = _compose(np.random.default_rng([seed, 0]), size)
    image = photograph(layers, canvas, np.random.default_rng([seed, 1]))
    if domain != "clear":
        rng = np.random.default_rng([seed, 1 + DOMAINS.index(domain)])
        severity, depth = int(rng.choice(_SEVERITIES)), torch.from_numpy(layers.depth)
        clear = torch.from_numpy(image).movedim(-1, 0) / 255
        changed = corrupt(clear, _WEATHER[domain], severity, seed, depth)
        image = np.ascontiguousarray((255 * changed).round().byte().movedim(0, -1).numpy())
    return Scene(image, layers.label, layers.depth)


def _compose(rng: Random, size: tuple[int, int]) -> tuple[Layers, Canvas]:
    """Return the layers of a random scene and the canvas with its shadows."""
    height, width = size
    street = _street(rng)
    ego = rng.integers(street.lanes // 2, street.lanes)  # traffic keeps to the right
    camera = Camera(
        height=uniform(rng, 1.2, 2.4),
        focal=0.5 * max(width, 4 * height / 3) / math.tan(math.radians(uniform(rng, 26, 38))),
        centre=width * uniform(rng, 0.42, 0.58),
        horizon=height * uniform(rng, 0.36, 0.54),
        offset=street.centre(int(ego)) + uniform(rng, -0.5, 0.5),
        heading=uniform(rng, -0.06, 0.06),
        curve=uniform(rng, -0.004, 0.004) * (rng.random() < 0.6),
    )
    canvas = Canvas(camera, size, sun=int(rng.integers(-1, 2)), reach=uniform(rng, 0.3, 1.6))
    ground = lay_ground(rng, street, camera, size)
    _backdrop(canvas, rng, width)
    for _, paint in sorted(_things(canvas, rng, street), key=lambda thing: -thing[0]):
        paint()
    return merge_layers(canvas, ground, rng), canvas


def _street(rng: Random) -> Street:
    lanes, lane, parking = int(rng.integers(1, 5)), uniform(rng, 2.9, 3.7), rng.random() < 0.5
    half = lanes * lane / 2 + (2.3 if parking else 0.3)
    path, green = Label.SIDEWALK, Label.TERRAIN
    plans = ((path,), (green, path), (path, green), (green,))
    bands = []
    for _ in range(2):
        ends, end = [], half
        for zone in plans[choose(rng, (0.46, 0.18, 0.26, 0.1))]:
            end += uniform(rng, 1.5, 4.0)
            ends.append((end, zone))
        bands.append(tuple(ends))
    start = uniform(rng, 14, 80) if rng.random() < 0.5 else 1e6
    zebra = uniform(rng, 7, 30) if rng.random() < 0.3 else 1e6
    junction = (start, start + uniform(rng, 7, 14))
    return Street(lanes, lane, half, parking, (bands[0], bands[1]), junction, zebra)


def _backdrop(canvas: Canvas, rng: Random, width: int) -> None:
    """Close the end of the street: far trees and houses along the horizon."""
    camera = canvas.camera
    z, column = 240.0, 0.0
    while column < width:
        z, step = uniform(rng, 160, 300), width * uniform(rng, 0.02, 0.12)
        x, X = (
            (c - camera.centre) * z / camera.focal + camera.offset - camera.bend(z)
            for c in (column, column + step)
        )
        high = uniform(rng, 4, 30)
        if rng.random() < 0.5:
            grey = pick(rng, ((0.5, 0.5, 0.54), (0.6, 0.55, 0.52), (0.44, 0.45, 0.5)))
            canvas.panel(canvas.ink(grey, Label.BUILDING, z, 0.08), (x, z), (X, z), -2, high)
        else:
            green = pick(rng, ((0.24, 0.32, 0.2), (0.3, 0.36, 0.24)))
            ink = canvas.ink(green, Label.VEGETATION, z, 0.15)
            tops = [(x + (X - x) * t / 6, high * uniform(rng, 0.3, 0.6), z) for t in range(7)]
            canvas.polygon(ink, (x, -2, z), *tops, (X, -2, z))
        column += step * uniform(rng, 0.4, 1)


def _things(canvas: Canvas, rng: Random, street: Street) -> Iterator[Thing]:
    town = rng.dirichlet((2.2, 1.2, 0.9, 0.9, 0.6, 0.9)).tolist()
    for side in (-1, 1):
        yield from _fronts(canvas, rng, street, side, town)
        yield from _furniture(canvas, rng, street, side)
        yield from _people(canvas, rng, street, side)
    yield from _traffic(canvas, rng, street)


def _fronts(
    canvas: Canvas, rng: Random, street: Street, side: int, town: Sequence[float]
) -> Iterator[Thing]:
    """Line one side with buildings, houses, walls, fences, hedges and gaps by the odds ``town``.

    Objects behind a wall or a fence are painted before it, whatever their distance.
    """
    x = side * street.bands[side > 0][-1][0]
    near = NEAR + 0.2
    while near < _FAR:
        far = near + uniform(rng, 7, 22)
        if near < street.junction[1] and far > street.junction[0]:
            near = max(street.junction[1], near + 1)
            continue
        span, behind = (near, far), x + side * uniform(rng, 2, 6)
        kind = choose(rng, town)
        if kind == 0:
            yield far, partial(props.building, canvas, rng, side, x, span)
        elif kind == 1:
            yield far + 0.2, partial(props.building, canvas, rng, side, behind, span, house=True)
        elif rng.random() < 0.5:
            house = bool(rng.random() < 0.5)
            yield far + 0.2, partial(props.building, canvas, rng, side, behind, span, house=house)
        if kind == 2:
            yield far, partial(props.wall, canvas, rng, side, x, span)
        elif kind == 3 or (kind == 1 and rng.random() < 0.4):
            yield far, partial(props.fence, canvas, rng, side, x, span)
        elif kind == 4 or (kind == 1 and rng.random() < 0.4):
            yield far, partial(props.hedge, canvas, rng, x, span)
        for _ in range(int(rng.integers(0, 4)) if kind else 0):
            z = uniform(rng, near, far) + 2
            plant = props.tree if rng.random() < 0.6 else props.bush
            # Behind the front: painted before what closes it, after the house.
            yield far + 0.1, partial(plant, canvas, rng, x + side * uniform(rng, 0.8, 2), z)
        near = far + (0 if rng.random() < 0.7 else uniform(rng, 1, 8))


def _furniture(canvas: Canvas, rng: Random, street: Street, side: int) -> Iterator[Thing]:
    """Put trees, lamps, signs, lights, bollards and parked bicycles on the pavement."""
    kerb, end = street.half + 0.5, street.bands[side > 0][-1][0] - 0.3
    if rng.random() < 0.45:
        step = uniform(rng, 8, 18)
        for z in np.arange(uniform(rng, 4, 14), 110, step).tolist():
            yield z, partial(props.tree, canvas, rng, side * uniform(rng, kerb, end), z)
    if rng.random() < 0.75:
        for z in np.arange(uniform(rng, 5, 25), 130, uniform(rng, 18, 35)).tolist():
            yield z, partial(props.street_lamp, canvas, rng, side, side * kerb, z)
    for z in rng.uniform(5, 70, rng.poisson(2.2)).tolist():
        yield z, partial(props.traffic_sign, canvas, rng, side * uniform(rng, kerb - 0.1, end), z)
    lights = [street.junction[0] - 1, street.zebra - 0.5]
    lights += rng.uniform(8, 60, rng.poisson(0.4)).tolist()
    for z in lights:
        if z < _FAR and rng.random() < 0.8:
            yield z, partial(props.traffic_light, canvas, rng, side * kerb, z)
    for z in rng.uniform(5, 40, rng.poisson(0.7)).tolist():
        kind = Label.MOTORCYCLE if rng.random() < 0.3 else Label.BICYCLE
        at = side * uniform(rng, kerb, end)
        yield z, partial(traffic.two_wheeler, canvas, rng, at, z, kind, ridden=False)


def _people(canvas: Canvas, rng: Random, street: Street, side: int) -> Iterator[Thing]:
    """Put people on one side, alone and in groups, and some on the road."""
    kerb, end = street.half + 0.4, street.bands[side > 0][-1][0]
    for z in (4 + 56 * rng.random(rng.poisson(3)) ** 1.5).tolist():
        at = uniform(rng, kerb, end)
        for step in range(1 + int(rng.random() < 0.35)):
            position = (side * (at + 0.6 * step), z + 0.3 * step)
            yield position[1], partial(traffic.person, canvas, rng, *position)
    for z in rng.uniform(0.3, 2.8, rng.poisson(1)).tolist():
        if street.zebra < _FAR:
            at = uniform(rng, -street.half, street.half)
            yield street.zebra + z, partial(traffic.person, canvas, rng, at, street.zebra + z)
    if rng.random() < 0.2:
        z = uniform(rng, 8, 40)
        yield z, partial(traffic.person, canvas, rng, side * uniform(rng, 1, street.half), z)
    if rng.random() < 0.35:
        z, kind = uniform(rng, 7, 40), Label.MOTORCYCLE if rng.random() < 0.3 else Label.BICYCLE
        at = side * (street.half - 0.7 - 2 * street.parking)
        yield z, partial(traffic.two_wheeler, canvas, rng, at, z, kind, ridden=True)


def _traffic(canvas: Canvas, rng: Random, street: Street) -> Iterator[Thing]:
    """Fill the lanes, the parking strips and the junction with vehicles."""
    bodies = (traffic.SEDAN, traffic.HATCH, traffic.VAN, traffic.LORRY, traffic.COACH)
    odds, busy = (0.36, 0.32, 0.16, 0.09, 0.07), uniform(rng, 10, 60)
    for lane in range(street.lanes):
        oncoming = street.lanes > 1 and lane < street.lanes // 2
        z = uniform(rng, 7, 14) + rng.exponential(0.5 * busy)
        while z < _FAR:
            x = street.centre(lane) + uniform(rng, -0.3, 0.3)
            if rng.random() < 0.14:
                kind = Label.MOTORCYCLE if rng.random() < 0.5 else Label.BICYCLE
                yield z, partial(traffic.two_wheeler, canvas, rng, x, z, kind, ridden=True)
            else:
                body = bodies[choose(rng, odds)]
                yield z, partial(traffic.vehicle, canvas, rng, body, x, z, oncoming)
            z += 13 + rng.exponential(busy)
    for side in (-1, 1) if street.parking else ():
        z = uniform(rng, 3, 12)
        while z < 100:
            body = bodies[choose(rng, (0.4, 0.38, 0.17, 0.05))]
            x, turned = side * (street.half - 1.1), bool(rng.random() < 0.5)
            yield z, partial(traffic.vehicle, canvas, rng, body, x, z, turned)
            z += body.size[2] + uniform(rng, 0.8, 2) + rng.exponential(6)
    for z in np.mean(street.junction) + rng.uniform(-3, 3, rng.poisson(1)):
        if z < _FAR:
            body = bodies[choose(rng, odds)]
            x = uniform(rng, -12, 12)
            yield float(z), partial(traffic.crossing, canvas, rng, body, x, float(z))
