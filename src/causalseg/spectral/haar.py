"""One level of the orthonormal Haar wavelet transform of a grid, per channel.

Neighbours x, y along an axis become ``L = (x + y) / sqrt(2)`` and ``H = (y - x) / sqrt(2)``. Over
rows (h) and then columns (w) this gives four sub-bands of half the size: LL, LH, HL, HH, the first
letter for rows. An odd side is first extended by one, by reflection: the cell before the last one
is repeated after it. A side of one repeats its only cell.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from causalseg.spectral.grid import Features, GridSize
from causalseg.spectral.transforms import widen

Part = Float[Tensor, "b h2 w2 c"]


def haar2(X: Features) -> tuple[Part, Part, Part, Part]:
    """Split each channel into LL, LH, HL, HH of ``ceil(h / 2)`` by ``ceil(w / 2)`` cells.

    In float32 (float64 for float64 input); energy is preserved where h and w are even.
    """
    low, high = _split(widen(X), 1)
    return (*_split(low, 2), *_split(high, 2))


def ihaar2(parts: Sequence[Part], grid: GridSize) -> Features:
    """Join LL, LH, HL, HH to a grid: the inverse of `haar2`; what that extended is cut off."""
    LL, LH, HL, HH = (widen(part) for part in parts)
    X = _join(_join(LL, LH, 2), _join(HL, HH, 2), 1)
    return X[:, : grid[0], : grid[1]]


def _split(X: Features, axis: int) -> tuple[Tensor, Tensor]:
    size = X.shape[axis]
    if size % 2:
        X = torch.cat([X, X.narrow(axis, max(size - 2, 0), 1)], dim=axis)
    first, second = X.unflatten(axis, (-1, 2)).unbind(axis + 1)
    return (first + second) / math.sqrt(2), (second - first) / math.sqrt(2)


def _join(low: Part, high: Part, axis: int) -> Features:
    pairs = torch.stack([low - high, low + high], dim=axis + 1)
    return pairs.flatten(axis, axis + 1) / math.sqrt(2)
