"""Gaussian frequency bands: which coefficients are causal.

``G = exp(-(u^2 + v^2) / (2 R_H^2)) - exp(-(u^2 + v^2) / (2 R_L^2))`` with ``u = i / h`` and
``v = j / w`` in [0, 1) (Causal-Tune, arXiv 2512.16567; that frequencies are normalised by the grid
is our reading). A radius of None takes its side of the band away: the first term becomes 1, the
second 0. Both None pass everything.

A Gaussian is separable, so applying one between the DCT and its inverse is a product with a small
matrix on each side of the grid: `lowpass_matrix`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from causalseg.errors import ConfigError
from causalseg.spectral.constants import exact, kept
from causalseg.spectral.transforms import dct_matrix

Radius = float | Float[Tensor, ""]
"""A number, or a learnt one: a mask made of it then has a gradient."""


def check_radii(low: float | None, high: float | None) -> None:
    """Raise ConfigError unless the radii are positive and ``low < high``."""
    for name, radius in (("low", low), ("high", high)):
        if radius is not None and not radius > 0:
            raise ConfigError(
                f"band {name} = {radius}: a radius is a positive fraction of the grid's highest "
                "frequency, or null for no limit on that side"
            )
    if low is not None and high is not None and not low < high:
        raise ConfigError(
            f"band low = {low} is not below high = {high}: the band would be empty or negative; "
            "choose low < high, for example 0.2 and 0.7"
        )


def _gaussian(n: int, radius: Radius, device: torch.device | str) -> Float[Tensor, " n"]:
    """``exp(-u^2 / (2 radius^2))`` for ``u = 0, 1/n, ... (n-1)/n``."""
    u = torch.arange(n, device=device, dtype=exact(device)) / n
    return torch.exp(-(u**2) / (2 * radius**2))


@kept
def band_mask(
    grid: tuple[int, int],
    low: Radius | None = 0.2,
    high: Radius | None = 0.7,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "h w"]:
    """Return the weight G of every coefficient.

    Args:
        grid: ``(h, w)`` in patches.
        low: R_L, below which frequencies are suppressed; None keeps them (low-pass only).
        high: R_H, above which frequencies fade; None keeps them (high-pass only).
        device: where the mask is made.
        dtype: its precision.

    Returns:
        Weights in [0, 1]; DC is 0 whenever ``low`` is given.

    Raises:
        ConfigError: for radii that are not positive or not ordered.
    """
    if not isinstance(low, Tensor) and not isinstance(high, Tensor):
        check_radii(low, high)
    h, w = grid

    def lowpass(radius: Radius | None, otherwise: float) -> Tensor:
        if radius is None:
            return torch.full((h, w), otherwise, device=device, dtype=exact(device))
        return torch.outer(_gaussian(h, radius, device), _gaussian(w, radius, device))

    return (lowpass(high, 1.0) - lowpass(low, 0.0)).to(dtype)


@kept
def lowpass_matrix(
    n: int,
    radius: Radius | None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "n n"]:
    """Return ``D^T diag(exp(-u^2 / (2 radius^2))) D``: a Gaussian low-pass on one grid axis.

    A radius of None passes everything: the identity.
    """
    if radius is None:
        return torch.eye(n, device=device, dtype=dtype)
    D = dct_matrix(n, device, exact(device))
    return (D.T @ (_gaussian(n, radius, device)[:, None] * D)).to(dtype)


def band_pass(
    X: Float[Tensor, "b h w c"], low: Radius | None = 0.2, high: Radius | None = 0.7
) -> Float[Tensor, "b h w c"]:
    """Return ``iDCT(G * DCT X) = H_h X H_w - L_h X L_w``: two products, without the spectrum."""
    h, w = X.shape[1:3]
    bands = 1 if low is None else 2
    # Rows (i, band) times h, then columns (band, w): no temporary per band.
    stacked = _rows(h, low, high, X.device, X.dtype) @ X.flatten(2)
    by_row = stacked.unflatten(1, (h, bands)).unflatten(-1, (w, -1)).flatten(2, 3)
    return _columns(w, low, high, X.device, X.dtype) @ by_row


@kept
def _rows(
    h: int, low: Radius | None, high: Radius | None, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "hb h"]:
    radii = (high,) if low is None else (high, low)
    return torch.stack([lowpass_matrix(h, R, device, dtype) for R in radii], dim=1).flatten(0, 1)


@kept
def _columns(
    w: int, low: Radius | None, high: Radius | None, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "w bw"]:
    passed = lowpass_matrix(w, high, device, dtype)
    if low is None:
        return passed
    return torch.cat([passed, -lowpass_matrix(w, low, device, dtype)], dim=1)


def band_energy(
    Y: Float[Tensor, "b h w c"], low: float | None = 0.2, high: float | None = 0.7
) -> Float[Tensor, " b"]:
    """Return the share of each image's spectral energy that passes the band, in [0, 1].

    ``sum (G Y)^2 / sum Y^2`` over frequencies and channels; 0 for an all-zero spectrum.
    """
    G = band_mask((Y.shape[1], Y.shape[2]), low, high, Y.device, Y.dtype)
    total = Y.square().sum((1, 2, 3))
    passed = (G[:, :, None] * Y).square().sum((1, 2, 3))
    return passed / total.clamp_min(torch.finfo(Y.dtype).tiny)
