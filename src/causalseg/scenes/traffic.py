"""Traffic of a synthetic street: people, two-wheelers and vehicles.

As in `props`, each function paints one object at a position in metres. A vehicle is its outline
seen from the side, extruded over its width: each edge of the outline is a strip across it.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

from causalseg.corruptions.noise import Random
from causalseg.scenes.canvas import Canvas, Label, Point, Position
from causalseg.scenes.choices import PAINTS, STEEL, TYRE, WHITE, Colour, pick, tone, uniform

_Locate = Callable[[float, float], Point]  # of a point of the side, in percent
_RED = (0.85, 0.06, 0.04)
_GLASS = (0.1, 0.12, 0.15)
_CIRCLE = [(math.cos(a * math.pi / 6), math.sin(a * math.pi / 6)) for a in range(12)]


class Body(NamedTuple):
    """A vehicle: size in metres, outline from tail to nose in percent of length and height."""

    label: int
    size: Point  # width, height, length
    outline: tuple[Position, ...]
    glass: tuple[int, ...]  # the edges of the outline that are windows
    window: tuple[Position, ...]  # the windows of the side


_CABIN = ((17, 66), (31, 93), (58, 93), (73, 66))
_SEDAN = ((0, 14), (0, 58), (14, 63), (29, 100), (60, 100), (78, 62), (100, 46), (100, 14))
_HATCH = ((0, 14), (0, 58), (4, 64), (15, 100), (58, 100), (77, 62), (100, 48), (100, 14))
_VAN = ((0, 12), (0, 52), (1, 55), (4, 100), (74, 100), (90, 55), (100, 42), (100, 12))
_TRUCK = ((0, 16), (0, 20), (0, 100), (74, 100), (75, 84), (96, 82), (100, 42), (100, 10))
_BUS = ((0, 8), (0, 40), (0, 46), (0, 100), (99, 100), (100, 40), (100, 36), (100, 8))
SEDAN = Body(Label.CAR, (1.8, 1.45, 4.5), _SEDAN, (2, 4), _CABIN)
HATCH = Body(Label.CAR, (1.75, 1.5, 4.0), _HATCH, (2, 4), _CABIN)
VAN = Body(Label.CAR, (1.95, 2.0, 4.9), _VAN, (2, 4), ((60, 58), (60, 90), (73, 90), (85, 58)))
LORRY = Body(Label.TRUCK, (2.4, 3.3, 7.5), _TRUCK, (5,), ((80, 45), (80, 72), (93, 72), (96, 45)))
# Seams of the side: where they are and from what to what height they go, in percent.
_DOORS: dict[int, tuple[tuple[float, ...], Position]] = {
    Label.CAR: ((44, 60), (20, 96)),
    Label.BUS: ((20, 40, 60, 80), (40, 90)),
    Label.TRUCK: ((74,), (20, 100)),
}
COACH = Body(Label.BUS, (2.5, 3.1, 11.0), _BUS, (2, 4), ((3, 45), (3, 85), (97, 85), (97, 45)))


def person(canvas: Canvas, rng: Random, x: float, z: float) -> None:
    """Paint a person who stands or walks, sometimes with a bag."""
    h = uniform(rng, 1.5, 1.9) if rng.random() < 0.85 else uniform(rng, 1.0, 1.4)
    shirt, trousers = pick(rng, PAINTS), tone(pick(rng, PAINTS), 0.6)
    skin = tone((0.85, 0.65, 0.52), uniform(rng, 0.35, 1.1))
    coat, leg, face = (canvas.ink(c, Label.PERSON, z, 0.06) for c in (shirt, trousers, skin))
    hair = canvas.ink(tone((0.25, 0.18, 0.12), uniform(rng, 0.2, 2.2)), Label.PERSON, z, 0.1)
    broad, stride = uniform(rng, 0.12, 0.17) * h, uniform(rng, 0.02, 0.32)
    for foot in (-1, 1):
        canvas.bar(leg, (x + foot * 0.07, 0.52 * h, z), (x + foot * stride, 0, z), 0.16)
        arm, hand = canvas.ink(tone(shirt, 0.85), Label.PERSON, z), x + foot * (broad + 0.06)
        canvas.bar(arm, (x + foot * broad, 0.8 * h, z), (hand, 0.45 * h, z), 0.1)
    waist, hem = 0.8 * broad, uniform(rng, 0.3, 0.5) * h
    corners = ((x - broad, 0.83 * h, z), (x + broad, 0.83 * h, z), (x + waist, hem, z))
    canvas.polygon(coat, *corners, (x - waist, hem, z))
    canvas.disc(hair, (x, 0.93 * h, z), 0.075 * h, 0.85)
    canvas.disc(face, (x, 0.905 * h, z), 0.055 * h, 0.85)
    if rng.random() < 0.3:
        bag = canvas.ink(pick(rng, PAINTS), Label.PERSON, z)
        canvas.panel(bag, (x + waist, z), (x + waist + 0.25, z), 0.3 * h, 0.5 * h)
    canvas.spot((x, z), 0.3, 150)
    canvas.cast((x - 0.2, z), (x + 0.2, z), h)


def two_wheeler(canvas: Canvas, rng: Random, x: float, z: float, label: int, ridden: bool) -> None:
    """Paint a bicycle or motorcycle at a random angle, and its rider if it is ridden."""
    turn = uniform(rng, 0.12, 1) * (1 if rng.random() < 0.5 else -1)
    motor = label == Label.MOTORCYCLE

    def at(t: float, y: float) -> Point:
        return (x + turn * t, y, z)

    tyre, frame = canvas.ink(TYRE, label, z), canvas.ink(pick(rng, PAINTS), label, z, 0.05)
    hub = canvas.ink(tone(STEEL, 1.0 if motor else 0.8), label, z)
    for t in (-0.55, 0.55):
        canvas.disc(tyre, at(t, 0.34), 0.34, max(0.22, abs(turn)))
        canvas.disc(hub, at(t, 0.34), 0.2 if motor else 0.27, max(0.1, abs(turn) - 0.1))
    thick = 0.3 if motor else 0.07
    canvas.bar(frame, at(-0.55, 0.4), at(0.1, 0.5), thick)
    canvas.bar(frame, at(0.1, 0.5), at(0.4, 0.85), thick)
    canvas.bar(frame, at(-0.15, 0.85), at(0.1, 0.4), thick)
    canvas.bar(tyre, at(0.55, 0.34), at(0.4, 1.0), 0.07)
    canvas.bar(tyre, at(0.42, 1.0), at(0.3, 1.05), 0.1)
    canvas.bar(tyre, at(-0.35, 0.88), at(0.05, 0.86), 0.14 if motor else 0.08)
    canvas.disc(canvas.ink(_RED, label, z), at(-0.6, 0.6), 0.06)
    canvas.spot((x, z), 0.5, 170)
    if not ridden:
        return
    coat = canvas.ink(pick(rng, PAINTS), Label.RIDER, z, 0.06)
    leg = canvas.ink(tone(pick(rng, PAINTS), 0.6), Label.RIDER, z)
    head = canvas.ink(pick(rng, (*PAINTS, (0.8, 0.6, 0.5))), Label.RIDER, z, 0.05)
    for t in (-0.02, 0.14):
        canvas.bar(leg, at(-0.12, 0.95), at(0.2 + t, 0.65), 0.16)
        canvas.bar(leg, at(0.2 + t, 0.65), at(0.05 + t, 0.2 + t), 0.13)
    canvas.bar(coat, at(-0.17, 0.88), at(0.1, 1.42), 0.36)
    canvas.bar(coat, at(0.1, 1.35), at(0.4, 1.05), 0.11)
    canvas.disc(head, at(0.17, 1.58), 0.15, 0.85)


def vehicle(
    canvas: Canvas, rng: Random, body: Body, x: float, z: float, oncoming: bool = False
) -> None:
    """Paint a vehicle along the road, its near end at z: the outline edge by edge, then a side."""
    width, height, length = (d * uniform(rng, 0.93, 1.07) for d in body.size)
    paint, middle = pick(rng, PAINTS), z + length / 2
    left, right = x - width / 2, x + width / 2
    is_right = x + canvas.camera.bend(z) > canvas.camera.offset
    seen = left if is_right else right
    canvas.spot((x, middle), 0.6 * width, 200)
    canvas.cast((seen, z), (seen, z + length), 0.8 * height)
    under = canvas.ink(TYRE, body.label, z)
    canvas.panel(under, (left + 0.1, z + 0.3), (right - 0.1, z + 0.3), 0, 0.3 * height)

    def along(t: float) -> float:
        return z + (100 - t if oncoming else t) / 100 * length

    edges = list(enumerate(itertools.pairwise(body.outline)))
    for index, ((t, y), (T, Y)) in edges if oncoming else reversed(edges):
        near, far, y, Y = along(t), along(T), y / 100 * height, Y / 100 * height
        is_flat = abs(far - near) > 2 * abs(Y - y)
        ink = canvas.ink(tone(paint, 1.1 if is_flat else 0.85), body.label, near, 0.02)
        canvas.polygon(ink, (left, y, near), (right, y, near), (right, Y, far), (left, Y, far))
        if index in body.glass:
            pane = canvas.ink(tone(_GLASS, uniform(rng, 0.6, 2)), body.label, near, 0.02)
            a, b = left + 0.09 * width, right - 0.09 * width
            low, high = y + 0.1 * (Y - y), y + 0.92 * (Y - y)
            canvas.polygon(pane, (a, low, near), (b, low, near), (b, high, far), (a, high, far))

    def at(t: float, y: float) -> Point:
        return (seen, y / 100 * height, along(t))

    lit = tone(paint, canvas.shade(1 if is_right else -1))
    _flank(canvas, body, lit, at, (height, length))
    _lights(canvas, body.label, (left, right), z, min(height, 1.9), oncoming)


def crossing(canvas: Canvas, rng: Random, body: Body, x: float, z: float) -> None:
    """Paint a vehicle that crosses the road at distance z, from the side."""
    _, height, length = (d * uniform(rng, 0.93, 1.07) for d in body.size)
    way = 1 if rng.random() < 0.5 else -1
    for t in (0.2, 0.5, 0.8):
        canvas.spot((x + way * t * length, z + 0.8), 0.3 * length, 200)

    def at(t: float, y: float) -> Point:
        return (x + way * t / 100 * length, y / 100 * height, z)

    _flank(canvas, body, tone(pick(rng, PAINTS), 0.9), at, (height, length))
    roof = canvas.ink(STEEL, body.label, z)
    tops = [point for point in body.outline if point[1] == 100]
    canvas.bar(roof, at(*tops[0]), at(*tops[-1]), 0.06)


def _flank(
    canvas: Canvas, body: Body, paint: Colour, at: _Locate, size: tuple[float, float]
) -> None:
    """Paint the side of a vehicle: outline, windows, doors, wheels."""
    (height, length), z = size, at(50, 0)[2]
    canvas.polygon(canvas.ink(paint, body.label, z, 0.02), *(at(*point) for point in body.outline))
    pane = canvas.ink(_GLASS, body.label, z, 0.02)
    canvas.polygon(pane, *(at(*point) for point in body.window))
    is_close = z < 45
    doors, (low, high) = _DOORS[body.label]
    for t in doors if is_close else ():
        seam = canvas.ink(tone(paint, 0.75), body.label, z)
        canvas.polygon(seam, at(t, low), at(t + 1, low), at(t + 1, high), at(t, high))
    tyre, hub = canvas.ink(TYRE, body.label, z), canvas.ink(STEEL, body.label, z)
    radius = 0.33 if body.label == Label.CAR else 0.48
    for t in (19, 80):
        for ink, r in ((tyre, radius), (hub, 0.55 * radius))[: 1 + is_close]:
            ring = [(t + 100 * r / length * c, 100 / height * (radius + r * s)) for c, s in _CIRCLE]
            canvas.polygon(ink, *(at(*point) for point in ring))


def _lights(
    canvas: Canvas, label: int, sides: Position, z: float, height: float, oncoming: bool
) -> None:
    """Paint the two head or tail lights and the plate of the near end."""
    left, right = sides
    lamp = canvas.ink(WHITE if oncoming else _RED, label, z, 0.02)
    plate = canvas.ink((0.85, 0.85, 0.75), label, z)
    for edge, inner in ((left, 0.32), (right, -0.32)):
        canvas.panel(lamp, (edge + 0.2 * inner, z), (edge + inner, z), 0.4 * height, 0.5 * height)
    middle = (left + right) / 2
    canvas.panel(plate, (middle - 0.26, z), (middle + 0.26, z), 0.3 * height, 0.37 * height)
