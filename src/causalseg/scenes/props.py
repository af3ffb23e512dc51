"""Objects of a synthetic street: buildings, barriers, plants, lamps, lights and signs.

Each function paints one object on the canvas at a position in metres, with the class of all its
parts; the caller paints from far to near. Colours and sizes are random.
"""

import math
from collections.abc import Iterator

import numpy as np

from causalseg.corruptions.noise import Random
from causalseg.scenes.canvas import Canvas, Label, Point, Position
from causalseg.scenes.choices import PAINTS, STEEL, TYRE, WHITE, Colour, pick, tone, uniform

_FACADES = (
    (0.62, 0.36, 0.27), (0.78, 0.7, 0.55), (0.6, 0.6, 0.6), (0.85, 0.82, 0.76), (0.5, 0.42, 0.36),
    (0.72, 0.5, 0.4), (0.42, 0.48, 0.55), (0.8, 0.72, 0.45), (0.35, 0.33, 0.33), (0.66, 0.7, 0.66),
)  # fmt: skip
_LEAVES = (
    (0.16, 0.3, 0.1), (0.22, 0.36, 0.12), (0.3, 0.36, 0.12), (0.5, 0.36, 0.12), (0.12, 0.24, 0.14)
)  # fmt: skip


def _between(a: Position, b: Position, t: float) -> Position:
    return (a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]))


def _split(a: Position, b: Position, count: int) -> Iterator[tuple[Position, Position, float]]:
    """Yield the ends and the distance of each of ``count`` parts of a line on the ground."""
    for part in range(max(1, count)):
        p, q = _between(a, b, part / max(1, count)), _between(a, b, (part + 1) / max(1, count))
        yield p, q, (p[1] + q[1]) / 2


def facade(
    canvas: Canvas, rng: Random, a: Position, b: Position, height: float, paint: Colour
) -> None:
    """Paint the wall of a building from a to b in bays, each with a column of windows."""
    bays = min(6, max(1, round(math.dist(a, b) / uniform(rng, 2.4, 5))))
    storey, margin = uniform(rng, 2.7, 3.6), uniform(rng, 0.12, 0.36)
    sill, lintel = uniform(rng, 0.2, 0.4) * storey, uniform(rng, 0.7, 0.92) * storey
    glass = tone((0.2, 0.25, 0.32), uniform(rng, 0.4, 2.2))
    lit_windows = uniform(rng, 0, 0.5)
    rng.random()  # unused, so that a seed keeps its scene
    shop, band = rng.random() < 0.35, rng.random() < 0.4
    lit = (rng.random((bays, 24)) < lit_windows).tolist()
    for bay, (p, q, z) in enumerate(_split(a, b, bays)):
        if not canvas.sees(p, q):
            continue
        wall = canvas.ink(tone(paint, 1 - 0.05 * (bay % 2)), Label.BUILDING, z, grain=0.05)
        canvas.panel(wall, p, q, 0, height)
        if z > 70:
            continue
        left, right = _between(p, q, margin), _between(p, q, 1 - margin)
        panes = [canvas.ink(tone(glass, light), Label.BUILDING, z) for light in (1, 1.5)]
        top = canvas.camera.height + canvas.camera.horizon * max(p[1], q[1]) / canvas.camera.focal
        for floor in range(1 if shop else 0, int(min(height, top) / storey) + (top < height)):
            low = floor * storey
            canvas.panel(panes[lit[bay][floor]], left, right, low + sill, low + lintel)
        if shop:
            sign = canvas.ink(pick(rng, PAINTS), Label.BUILDING, z)
            canvas.panel(panes[lit[bay][0] or bay % 2], p, q, 0.4, 2.4)
            canvas.panel(sign, p, q, 2.5, 3.0)
        elif band:
            canvas.panel(canvas.ink(tone(paint, 0.8), Label.BUILDING, z), p, q, 0, 0.8)


def building(
    canvas: Canvas, rng: Random, side: int, x: float, span: Position, house: bool = False
) -> None:
    """Paint a building at the side of the road: the long wall, the front face, the roof."""
    near, far = span
    height = uniform(rng, 3, 7) if house else uniform(rng, 6, 24)
    back = x + side * uniform(rng, 7, 13)
    paint = pick(rng, _FACADES)
    canvas.cast((x, near), (x, far), height)
    roof_paint = pick(rng, ((0.4, 0.2, 0.15), (0.25, 0.25, 0.27), (0.35, 0.3, 0.28)))
    ridge = ((x + back) / 2, height + uniform(rng, 1.5, 3.5)) if house else (x, height)
    facade(canvas, rng, (x, near), (x, far), height, tone(paint, canvas.shade(side)))
    facade(canvas, rng, (x, near), (back, near), height, tone(paint, 0.8))
    middle = (near + far) / 2
    if house:
        slope = canvas.ink(tone(roof_paint, canvas.shade(side)), Label.BUILDING, middle, 0.08)
        canvas.polygon(slope, (x, height, near), (x, height, far), (*ridge, far), (*ridge, near))
        gable = canvas.ink(tone(paint, 0.78), Label.BUILDING, near)
        canvas.polygon(gable, (x, height, near), (back, height, near), (*ridge, near))
        return
    cornice = canvas.ink(tone(paint, 0.7 * canvas.shade(side)), Label.BUILDING, middle)
    canvas.panel(cornice, (x, near), (x, far), height - 0.4, height)
    canvas.panel(cornice, (x, near), (back, near), height - 0.4, height)


