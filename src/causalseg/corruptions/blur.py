"""Blur of ImageNet-C: defocus, frosted glass, camera motion, zoom and Gaussian.

Motion blur, for which ImageNet-C calls an image program, is that of `imagecorruptions` (Michaelis
et al., arXiv 1907.07484). Radii and sigmas are in pixels of the image at its own size.
"""

import math
from typing import Literal

import numpy as np
import scipy.fft
from jaxtyping import Float, Int
from scipy import ndimage

from causalseg.corruptions.noise import Array, Random
from causalseg.corruptions.resampling import enlarge

_DEFOCUS = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))  # radius, sigma that softens the rim
_GLASS = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))  # sigma, reach, rounds
_MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))  # radius, sigma
_ZOOM = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))  # end, step
_GAUSSIAN = (1, 2, 3, 4, 6)  # sigma


def defocus_blur(X: Float[Array, "3 H W"], severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """Convolution with a disc, as an open lens out of focus."""
    radius, sigma = _DEFOCUS[severity - 1]
    away = np.arange(-radius - 2, radius + 3, dtype=np.float32)
    disc = (away[:, None] ** 2 + away**2 <= radius**2).astype(np.float32)
    # The published kernel that softens the rim is 3 wide up to radius 8, 5 beyond.
    disc = ndimage.gaussian_filter(disc / disc.sum(), sigma, radius=1 if radius <= 8 else 2)
    return convolve(X, disc, "reflect")


def gaussian_blur(X: Float[Array, "3 H W"], severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """Convolution with a Gaussian."""
    return soften(X, _GAUSSIAN[severity - 1])


def motion_blur(X: Float[Array, "3 H W"], severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """A one-sided Gaussian trail in a direction of -45 to 45 degrees."""
    radius, sigma = _MOTION[severity - 1]
    return drag(X, radius, sigma, rng.uniform(-45, 45))


def zoom_blur(X: Float[Array, "3 H W"], severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """The mean of the image and its enlargements in small steps, as a lens that zooms."""
    factors = np.arange(1, *_ZOOM[severity - 1]).tolist()
    total = X.copy()
    for factor in factors:
        total += enlarge(X, factor)
    return total / (len(factors) + 1)


def glass_blur(X: Float[Array, "3 H W"], severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """Pixels that become copies of others nearby, between two Gaussian blurs."""
    sigma, reach, rounds = _GLASS[severity - 1]
    source = copy_near(X.shape[1:], reach, rounds, rng)
    blurred = soften(X, sigma).reshape(3, -1)
    return soften(blurred.take(source, axis=1).reshape(X.shape), sigma)


def soften(planes: Float[Array, "c H W"], sigma: float) -> Float[Array, "c H W"]:
    """Blur each plane with a Gaussian; edge pixels are repeated outside."""
    return ndimage.gaussian_filter(planes, (0, sigma, sigma), mode="nearest")


def convolve(
    planes: Float[Array, "c H W"], kernel: Float[Array, "i j"], border: Literal["reflect", "edge"]
) -> Float[Array, "c H W"]:
    """Convolve each plane with a kernel of odd sides, origin in its middle, by FFT.

    ``border`` is the padding mode. The time hardly depends on the size of the kernel.
    """
    (i, j), (H, W) = kernel.shape, planes.shape[1:]
    padded = np.pad(planes, ((0, 0), (i // 2, i // 2), (j // 2, j // 2)), mode=border)
    size = [scipy.fft.next_fast_len(side, real=True) for side in padded.shape[1:]]
    spectrum = scipy.fft.rfft2(padded, size)
    spectrum *= scipy.fft.rfft2(kernel.astype(padded.dtype), size)
    return scipy.fft.irfft2(spectrum, size)[:, i - 1 : i - 1 + H, j - 1 : j - 1 + W]


def drag(
    planes: Float[Array, "c H W"], radius: int, sigma: float, angle: float
) -> Float[Array, "c H W"]:
    """Blur along a line: weights exp(-k^2 / 2 sigma^2) at k = 0 ... 2 radius pixels of it.

    Its angle is in degrees: 0 from right to left, 90 from bottom to top.
    """
    along = np.arange(2 * radius + 1)
    weights = np.exp(-(along**2) / (2 * sigma**2))
    down, right = (
        np.ceil(along * part - 0.5).astype(int)
        for part in (math.sin(math.radians(angle)), math.cos(math.radians(angle)))
    )
    kernel = np.zeros((4 * radius + 1, 4 * radius + 1), np.float32)
    np.add.at(kernel, (2 * radius - down, 2 * radius - right), weights / weights.sum())
    return convolve(planes, kernel, "edge")


def copy_near(size: tuple[int, ...], reach: int, rounds: int, rng: Random) -> Int[Array, "pixels"]:
    """Return the source index of each pixel when, one by one, each copies another one nearby.

    In reading order from the end, ``rounds`` times, the pixel at row i and column j takes the
    current value at row i + p and column j + q, p and q from -reach to reach - 1. (The published
    loop swaps the two, but on views of one array, which copies.) Only steps less than 2 reach rows
    and columns apart interact, so those on one slanted line, of equal column + 2 reach row, are
    done at once with the result of the sequential order; along a line, indices are evenly spaced.
    """
    H, W = size
    h, w = H - 2 * reach, W - 2 * reach
    source = np.arange(H * W)
    if h <= 0 or w <= 0:
        return source
    last = W * (H - reach) + W - reach
    rows, columns = np.arange(h)[:, None], np.arange(w)
    here = last - W * rows - columns
    lines = np.arange(w + 2 * reach * (h - 1))
    first_rows = np.maximum(0, -((w - 1 - lines) // (2 * reach)))
    counts = np.minimum(h - 1, lines // (2 * reach)) - first_rows + 1
    starts = lines + first_rows * (w - 2 * reach)
    ends = last - lines - first_rows * w
    stride = max(1, w - 2 * reach)  # with fewer columns, no line has two steps
    plan = list(zip(ends.tolist(), starts.tolist(), counts.tolist(), strict=True))
    for _ in range(rounds):
        p, q = rng.integers(-reach, reach, (2, h, w), np.int8).astype(np.int64)
        there = (here + W * p + q).ravel()
        for end, start, count in plan:
            taken = there[start : start + stride * count : stride]
            source[end : end - w * count : -w] = source[taken]
    return source
