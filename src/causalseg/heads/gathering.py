"""Deformable sampling by gathers, for export: runtimes differ in how they sample a grid.

With (x, y) in pixels from the centre of the first one, i = floor(x), j = floor(y), zero outside:

    v(x, y) = sum over a, b in {0, 1} of  |1 - a - (x - i)| |1 - b - (y - j)| v[j + b, i + a]
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers.models.mask2former import modeling_mask2former as stock


def attend_by_gathers(
    value: Float[Tensor, "b n heads d"],
    shapes: Sequence[tuple[int, int]],
    locations: Float[Tensor, "b q heads levels p 2"],
    weights: Float[Tensor, "b q heads levels p"],
) -> Float[Tensor, "b q d_total"]:
    """Return what the head's deformable attention returns, without sampling a grid.

    ``shapes`` are height and width of each level, ``locations`` x and y in [0, 1] if inside.
    """
    b, _, heads, d = value.shape
    total: Tensor | None = None
    parts = value.split([int(h) * int(w) for h, w in shapes], dim=1)
    for level, ((h, w), part) in enumerate(zip(shapes, parts, strict=True)):
        grid = part.permute(0, 2, 3, 1).reshape(b * heads, d, int(h), int(w))
        at = locations[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (b * heads, q, p, 2)
        sampled = _sample(grid, at * at.new_tensor([int(w), int(h)]) - 0.5)
        share = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)
        summed = (sampled * share[..., None]).sum(2)  # (b * heads, q, d)
        total = summed if total is None else total + summed
    assert total is not None
    return total.unflatten(0, (b, heads)).transpose(1, 2).flatten(2)


def _sample(
    grid: Float[Tensor, "m d h w"], at: Float[Tensor, "m q p 2"]
) -> Float[Tensor, "m q p d"]:
    h, w = grid.shape[-2:]
    padded = F.pad(grid, (1, 2, 1, 2)).flatten(2).transpose(1, 2)  # one before, two behind
    x, y = (side.clamp(-1, n) for side, n in zip(at.unbind(-1), (w, h), strict=True))
    left, top = x.floor(), y.floor()
    total = torch.zeros_like(x)[..., None]
    for a, c in product((0, 1), (0, 1)):
        weight = (1 - a - (x - left)).abs() * (1 - c - (y - top)).abs()
        index = (top.long() + 1 + c) * (w + 3) + left.long() + 1 + a
        values = padded.gather(1, index.flatten(1)[..., None].expand(-1, -1, padded.shape[-1]))
        total = total + weight[..., None] * values.unflatten(1, x.shape[1:])
    return total


@contextmanager
def gathering() -> Iterator[None]:
    """Let every Mask2Former head sample by gathers; not for several threads at once."""
    name = "multi_scale_deformable_attention"
    sampling = getattr(stock, name)
    setattr(stock, name, attend_by_gathers)
    try:
        yield
    finally:
        setattr(stock, name, sampling)