def wall(canvas: Canvas, rng: Random, side: int, x: float, span: Position) -> None:
    """Paint a free-standing wall of brick, plaster or concrete with a coping."""
    near, far = span
    height = uniform(rng, 1.2, 3.2)
    paint = pick(rng, (*_FACADES[:3], (0.55, 0.55, 0.53), (0.7, 0.68, 0.62)))
    paint = tone(paint, canvas.shade(side))
    canvas.cast((x, near), (x, far), height)
    for part, (p, q, z) in enumerate(_split((x, near), (x, far), int((far - near) / 3))):
        face = canvas.ink(tone(paint, 1 - 0.06 * (part % 2)), Label.WALL, z, 0.09)
        canvas.panel(face, p, q, 0, height)
        coping = canvas.ink(tone(paint, 1.15), Label.WALL, z, 0.03)
        canvas.panel(coping, p, q, height - 0.15, height)


def fence(canvas: Canvas, rng: Random, side: int, x: float, span: Position) -> None:
    """Paint a fence: planks, pickets with dark gaps or the rails of a barrier."""
    near, far = span
    kind, height = rng.integers(3), uniform(rng, 0.9, 2.0)
    paint = pick(rng, ((0.42, 0.3, 0.2), (0.8, 0.8, 0.78), (0.3, 0.33, 0.32), (0.2, 0.3, 0.2)))
    paint, gap = tone(paint, canvas.shade(side)), tone(pick(rng, _LEAVES), 0.6)
    for p, q, z in _split((x, near), (x, far), int((far - near) / 2.5)):
        board = canvas.ink(paint, Label.FENCE, z, 0.06)
        dark = canvas.ink(tone(paint, 0.75) if kind == 0 else gap, Label.FENCE, z, 0.1)
        canvas.panel(dark if kind else board, p, q, 0, height)
        if kind == 2:
            for low in (0.15, 0.5, 0.82):
                canvas.panel(board, p, q, low * height, (low + 0.15) * height)
        elif z < 60:
            slats = 6 if z < 25 else 3
            ink, width = (dark, 0.3) if kind == 0 else (board, 0.55)
            for slat in range(slats):
                a, b = _between(p, q, slat / slats), _between(p, q, (slat + width) / slats)
                canvas.panel(ink, a, b, 0, height)
        canvas.bar(board, (p[0], 0, p[1]), (p[0], height + 0.1, p[1]), 0.12)


def foliage(canvas: Canvas, rng: Random, middle: Point, radius: float, tall: float = 1.0) -> None:
    """Paint a crown of leaves: dark discs behind, lighter ones up and towards the sun."""
    x, y, z = middle
    green = pick(rng, _LEAVES, 0.03)
    count = 9 if z > 50 else 18
    angle, reach = rng.uniform(0, 2 * np.pi, count), 0.8 * rng.random(count) ** 0.7
    dx = (radius * reach * np.cos(angle)).tolist()
    dy = (radius * reach * tall * np.sin(angle)).tolist()
    size = rng.uniform(0.3, 0.52, count).tolist()
    for layer, factor in enumerate((0.7, 1.0, 1.3)):
        ink = canvas.ink(tone(green, factor), Label.VEGETATION, z, 0.22)
        for i in range(layer, count, 3):
            shift = 0.16 * radius * layer
            at = (x + dx[i] + canvas.sun * shift, y + dy[i] + shift, z)
            canvas.disc(ink, at, radius * (size[i] - 0.06 * layer))


def tree(canvas: Canvas, rng: Random, x: float, z: float) -> None:
    """Paint a tree: a trunk that is vegetation too, and a crown or bare branches."""
    height = uniform(rng, 3.5, 10)
    trunk = canvas.ink(tone((0.3, 0.23, 0.17), uniform(rng, 0.6, 1.3)), Label.VEGETATION, z, 0.12)
    radius = height * uniform(rng, 0.22, 0.36)
    canvas.bar(trunk, (x, 0, z), (x, 0.7 * height, z), uniform(rng, 0.15, 0.4))
    if canvas.sun:
        canvas.spot((x - canvas.sun * canvas.reach * 0.7 * height, z + 1), radius)
    if rng.random() < 0.12:
        for lean in rng.uniform(-0.9, 0.9, 9).tolist():
            root = (x, height * uniform(rng, 0.3, 0.7), z)
            tip = (x + lean * radius * 1.5, height * (1 - 0.3 * abs(lean)), z)
            canvas.bar(trunk, root, tip, 0.07)
        return
    foliage(canvas, rng, (x, 0.72 * height, z), radius, uniform(rng, 0.8, 1.3))


