"""A scene before light and weather: the painted inks laid over ground and sky.

Colour is the mean over the finer pixels of the picture of inks, so edges are smooth; everything
else is taken from one of them, so labels and depths stay exact.
"""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import ImageFilter

from causalseg.scenes.canvas import FINE, Canvas, Random
from causalseg.scenes.ground import Ground
from causalseg.scenes.noise import Array, grain

_UNIT = 16000  # an ink's colour as a whole number; four of them fit 16 bits


class Layers:
    """What an effect lights; layers that only some effects use are computed when they ask.

    Attributes:
        colour: Reflectance in [0, 1] with the shading of the faces; an effect may overwrite it.
        label: Train ids.
        depth: Metres along the view axis.
        horizon: Row of the horizon, in pixels.
        focal: Focal length in pixels.
    """

    colour: Float[Array, "3 H W"]
    label: UInt8[Array, "H W"]
    depth: Float[Array, "H W"]

    def __init__(self, canvas: Canvas, ground: Ground, rng: Random) -> None:
        self.horizon, self.focal = canvas.camera.horizon, canvas.camera.focal
        self._canvas, self._ground = canvas, ground
        self._table = canvas.table()
        numbers = np.asarray(canvas.picture)
        self._ink = numbers[1::FINE, 1::FINE].astype(np.intp)
        self._is_drawn = self._ink > 0
        self.colour = self._paint_over(ground.colour, numbers, rng)
        label, depth = self._table[3].astype(np.uint8), self._table[4]
        self.label = np.where(self._is_drawn, label[self._ink], ground.label)
        self.depth = np.where(self._is_drawn, depth[self._ink], ground.depth)

    def _paint_over(
        self, colour: Float[Array, "3 H W"], numbers: Array, rng: Random
    ) -> Float[Array, "3 H W"]:
        """Lay the colours of the inks over those of the ground, in place."""
        # Four 16-bit fields in one number, red, green, blue and how much is drawn: the mean over
        # the finer pixels is one sum of four.
        fields = np.full((self._table.shape[1], 4), _UNIT, np.uint16)
        fields[:, :3] = self._table[:3].T.clip(0, 1) * _UNIT
        fields[0] = 0
        packed = fields.view(np.uint64)[:, 0]
        total = packed[numbers[::2, ::2]]
        for row, column in ((0, 1), (1, 0), (1, 1)):
            total += packed[numbers[row::2, column::2]]
        *inks, drawn = np.moveaxis(total.view(np.uint16).reshape(*total.shape, 4), -1, 0)
        share = np.float32(1 / 4 / _UNIT)
        clear = 1 - drawn * share
        texture = self._table[5][self._ink]
        texture *= grain(rng, texture.shape)
        texture += 1
        texture *= share
        for channel, ink in zip(colour, inks, strict=True):
            channel *= clear
            channel += ink * texture
        return np.clip(colour, 0.01, 1, out=colour)

    def sun(self) -> Float[Array, "H W"]:
        """Return the share of the light that arrives, in [0, 1]: cast shadows."""
        blur = ImageFilter.BoxBlur(self._ink.shape[1] / 300)
        shadow = np.asarray(self._canvas.shadow.filter(blur)) * np.float32(0.5 / 255)
        return np.where(self._is_drawn, np.float32(1), 1 - shadow)

    def snow(self) -> Float[Array, "H W"]:
        """Return the share of a surface that fallen snow hides, in [0, 1]."""
        return np.where(self._is_drawn, self._table[6][self._ink], self._ground.snow())

    def glow(self) -> Float[Array, "3 H W"]:
        """Return the light that comes from the pixel itself at night, in [0, 1]."""
        return self._table[7:].take(self._ink, axis=1)

    def lamp(self) -> Float[Array, "H W"]:
        """Return the light of street lamps on the ground at night, in [0, 1]."""
        blur = ImageFilter.BoxBlur(self._ink.shape[1] / 40)
        return np.asarray(self._canvas.lamp.filter(blur)) * np.float32(1 / 255)

    def puddle(self) -> Float[Array, "H W"]:
        """Return how much of a mirror the ground is when wet, in [0, 1]."""
        return np.where(self._is_drawn, np.float32(0), self._ground.water())
