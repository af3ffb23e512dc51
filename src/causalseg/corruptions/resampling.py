"""Bilinear resampling: enlarging, and shifting by a different amount at each pixel."""

import math

import numpy as np
import torch
from jaxtyping import Float

from causalseg.corruptions.noise import Array


def enlarge(planes: Float[Array, "c H W"], factor: float) -> Float[Array, "c H W"]:
    """Enlarge the middle of the planes by ``factor`` to their size, bilinear, corner on corner."""
    H, W = planes.shape[1:]
    height, width = math.ceil(H / factor), math.ceil(W / factor)
    top, left = (H - height) // 2, (W - width) // 2
    middle = torch.from_numpy(planes[None, :, top : top + height, left : left + width])
    size = (round(height * factor), round(width * factor))
    enlarged = torch.nn.functional.interpolate(middle, size, mode="bilinear", align_corners=True)
    return enlarged[0, :, :H, :W].numpy()


def shift(
    planes: Float[Array, "c H W"], down: Float[Array, "H W"], right: Float[Array, "H W"]
) -> Float[Array, "c H W"]:
    """Return the values ``down`` and ``right`` of each pixel, bilinear, mirrored at the edges."""
    H, W = planes.shape[1:]
    grid = np.empty((1, H, W, 2), np.float32)
    columns, rows = np.arange(W, dtype=np.float32), np.arange(H, dtype=np.float32)[:, None]
    grid[0, ..., 0] = (right + (columns + 0.5)) * (2 / W) - 1
    grid[0, ..., 1] = (down + (rows + 0.5)) * (2 / H) - 1
    return torch.nn.functional.grid_sample(
        torch.from_numpy(planes)[None],
        torch.from_numpy(grid),
        padding_mode="reflection",
        align_corners=False,
    )[0].numpy()