def bush(canvas: Canvas, rng: Random, x: float, z: float) -> None:
    """Paint a bush."""
    radius = uniform(rng, 0.4, 1.2)
    foliage(canvas, rng, (x, 0.5 * radius, z), radius, 0.7)


def hedge(canvas: Canvas, rng: Random, x: float, span: Position) -> None:
    """Paint a hedge along the road."""
    near, far = span
    height, green = uniform(rng, 0.8, 2.4), tone(pick(rng, _LEAVES, 0.03), 0.9)
    for p, q, z in _split((x, near), (x, far), int((far - near) / 2.5)):
        top = height * uniform(rng, 0.9, 1.1)
        canvas.panel(canvas.ink(tone(green, 0.8), Label.VEGETATION, z, 0.25), p, q, 0, top)
        canvas.panel(canvas.ink(tone(green, 1.2), Label.VEGETATION, z, 0.2), p, q, 0.8 * top, top)


def street_lamp(canvas: Canvas, rng: Random, side: int, x: float, z: float) -> None:
    """Paint a lamp post whose arm reaches over the road."""
    height, reach = uniform(rng, 5, 8.5), -side * uniform(rng, 0.4, 1.8)
    steel = canvas.ink(tone(STEEL, uniform(rng, 0.5, 1.3)), Label.POLE, z)
    canvas.bar(steel, (x, 0, z), (x, height, z), uniform(rng, 0.1, 0.18))
    canvas.bar(steel, (x, height, z), (x + reach, height + 0.2, z), 0.1)
    head = canvas.ink(WHITE, Label.POLE, z)
    canvas.panel(head, (x + reach - 0.35, z), (x + reach + 0.35, z), height + 0.1, height + 0.3)
    rng.random()  # unused, so that a seed keeps its scene
    canvas.cast((x - 0.08, z), (x + 0.08, z), height)


def traffic_light(canvas: Canvas, rng: Random, x: float, z: float) -> None:
    """Paint a traffic light on its pole with one lamp on, or its back."""
    base, lit = uniform(rng, 2.1, 3.2), rng.integers(3)
    steel = canvas.ink(tone(STEEL, uniform(rng, 0.5, 1.2)), Label.POLE, z)
    case = canvas.ink(tone((0.08, 0.09, 0.09), uniform(rng, 0.7, 2.5)), Label.LIGHT, z)
    canvas.bar(steel, (x, 0, z), (x, base + 0.4, z), 0.13)
    canvas.panel(case, (x - 0.2, z), (x + 0.2, z), base, base + 1.05)
    if rng.random() < 0.25:
        return
    for index, colour in enumerate(((0.1, 0.85, 0.4), (0.95, 0.7, 0.1), (0.95, 0.12, 0.08))):
        lamp = canvas.ink(tone(colour, 1 if index == lit else 0.2), Label.LIGHT, z)
        canvas.disc(lamp, (x, base + 0.2 + 0.33 * index, z), 0.13)


def traffic_sign(canvas: Canvas, rng: Random, x: float, z: float) -> None:
    """Paint a round, triangular, square or long sign, or its grey back, on a pole."""
    y, r, kind = uniform(rng, 1.9, 2.9), uniform(rng, 0.3, 0.48), rng.integers(6)
    canvas.bar(canvas.ink(STEEL, Label.POLE, z), (x, 0, z), (x, y, z), 0.08)
    blue = pick(rng, ((0.1, 0.25, 0.65), (0.1, 0.4, 0.25), (0.85, 0.7, 0.1)), 0.03)
    plain = canvas.ink((0.5, 0.51, 0.52) if kind == 5 else blue, Label.SIGN, z, 0.03)
    red = canvas.ink((0.75, 0.1, 0.1), Label.SIGN, z, 0.03)
    white = canvas.ink((0.92, 0.92, 0.9), Label.SIGN, z, 0.03)
    if kind == 0:
        canvas.disc(red, (x, y, z), r)
        canvas.disc(white, (x, y, z), 0.72 * r)
        black = canvas.ink(TYRE, Label.SIGN, z)
        canvas.bar(black, (x - 0.3 * r, y, z), (x + 0.3 * r, y, z), 0.35 * r)
    elif kind == 1:
        canvas.polygon(red, (x - r, y - 0.6 * r, z), (x + r, y - 0.6 * r, z), (x, y + r, z))
        inner = ((x - 0.6 * r, y - 0.4 * r, z), (x + 0.6 * r, y - 0.4 * r, z), (x, y + 0.6 * r, z))
        canvas.polygon(white, *inner)
    elif kind == 2:
        canvas.disc(red, (x, y, z), r)
        canvas.bar(white, (x - 0.65 * r, y, z), (x + 0.65 * r, y, z), 0.3 * r)
    elif kind == 3:
        canvas.panel(plain, (x - 1.5 * r, z), (x + 1.5 * r, z), y - 0.6 * r, y + 0.6 * r)
        canvas.bar(white, (x - 1.1 * r, y, z), (x + 0.9 * r, y, z), 0.2 * r)
    else:
        canvas.panel(plain, (x - 0.8 * r, z), (x + 0.8 * r, z), y - 0.8 * r, y + 0.8 * r)
