"""Noise as a texture: smooth, white, and a fractal tile that is computed once; plain colours."""

import functools
import math

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

Array = np.ndarray
Random = np.random.Generator


def rgb(red: float, green: float, blue: float) -> Float[Array, "3 1 1"]:
    """Return a colour as planes of one pixel, float32."""
    return np.array((red, green, blue), dtype=np.float32)[:, None, None]


def smooth_noise(
    rng: Random, size: tuple[int, ...], cell: float, rows: int | None = None
) -> Float[Array, "h W"]:
    """Return noise of about unit variance and a correlation length of ``cell`` pixels, float32.

    ``size`` is (height, width); only the first ``rows`` are returned, None for all, which does not
    change what the generator draws.
    """
    height, width = size
    high, wide = (max(2, round(side / cell) + 1) for side in size)
    field = Image.fromarray(rng.standard_normal((high, wide), dtype=np.float32))
    rows = height if rows is None else rows
    box = (0, 0, wide, high * rows / height)
    return np.asarray(field.resize((width, rows), Image.Resampling.BICUBIC, box))


def white_noise(rng: Random, size: tuple[int, ...]) -> Float[Array, "..."]:
    """Return independent noise of unit variance with a triangular distribution.

    Each byte is a throw of two dice with 16 sides: ten times as fast as a normal variate.
    """
    dice = np.frombuffer(rng.bytes(math.prod(size)), np.uint8).reshape(size)
    deviation = math.sqrt(2 * (16**2 - 1) / 12)
    return (((dice & 15) + (dice >> 4)).astype(np.float32) - 15) * np.float32(1 / deviation)


@functools.cache
def _fractal_tile(slope: float) -> Float[Array, "65536"]:
    """Noise of unit variance that repeats without a seam, amplitude 1 / frequency ** slope."""
    noise = np.fft.rfft2(np.random.default_rng(0).standard_normal((256, 256)))
    u, v = np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)[None]
    tile = np.fft.irfft2(noise / np.maximum(np.hypot(u, v), 1 / 64) ** slope)
    return ((tile - tile.mean()) / tile.std()).astype(np.float32).ravel()


def fractal_noise(
    slope: float, rows: Int[Array, "h 1"], columns: Int[Array, "h W"]
) -> Float[Array, "h W"]:
    """Look up noise of unit variance and amplitude 1 / frequency ** slope; it repeats after 256."""
    return _fractal_tile(slope).take(((rows & 255) << 8) + (columns & 255), mode="wrap")
