"""Gaussian frequency bands: which coefficients are causal.

``G = exp(-(u^2 + v^2) / (2 R_H^2)) - exp(-(u^2 + v^2) / (2 R_L^2))`` with ``u = i / h`` and
``v = j / w`` in [0, 1) (Causal-Tune, arXiv 2512.16567; that frequencies are normalised by the grid
is our reading). Without R_H the first term is 1, without R_L the second is 0.

A Gaussian is separable: between the DCT and its inverse it is a product with a small matrix on each
side of the grid, `lowpass_matrix`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from causalseg.spectral.grid import Features, GridSize
from causalseg.spectral.transforms import cache_constant, dct_matrix, widest_float


def gaussian_band(
    u: Float[Tensor, " h"], v: Float[Tensor, " w"], low: float | None, high: float | None
) -> Float[Tensor, "h w"]:
    """Return G in [0, 1] for the frequencies u of rows and v of columns, in [0, 1].

    Lower frequencies than R_L = ``low`` are suppressed, DC to 0; higher ones than R_H = ``high``
    fade; None keeps them.
    """
    G = torch.outer(_gaussian(u, high), _gaussian(v, high))
    return G if low is None else G - torch.outer(_gaussian(u, low), _gaussian(v, low))


@cache_constant
def band_mask(
    grid: GridSize,
    low: float | None = 0.2,
    high: float | None = 0.7,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "h w"]:
    """Return G for every DCT coefficient of an ``(h, w)`` grid; see `gaussian_band`."""
    u, v = (frequencies(n, device) for n in grid)
    return gaussian_band(u, v, low, high).to(dtype)


@cache_constant
def lowpass_matrix(
    n: int,
    radius: float | None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "n n"]:
    """Return ``D^T diag(exp(-u^2 / (2 radius^2))) D``: a Gaussian low-pass on one grid axis.

    A radius of None passes everything: the identity.
    """
    if radius is None:
        return torch.eye(n, device=device, dtype=dtype)
    D = dct_matrix(n, device, widest_float(device))
    return (D.T @ (_gaussian(frequencies(n, device), radius)[:, None] * D)).to(dtype)


def band_pass(X: Features, low: float | None = 0.2, high: float | None = 0.7) -> Features:
    """Return ``iDCT(G * DCT X) = H_h X H_w - L_h X L_w``: two products, without the spectrum."""
    h, w = X.shape[1:3]
    bands = 1 if low is None else 2
    # Rows (i, band) times h, then columns (band, w): no temporary per band.
    stacked = _rows(h, low, high, X.device, X.dtype) @ X.flatten(2)
    by_row = stacked.unflatten(1, (h, bands)).unflatten(-1, (w, -1)).flatten(2, 3)
    return _columns(w, low, high, X.device, X.dtype) @ by_row


def split_bands(X: Features, low: float, high: float) -> tuple[Features, Features, Features]:
    """Return what is below, in and above a band: ``L X``, ``H X - L X`` and ``X - H X``.

    L and H are the Gaussian low-passes of radius ``low`` and ``high``; the three add up to X.
    """
    below, passed = band_pass(X, None, low), band_pass(X, None, high)
    return below, passed - below, X - passed


def frequencies(n: int, device: torch.device | str) -> Float[Tensor, " n"]:
    """Return ``0, 1/n, ... (n-1)/n``."""
    return torch.arange(n, device=device, dtype=widest_float(device)) / n


def _gaussian(u: Float[Tensor, " n"], radius: float | None) -> Float[Tensor, " n"]:
    return torch.ones_like(u) if radius is None else torch.exp(-(u**2) / (2 * radius**2))


@cache_constant
def _rows(
    h: int, low: float | None, high: float | None, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "hb h"]:
    radii = (high,) if low is None else (high, low)
    return torch.stack([lowpass_matrix(h, R, device, dtype) for R in radii], dim=1).flatten(0, 1)


@cache_constant
def _columns(
    w: int, low: float | None, high: float | None, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "w bw"]:
    passed = lowpass_matrix(w, high, device, dtype)
    if low is None:
        return passed
    return torch.cat([passed, -lowpass_matrix(w, low, device, dtype)], dim=1)
