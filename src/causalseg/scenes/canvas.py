"""What synthetic scenes are painted with: a camera and a canvas of inks.

All lengths are in metres: x to the right of the middle of the road, y up, z ahead. A pinhole camera
at height h over the road with focal length f and horizon row v0 maps a point to

    column = u0 + f (x + bend(z) - offset) / z        row = v0 + f (h - y) / z

Objects are painted from far to near as polygons into one image of *ink numbers*. An ink is a row of
a table: colour, class, depth, texture. So image, label and depth cannot disagree.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from PIL import Image, ImageDraw

from causalseg.scenes.choices import Colour

Point = tuple[float, float, float]  # x, y, z
Position = tuple[float, float]  # x, z on the ground

FINE = 2  # the ink image is this much finer than the final one, for smooth edges
INK = 6  # values of an ink
NEAR = 1.8  # metres: nothing nearer is painted

Label = IntEnum(  # Cityscapes train ids
    "Label",
    "ROAD SIDEWALK BUILDING WALL FENCE POLE LIGHT SIGN VEGETATION TERRAIN SKY "
    "PERSON RIDER CAR TRUCK BUS TRAIN MOTORCYCLE BICYCLE",
    start=0,
)


class Camera(NamedTuple):
    """The camera and the road ahead; lengths in metres, the rest in pixels and slopes."""

    height: float
    focal: float
    centre: float  # column of the view axis
    horizon: float  # row
    offset: float  # to the right of the middle of the road
    heading: float
    curve: float

    def bend(self, z: float) -> float:
        """Return the shift of the road to the right at distance z: an arc, straight after 120 m."""
        arc = z if z < 120.0 else 120.0  # much faster than min
        return self.heading * z + self.curve * arc * (z - arc / 2)

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Return column and row of a point."""
        scale = self.focal / z
        column = self.centre + scale * (x + self.bend(z) - self.offset)
        return column, self.horizon + scale * (self.height - y)


class Canvas:
    """The image of ink numbers and the table of inks; number 0 is "nothing painted"."""

    def __init__(self, camera: Camera, size: tuple[int, int], sun: int, reach: float) -> None:
        height, width = size
        self.camera = camera  # in pixels of the final image
        self.sun = sun  # -1 from the left, 1 from the right, 0 overcast
        self.reach = reach  # length of a shadow over the height of the object
        self.inks = [0.0] * INK  # in turn: red, green, blue, label, depth, grain
        self._fine = camera._replace(
            focal=FINE * camera.focal, centre=FINE * camera.centre, horizon=FINE * camera.horizon
        )
        self.numbers = Image.new("I", (width * FINE, height * FINE))  # of inks
        self.shadow = Image.new("L", (width, height))  # on the ground, 0..255
        self._draw = ImageDraw.Draw(self.numbers)

    def ink(self, colour: Colour, label: int, depth: float, grain: float = 0.04) -> int:
        """Add an ink to the table, return its number; ``grain`` is the contrast of its texture."""
        number = len(self.inks) // INK
        self.inks += (*colour, label, depth, grain)
        return number

    def middle_inks(self) -> Int[np.ndarray, "H W"]:
        """Return the ink number at the middle of each pixel of the final image."""
        return np.asarray(self.numbers)[1::FINE, 1::FINE].astype(np.intp)

    def polygon(self, ink: int, *points: Point) -> None:
        """Fill a polygon of any number of points."""
        project = self._fine.project
        self._draw.polygon([c for x, y, z in points for c in project(x, y, z)], fill=ink)

    def sees(self, a: Position, b: Position) -> bool:
        """Say whether anything above the ground line from a to b can be in the image."""
        columns = [self.camera.project(x, 0, z)[0] for x, z in (a, b)]
        return max(columns) > 0 and min(columns) < self.shadow.width

    def panel(self, ink: int, a: Position, b: Position, low: float, high: float) -> None:
        """Fill an upright rectangle over the ground line from a to b."""
        (x, z), (X, Z), focal, project = a, b, self._fine.focal, self._fine.project
        (u, v), (U, V) = project(x, low, z), project(X, low, Z)
        up, Up = (high - low) * focal / z, (high - low) * focal / Z
        self._draw.polygon((u, v, U, V, U, V - Up, u, v - up), fill=ink)

    def bar(self, ink: int, start: Point, end: Point, width: float) -> None:
        """Draw a straight bar ``width`` metres thick, at least one pixel of the image."""
        ends = (*self._fine.project(*start), *self._fine.project(*end))
        thick = round(self._fine.focal * width / start[2])
        self._draw.line(ends, fill=ink, width=max(FINE, thick))

    def disc(self, ink: int, centre: Point, radius: float, wide: float = 1.0) -> None:
        """Fill an ellipse that faces the camera; ``wide`` is its width over its height."""
        u, v = self._fine.project(*centre)
        r = self._fine.focal * radius / centre[2]
        half = r * wide
        self._draw.ellipse((u - half, v - r, u + half, v + r), fill=ink)

    def spot(self, position: Position, radius: float, strength: int = 255) -> None:
        """Put a round shadow on the ground."""
        x, z = position
        u, top = self.camera.project(x, 0, z + radius)
        bottom = self.camera.project(x, 0, max(z - radius, NEAR))[1]
        half = self.camera.focal * radius / max(z, NEAR)
        ImageDraw.Draw(self.shadow).ellipse((u - half, top, u + half, bottom), fill=strength)

    def cast(self, a: Position, b: Position, height: float) -> None:
        """Put the shadow of an object ``height`` metres tall from a to b on the ground."""
        if self.sun == 0:
            return
        shift, away = -self.sun * self.reach * height, 0.3 * self.reach * height
        outline = (a, b, (b[0] + shift, b[1] + away), (a[0] + shift, a[1] + away))
        points = [self.camera.project(x, 0, max(z, NEAR)) for x, z in outline]
        ImageDraw.Draw(self.shadow).polygon(points, fill=255)

    def shade(self, side: int) -> float:
        """Return the light on a face left (-1) or right (1) of the road that looks at the road."""
        return 0.82 if self.sun == 0 else (1.0 if self.sun == -side else 0.6)
