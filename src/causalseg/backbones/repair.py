"""Repair of the features that a frozen model gives its head: no training, labels or parameters.

Large ViTs have patch tokens of a norm far above that of the others, most of them where the image is
flat, and patterns that stay at their place in the frame whatever the image shows.

    defect           a token is an outlier if its norm > mean + 4 sd of the norms of the image's
                     patch tokens; it becomes the mean of those of its 8 neighbours that are none,
                     weighted by exp(-d^2 / 2), d in cells, or of the whole image's without such
    shift_average    f(x) = sum_i M_i T_i^-1 f(T_i x) / sum_i M_i,  T_i: shift by whole patches,
                     M_i: 1 at positions that T_i leaves in the frame, else 0

Both work on what leaves the model, so its blocks, and adapters in them, compute as before. SINDER
(Wang et al., ECCV 2024) instead finds the direction of the defects from the weights and trains
singular values to repair them; here a norm tells, which takes any model and also sees what an
adapter has made of it.
"""

from collections.abc import Callable
from math import exp
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from causalseg.analysis.artifacts import find_outliers
from causalseg.config.backbone import Repair
from causalseg.errors import ConfigError, did_you_mean
from causalseg.spectral.grid import Features, GridSize

_SIDE = exp(-0.5)  # a Gaussian of sd 1 at a distance of one cell; it is 1 at 0
_SHIFTS = ((0, 0), (1, 2), (2, -1), (-1, -2), (-2, 1))  # patches down and right; all differ in both
Maps = list[Float[Tensor, "b c _ _"]]


def check_repair(repair: str) -> None:
    """Raise ConfigError for an unknown repair."""
    if repair not in get_args(Repair):
        raise ConfigError(f"repair {repair!r}: {did_you_mean(repair, get_args(Repair))}")


def replace_outliers(X: Features) -> Features:
    """Replace outliers by what is around them; all other tokens are returned bit for bit."""
    outliers = find_outliers(X)[..., None]
    kept = (~outliers).to(_summable(X))
    values = X * kept
    weights = _sum_around(kept)
    around = _sum_around(values) / weights.clamp(min=_SIDE**2)  # the least but 0
    everywhere = values.sum((1, 2), keepdim=True) / kept.sum((1, 2), keepdim=True)
    repaired = torch.where(weights > 0, around, everywhere)
    return torch.where(outliers, repaired.to(X.dtype), X)


def average_shifts(
    compute: Callable[[Float[Tensor, "b 3 H W"]], Maps],
    images: Float[Tensor, "b 3 H W"],
    patch: int,
) -> Maps:
    """Return the mean of a model's maps over five shifts of the images, one forward pass each.

    Shifted images keep their size, so that positions and memory are those of one pass. What a shift
    uncovers repeats the edge: a reflection needs more image than a small one has, and `predict`
    pads in the same way. A shift that would leave nothing of a small image is left out.

    Args:
        compute: images to maps.
        images: sides divisible by ``patch``.
        patch: pixels of a step; divisible by the stride of every map.
    """
    grid = (images.shape[-2] // patch, images.shape[-1] // patch)
    shifts = [(dy, dx) for dy, dx in _SHIFTS if abs(dy) < grid[0] and abs(dx) < grid[1]]
    maps: Maps = []
    sums: Maps = []
    for dy, dx in shifts:
        maps = compute(_move(images, (dy * patch, dx * patch), "replicate"))
        back = [_move_back(z.to(_summable(z)), (dy, dx), grid) for z in maps]
        sums = [total + each for total, each in zip(sums, back, strict=True)] if sums else back
    ones = [torch.ones_like(z[:1, :1]) for z in sums]
    counts = [torch.stack([_move_back(one, by, grid) for by in shifts]).sum(0) for one in ones]
    return [(s / n).to(z.dtype) for s, n, z in zip(sums, counts, maps, strict=True)]


def _move_back(
    z: Float[Tensor, "b c _ _"], shift: tuple[int, int], grid: GridSize
) -> Float[Tensor, "b c _ _"]:
    """Return T^-1 z for a shift in patches, 0 where it is not valid; cells may be smaller."""
    (dy, dx), (h, w) = shift, grid
    return _move(z, (-dy * (z.shape[-2] // h), -dx * (z.shape[-1] // w)), "constant")


def _move(
    x: Float[Tensor, "b c H W"], by: tuple[int, int], padding: str
) -> Float[Tensor, "b c H W"]:
    """Move a map down and to the right in its frame; what is uncovered is padded."""
    dy, dx = by
    H, W = x.shape[-2:]
    seen = x[..., max(0, -dy) : H - max(0, dy), max(0, -dx) : W - max(0, dx)]
    return F.pad(seen, (max(0, dx), max(0, -dx), max(0, dy), max(0, -dy)), mode=padding)


def _sum_around(X: Features) -> Features:
    """Return the sum over 3 x 3 cells, weighted by a Gaussian; outside of the grid is 0."""
    X = F.pad(X, (0, 0, 1, 1, 1, 1))
    X = X[:, 1:-1] + _SIDE * (X[:, :-2] + X[:, 2:])
    return X[:, :, 1:-1] + _SIDE * (X[:, :, :-2] + X[:, :, 2:])


def _summable(x: Tensor) -> torch.dtype:
    """Return the dtype of sums: 32 bits at least, also under autocast."""
    return torch.promote_types(x.dtype, torch.float32)
