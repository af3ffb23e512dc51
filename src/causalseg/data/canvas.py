"""What scenes are drawn with: a camera and a canvas of inks.

Everything is given in metres: x to the right of the middle of the road, y up, z ahead. A pinhole
camera at height h over the road with focal length f and horizon row v0 maps it to

    column = u0 + f (x + bend(z) - offset) / z        row = v0 + f (h - y) / z

Objects are painted from far to near as polygons into one picture of *ink numbers*. An ink is a row
of a table: colour, class, depth, how much snow lies on it, how it shines at night. So image, label
and depth cannot disagree.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

# Cityscapes train ids.
ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN, SKY = range(11)
PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = range(11, 19)

Point = tuple[float, float, float]  # x, y, z
Place = tuple[float, float]  # x, z on the ground
Colour = tuple[float, float, float]  # red, green, blue in [0, 1]
Random = np.random.Generator

FINE = 2  # the picture of inks is this much finer than the image: smooth edges
NEAR = 1.8  # metres: nothing is drawn before

BLACK, WHITE = (0.0, 0.0, 0.0), (0.95, 0.95, 0.9)
TYRE, STEEL = (0.05, 0.05, 0.06), (0.45, 0.46, 0.48)
PAINTS = (
    (0.75, 0.76, 0.78), (0.9, 0.9, 0.9), (0.1, 0.1, 0.12), (0.3, 0.31, 0.33), (0.55, 0.08, 0.08),
    (0.12, 0.2, 0.45), (0.45, 0.44, 0.42), (0.1, 0.28, 0.18), (0.75, 0.6, 0.15), (0.5, 0.35, 0.22),
)  # fmt: skip


class Camera(NamedTuple):
    """Where the picture is taken from; lengths in metres, the rest in pixels and slopes."""

    height: float
    focal: float
    centre: float  # column of the view axis
    horizon: float  # row
    offset: float  # to the right of the middle of the road
    heading: float
    curve: float

    def bend(self, z: float) -> float:
        """How far the road has gone to the right at distance z: an arc, straight after 120 m."""
        arc = z if z < 120.0 else 120.0
        return self.heading * z + self.curve * arc * (z - arc / 2)

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Column and row of a point."""
        scale = self.focal / z
        column = self.centre + scale * (x + self.bend(z) - self.offset)
        return column, self.horizon + scale * (self.height - y)


class Canvas:
    """The picture of inks and the table of what they mean; number 0 is "nothing drawn".

    Attributes:
        camera: Where the picture is taken from.
        sun: -1 from the left, 1 from the right, 0 overcast.
        reach: Length of a shadow over the height of what casts it.
        inks: The table: red, green, blue, label, depth, grain, cover, glow red, green, blue.
        picture: Ink numbers, `FINE` times finer than the image.
        shadow: Shadows on the ground, 0..255.
        lamp: Light of street lamps on the ground, 0..255.
    """

    def __init__(self, camera: Camera, size: tuple[int, int], sun: int, reach: float) -> None:
        height, width = size
        self.camera, self.sun, self.reach = camera, sun, reach
        self.inks: list[tuple[float, ...]] = [(0.0,) * 10]
        self.picture = Image.new("I", (width * FINE, height * FINE))
        self.shadow, self.lamp = Image.new("L", (width, height)), Image.new("L", (width, height))
        self._draw = ImageDraw.Draw(self.picture)

    def ink(
        self,
        colour: Colour,
        label: int,
        depth: float,
        grain: float = 0.04,
        cover: float = 0.0,
        glow: Colour = BLACK,
    ) -> int:
        """Enter an ink into the table; ``grain`` is the contrast of its texture."""
        self.inks.append((*colour, label, depth, grain, cover, *glow))
        return len(self.inks) - 1

    def polygon(self, ink: int, *points: Point) -> None:
        """Fill a polygon."""
        flat = [FINE * c for point in points for c in self.camera.project(*point)]
        self._draw.polygon(flat, fill=ink)

    def sees(self, a: Place, b: Place) -> bool:
        """Whether something over the ground line from a to b can be in the picture."""
        columns = [self.camera.project(x, 0, z)[0] for x, z in (a, b)]
        return max(columns) > 0 and min(columns) < self.shadow.width

    def panel(self, ink: int, a: Place, b: Place, low: float, high: float) -> None:
        """Fill an upright rectangle over the ground line from a to b."""
        (x, z), (X, Z) = a, b
        self.polygon(ink, (x, low, z), (X, low, Z), (X, high, Z), (x, high, z))

    def bar(self, ink: int, start: Point, end: Point, width: float) -> None:
        """Draw a straight bar ``width`` metres thick, at least one pixel of the image."""
        ends = [FINE * c for point in (start, end) for c in self.camera.project(*point)]
        thick = round(FINE * self.camera.focal * width / start[2])
        self._draw.line(ends, fill=ink, width=max(FINE, thick))

    def disc(self, ink: int, centre: Point, radius: float, wide: float = 1.0) -> None:
        """Fill an ellipse that faces the camera; ``wide`` is its width over its height."""
        u, v = (FINE * c for c in self.camera.project(*centre))
        r = FINE * self.camera.focal * radius / centre[2]
        self._draw.ellipse((u - r * wide, v - r, u + r * wide, v + r), fill=ink)

    def spot(self, layer: Image.Image, place: Place, radius: float, strength: int = 255) -> None:
        """Put a round shadow or light on the ground layer."""
        x, z = place
        u, top = self.camera.project(x, 0, z + radius)
        bottom = self.camera.project(x, 0, max(z - radius, NEAR))[1]
        half = self.camera.focal * radius / max(z, NEAR)
        ImageDraw.Draw(layer).ellipse((u - half, top, u + half, bottom), fill=strength)

    def cast(self, a: Place, b: Place, height: float) -> None:
        """Put the sun's shadow of what stands ``height`` metres tall from a to b on the ground."""
        if self.sun == 0:
            return
        shift, away = -self.sun * self.reach * height, 0.3 * self.reach * height
        outline = (a, b, (b[0] + shift, b[1] + away), (a[0] + shift, a[1] + away))
        points = [self.camera.project(x, 0, max(z, NEAR)) for x, z in outline]
        ImageDraw.Draw(self.shadow).polygon(points, fill=255)

    def shade(self, side: int) -> float:
        """Light on a face that stands left (-1) or right (1) of the road and looks at it."""
        return 0.82 if self.sun == 0 else (1.0 if self.sun == -side else 0.6)


def tone(colour: Colour, factor: float) -> Colour:
    """A lighter or darker colour."""
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def pick(rng: Random, colours: tuple[Colour, ...], spread: float = 0.08) -> Colour:
    """One of the colours, each channel varied by up to ``spread``, and the whole by 15 %."""
    which, light, *shift = rng.random(5).tolist()
    base, factor = colours[int(which * len(colours))], 0.85 + 0.3 * light
    red, green, blue = (
        min(0.97, max(0.02, c * factor + spread * (2 * t - 1)))
        for c, t in zip(base, shift, strict=True)
    )
    return (red, green, blue)
