"""The geometry of an image taken from a car: depth, ground and horizon, given or assumed.

A plane in the world has an inverse depth 1/Z that is linear in the pixel. With the vanishing point
(u0, v0) in the middle of the horizon row, focal length f, camera height h over a flat road and, on
both sides, walls at distance w that lean outwards by g metres a metre of height,

    1/Z = max( (v - v0) / (f h),  (|u - u0| - g max(v0 - v, 0)) / (f w),  1/Z_end )

A camera with pitch p (down positive) has v0 = (height / 2) - f tan p. The road ends at Z_end;
pixels above the horizon that are as bright in blue as the brightest there count as sky.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from causalseg.corruptions.noise import Array

HORIZON = 0.45  # row of the horizon over the height of the image
FAR = 1000.0  # metres: the sky
_END = 80.0  # metres: of the road
_FOCAL = 0.9  # focal length over the width of an image of 4 : 3 or wider
_CAMERA = 1.5  # metres over the road
_WALL, _LEAN = 8.0, 0.6
_SKY = (0.75, 0.95)  # blue over that of the brightest: from none to all is sky
_DARKEST_SKY = 0.55
_SAME_COLOUR = 0.2  # RGB distance from the road above which a pixel is an object on it
_EDGE = 1 / 60  # of the height
_STEEPEST = 2.5  # times the slope of level ground: an upper edge of something near


class View(NamedTuple):
    """An image and its geometry."""

    image: Float[Array, "3 H W"]  # in [0, 1]
    depth: Float[Array, "H W"]  # Z, metres along the view axis, up to `FAR`
    ground: Float[Array, "H W"]  # confidence that a pixel is level ground, in [0, 1]
    rows: Float[Array, "H 1"]  # pixels below the horizon; negative above it
    columns: Float[Array, "1 W"]  # pixels to the right of the vanishing point
    focal: float  # pixels

    def across(self) -> Float[Array, "H W"]:
        """Return metres to the right of the camera."""
        return self.columns * self.depth * np.float32(1 / self.focal)


def estimate_view(X: Float[Array, "3 H W"], depth: Float[Array, "H W"] | None) -> View:
    """Return the geometry of an image by its depth or, if None, by the assumed planes."""
    H, W = X.shape[1:]
    rows = np.arange(H, dtype=np.float32)[:, None] + np.float32(0.5 - HORIZON * H)
    columns = np.arange(W, dtype=np.float32)[None] + np.float32(0.5 - 0.5 * W)
    focal = _FOCAL * max(W, 4 / 3 * H)
    if depth is None:
        road = rows / (focal * _CAMERA)
        side = (np.abs(columns) - _LEAN * np.maximum(-rows, 0)) / (focal * _WALL)
        near = np.maximum(np.maximum(road, side), 1 / _END)
        ground = np.clip(4 * (road - side) / near, 0, 1) * _is_like_road(X)
        near += _is_like_sky(X, rows) * (1 / FAR - near)
        return View(X, 1 / near, ground, rows, columns, focal)
    depth = np.minimum(depth, np.float32(FAR))
    return View(X, depth, _level(depth, rows), rows, columns, focal)


def _level(depth: Float[Array, "H W"], rows: Float[Array, "H 1"]) -> Float[Array, "H W"]:
    """Return 1 on level ground of any height, 0 on upright surfaces.

    Level ground has 1/Z ~ v - v0, so -(v - v0) d(log Z)/dv = 1; on upright surfaces Z does not
    change with v. Slopes over a few rows only are edges of objects.
    """
    if len(depth) < 2:
        return np.zeros_like(depth)
    steep = -np.gradient(np.log(depth), axis=0) * np.maximum(rows, 0)
    steep = np.where(steep < _STEEPEST, np.clip(steep, 0, 1), 0)
    return ndimage.grey_opening(steep, (max(3, round(_EDGE * len(depth))), 1))


def _is_like_road(X: Float[Array, "3 H W"]) -> Float[Array, "H W"]:
    """Return the similarity to the colour of the road ahead, in [0, 1]."""
    H, W = X.shape[1:]
    before = X[:, int(0.75 * H) : int(0.95 * H) + 1, int(0.35 * W) : int(0.65 * W) + 1]
    road = np.median(before, axis=(1, 2)).astype(np.float32)[:, None, None]
    away = ndimage.uniform_filter(((X - road) ** 2).sum(axis=0), 3)
    return np.exp(away * np.float32(-1 / _SAME_COLOUR**2))


def _is_like_sky(X: Float[Array, "3 H W"], rows: Float[Array, "H 1"]) -> Float[Array, "H W"]:
    """Return the confidence of sky, in [0, 1]: bright and blue or white, above the horizon."""
    H, blue = len(rows), X[2]
    upper = blue[: max(1, int(HORIZON * H)) : 2, ::2]
    brightest = max(float(np.quantile(upper, 0.95)), _DARKEST_SKY)
    low, high = (fraction * brightest for fraction in _SKY)
    bright = np.clip((blue - low) / (high - low), 0, 1)
    around = ndimage.uniform_filter(bright, max(1, H // 60))
    return np.maximum(bright, around) * np.clip(-rows / np.float32(0.03 * H), 0, 1)
