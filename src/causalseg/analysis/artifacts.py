"""Outlier tokens: patches of outlying norm, the artifacts of large vision transformers.

A patch token is an outlier if its norm is above the mean of its image by more than four standard
deviations. Those of one block point in about one direction, whatever the image (SINDER, ECCV 2024):

    (1) R = || mean of x / ||x|| over outliers ||      1: one direction; 0: all directions
"""

import math

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.functional import normalize

from causalseg.spectral.grid import Features

_DEVIATIONS = 4
_ROUNDING = 1e-5  # of the mean norm: less above it is no outlier, or constant maps would have some


@torch.no_grad()
def find_outliers(X: Features) -> Bool[Tensor, "b h w"]:
    """Return which tokens have a norm above mean + 4 sd of those of their image.

    k equally large outliers among n tokens are found if k < n / 17, so an image of at most 17
    tokens has none; neither has one with a norm that is not finite.
    """
    norms = X.to(torch.promote_types(X.dtype, torch.float32)).norm(dim=-1)
    mean = norms.mean((1, 2), keepdim=True)
    above = norms - mean
    deviation = above.square().mean((1, 2), keepdim=True).sqrt()
    return above > torch.maximum(_DEVIATIONS * deviation, _ROUNDING * mean)


def fill_outliers(X: Features, is_outlier: Bool[Tensor, "b h w"]) -> Features:
    """Return features with the mean of the other patches in place of outliers."""
    kept = (~is_outlier)[..., None].to(X.dtype)
    mean = (X * kept).sum((1, 2), keepdim=True) / kept.sum((1, 2), keepdim=True)
    return torch.where(is_outlier[..., None], mean, X)


class ArtifactMeter:
    """Share, positions, norms and common direction of the outliers of one block."""

    def __init__(self) -> None:
        self.positions: Tensor = torch.zeros(())  # (h, w), outliers at each patch
        self.images = 0
        self._directions: Tensor = torch.zeros(())
        self._norms = torch.zeros(2, dtype=torch.float64)  # summed: of outliers, of the others

    def update(self, X: Features, is_outlier: Bool[Tensor, "b h w"]) -> None:
        """Add images of one size."""
        norms = X.double().norm(dim=3)
        units = normalize(X[is_outlier].double(), dim=1).sum(0)
        self._directions = self._directions + units
        self._norms += torch.stack([norms[is_outlier].sum(), norms[~is_outlier].sum()]).cpu()
        self.positions = self.positions + is_outlier.sum(0).cpu()
        self.images += len(X)

    @property
    def share(self) -> float:
        """Fraction of the patches that are outliers."""
        return float(self.positions.sum()) / (self.images * self.positions.numel())

    @property
    def angle(self) -> float | None:
        """Angle in degrees whose cosine is R of (1); None without outliers."""
        count = float(self.positions.sum())
        if not count:
            return None
        return math.degrees(math.acos(min(1.0, float(self._directions.norm()) / count)))

    @property
    def norms(self) -> tuple[float | None, float]:
        """Mean norm of outliers and of the other patches."""
        count, total = float(self.positions.sum()), self.images * self.positions.numel()
        outliers, others = self._norms.tolist()
        return outliers / count if count else None, others / max(1.0, total - count)
