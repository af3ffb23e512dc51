"""Sensor noise of ImageNet-C: Gaussian, shot, impulse and speckle noise."""

import numpy as np
from jaxtyping import Float

from causalseg.corruptions.noise import Array, Random

_GAUSSIAN = (0.08, 0.12, 0.18, 0.26, 0.38)  # standard deviation
_SHOT = (60, 25, 12, 5, 3)  # photons at white
_IMPULSE = (0.03, 0.06, 0.09, 0.17, 0.27)  # fraction of values
_SPECKLE = (0.15, 0.2, 0.35, 0.45, 0.6)  # standard deviation at white


def gaussian_noise(X: Float[Array, "3 H W"], severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """X + s N(0, 1)."""
    return X + _GAUSSIAN[severity - 1] * rng.standard_normal(X.shape, np.float32)


def shot_noise(X: Float[Array, "3 H W"], severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """Poisson(c X) / c: the fewer photons c, the stronger."""
    photons = _SHOT[severity - 1]
    return rng.poisson(photons * X).astype(np.float32) / photons


def impulse_noise(X: Float[Array, "3 H W"], severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """Salt and pepper: a fraction of all values becomes 0 or 1, half of them each."""
    half = _IMPULSE[severity - 1] / 2
    dice = rng.random(X.shape, np.float32)
    return np.where(dice < half, 0, np.where(dice > 1 - half, 1, X))


def speckle_noise(X: Float[Array, "3 H W"], severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """X + X s N(0, 1)."""
    return X + X * (_SPECKLE[severity - 1] * rng.standard_normal(X.shape, np.float32))
