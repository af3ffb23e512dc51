"""Noise: smooth, white, and tiles of it that are made once and looked up ever after."""

import functools
import math

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

Array = np.ndarray
_TILE = 512  # pixels: the grain of a picture repeats after this many


def smooth_noise(
    rng: np.random.Generator, size: tuple[int, ...], cell: float, rows: int | None = None
) -> Float[Array, "h W"]:
    """Return noise of about unit variance that varies over ``cell`` pixels, float32.

    Args:
        rng: Where the noise comes from; it does not depend on ``rows``.
        size: (height, width) in pixels.
        cell: Pixels over which it varies.
        rows: How many rows from the top are needed; None for all.
    """
    height, width = size
    high, wide = (max(2, round(side / cell) + 1) for side in size)
    field = Image.fromarray(rng.standard_normal((high, wide), dtype=np.float32))
    rows = height if rows is None else rows
    box = (0, 0, wide, high * rows / height)
    return np.asarray(field.resize((width, rows), Image.Resampling.BICUBIC, box))


def white_noise(rng: np.random.Generator, size: tuple[int, ...]) -> Float[Array, "..."]:
    """Return noise of unit variance, each number on its own: a triangle in place of a Gauss bell.

    Each byte is a throw of two dice with 16 sides: ten times as fast as a normal variate.
    """
    dice = np.frombuffer(rng.bytes(math.prod(size)), np.uint8).reshape(size)
    deviation = math.sqrt(2 * (16**2 - 1) / 12)
    noise = ((dice & 15) + (dice >> 4)).astype(np.float32)
    noise -= 15
    noise *= np.float32(1 / deviation)
    return noise


def grain(rng: np.random.Generator, size: tuple[int, ...]) -> Float[Array, "H W"]:
    """Return the noise of a texture, white and of 4 pixels, each of unit variance."""
    rows, columns = (
        (np.arange(side) + start) % _TILE
        for side, start in zip(size, rng.integers(_TILE, size=2).tolist(), strict=True)
    )
    return _grain_tile().take(rows, axis=0).take(columns, axis=1)


@functools.cache
def _grain_tile() -> Float[Array, "512 512"]:
    rng, size = np.random.default_rng(0), (_TILE, _TILE)
    return white_noise(rng, size) + smooth_noise(rng, size, 4)


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
