"""Rings of the DCT spectrum: what they hold, and features with one of them alone.

Ring k of r has the coefficients whose radius ``sqrt((u^2 + v^2) / 2)``, u = i / h and v = j / w, is
in [k / r, (k + 1) / r). With B_k the projection on ring k, ``x = sum_k B_k x`` and
``||x||^2 = sum_k ||B_k x||^2``.
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from causalseg.spectral.bands import frequencies
from causalseg.spectral.grid import Features, GridSize
from causalseg.spectral.transforms import cache_constant, dct2, idct2

SECTORS = ("vertical", "diagonal", "horizontal")
"""Direction in which features vary: within 30 degrees of it."""


@cache_constant
def ring_index(
    grid: GridSize, rings: int, device: torch.device | str = "cpu"
) -> Int[Tensor, "h w"]:
    """Return the ring, 0 to rings - 1, of each DCT coefficient."""
    u, v = (frequencies(n, device) for n in grid)
    radius = ((u[:, None] ** 2 + v[None] ** 2) / 2).sqrt()
    return (radius * rings).long()


@cache_constant
def sector_index(grid: GridSize, device: torch.device | str = "cpu") -> Int[Tensor, "h w"]:
    """Return the index in `SECTORS` of each DCT coefficient; DC counts as diagonal."""
    u, v = (frequencies(n, device) for n in grid)
    steepness = torch.atan2(u[:, None].expand(-1, len(v)), v[None].expand(len(u), -1))
    sector = (2 - steepness / (math.pi / 6)).ceil().long().clamp(0, 2)
    sector[0, 0] = 1
    return sector


def count_coefficients(grid: GridSize, rings: int) -> Int[Tensor, " rings"]:
    """Return the number of coefficients of each ring; 0 where the grid is too small for it."""
    return torch.bincount(ring_index(grid, rings).flatten(), minlength=rings)


def ring_edge(ring: int, rings: int) -> float:
    """Return the lower edge of a ring as a radius ``sqrt(u^2 + v^2)``, which R_L and R_H are."""
    return math.sqrt(2) * ring / rings


def ring_energy(Y: Features, rings: int) -> Float[Tensor, "b rings"]:
    """Return the energy of each ring of DCT coefficients, over positions and channels."""
    return sum_by(ring_index((Y.shape[1], Y.shape[2]), rings, Y.device), Y.square(), rings)


def sum_by(
    index: Int[Tensor, "h w"], values: Float[Tensor, "b h w c"], groups: int
) -> Float[Tensor, "b groups"]:
    """Return the sums over channels and over the positions with the same index."""
    per_position = values.sum(3, dtype=torch.float64).flatten(1)
    sums = per_position.new_zeros(len(values), groups)
    return sums.index_add(1, index.flatten().to(values.device), per_position)


def split_rings(X: Features, rings: int) -> Iterator[Features]:
    """Yield B_k x for every ring k, from the lowest frequencies."""
    Y, index = dct2(X), ring_index((X.shape[1], X.shape[2]), rings, X.device)
    for ring in range(rings):
        yield idct2(Y * (index == ring)[..., None])


def scale_ring(X: Features, ring: int, rings: int, gain: float) -> Features:
    """Return ``x + (gain - 1) B_k x``."""
    index = ring_index((X.shape[1], X.shape[2]), rings, X.device)
    return X + (gain - 1) * idct2(dct2(X) * (index == ring)[..., None]).to(X.dtype)
