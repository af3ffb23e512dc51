"""Power of the features' DCT spectrum by ring and direction, image by image.

    (1) P(k) = ||B_k x||^2 / (n_k c)       mean over the n_k coefficients of ring k and c channels

White noise is flat: P(k) is its variance in every ring. Tokens of outlying norm are replaced first
(`artifacts`): a spike on one patch has equal power in every ring and would fake high frequencies.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from causalseg.analysis.rings import (
    SECTORS,
    count_coefficients,
    ring_energy,
    ring_index,
    sector_index,
    sum_by,
)
from causalseg.spectral.grid import Features
from causalseg.spectral.transforms import dct2

_RESAMPLES = 500
_LEVEL = 0.95


def measure_power(X: Features, rings: int) -> Float[Tensor, "b rings"]:
    """Return P(k) of each image; NaN in rings without coefficients."""
    counts = count_coefficients((X.shape[1], X.shape[2]), rings).to(X.device)
    return ring_energy(dct2(X), rings) / (counts * X.shape[3]).where(counts > 0, torch.nan)


def measure_directions(X: Features, rings: int) -> Float[Tensor, "b rings sectors"]:
    """Return P of each ring and direction (`rings.SECTORS`); NaN without coefficients."""
    grid, count = (X.shape[1], X.shape[2]), len(SECTORS)
    index = ring_index(grid, rings, X.device) * count + sector_index(grid, X.device)
    sizes = torch.bincount(index.flatten(), minlength=rings * count)
    energy = sum_by(index, dct2(X).square(), rings * count)
    power = energy / (sizes * X.shape[3]).where(sizes > 0, torch.nan)
    return power.unflatten(1, (rings, count))


def bootstrap_mean(
    values: Float[Tensor, "b ..."], seed: int = 0
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """Return the ends of the 95 % bootstrap interval of the mean over images."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(values), (_RESAMPLES, len(values)), generator=generator)
    weights = torch.zeros(_RESAMPLES, len(values), dtype=torch.float64)
    weights.scatter_add_(1, drawn, torch.ones(drawn.shape, dtype=torch.float64))
    means = (weights @ values.double().flatten(1) / len(values)).unflatten(1, values.shape[1:])
    tail = (1 - _LEVEL) / 2
    return means.quantile(tail, 0), means.quantile(1 - tail, 0)
