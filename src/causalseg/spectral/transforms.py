"""Orthonormal DCT-II and Fourier transform over the two grid axes, per channel.

DCT: ``Y = D_h X D_w^T`` with ``D[i, x] = a_i cos(pi (2 x + 1) i / (2 n))``, ``a_0 = sqrt(1/n)`` and
``a_i = sqrt(2/n)`` otherwise. ``D`` is orthogonal, so the inverse is its transpose. A patch grid
has tens of rows, where a matrix product beats a fast transform, works for every size,
differentiates and exports.

Fourier: ``Y = (C_h - i S_h) X (C_w - i S_w)``, C and S the cosine and sine of ``2 pi i x / n`` over
``sqrt(n)``, both symmetric, in real matrices: compilers generate no code for complex numbers.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, ParamSpec

import torch
from jaxtyping import Float
from torch import Tensor
from torch._guards import detect_fake_mode

from causalseg.spectral.grid import Features

P = ParamSpec("P")


def cache_constant(make: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Cache a function of sizes, device and dtype; its results must not be modified.

    Without the cache every block would launch dozens of tiny kernels. A traced graph, and one of
    fake tensors, makes its own constants: none of these may be cached.
    """
    cached: Any = functools.lru_cache(maxsize=512)(make)

    @functools.wraps(make)
    def get(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        if torch.compiler.is_compiling() or detect_fake_mode() is not None:
            return make(*args, **kwargs)
        # A tensor made in inference mode could not be used in training later.
        with torch.inference_mode(False), torch.no_grad():
            return cached(*args, **kwargs)

    return get


def widest_float(device: torch.device | str) -> torch.dtype:
    """Return the widest float of a device: constants are computed in it, then rounded once."""
    return torch.float32 if torch.device(device).type == "mps" else torch.float64


def widen(X: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return X in float32, or as it is in float64: the precision of every transform."""
    return X if X.dtype == torch.float64 else X.float()


@cache_constant
def dct_matrix(
    n: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Float[Tensor, "n n"]:
    """Return the orthonormal DCT-II matrix D; rows are frequencies, columns positions."""
    index = torch.arange(n, device=device, dtype=widest_float(device))
    D = torch.cos(math.pi / n * index[:, None] * (index[None, :] + 0.5)) * math.sqrt(2 / n)
    return torch.cat([D[:1] / math.sqrt(2), D[1:]]).to(dtype)


def _rows(M: Float[Tensor, "h h"], X: Features) -> Features:
    """Multiply the grid's first axis with a matrix."""
    return (M @ X.flatten(2)).unflatten(2, X.shape[2:])


def _transform(X: Features, is_inverse: bool) -> Features:
    X = widen(X)
    with torch.autocast(X.device.type, enabled=False):
        rows, columns = (dct_matrix(n, X.device, X.dtype) for n in X.shape[1:3])
        if is_inverse:
            rows, columns = rows.T, columns.T
        return columns @ _rows(rows, X)


def dct2(X: Features) -> Features:
    """Transform each channel to frequencies, orthonormal; index (0, 0) is DC.

    In float32 (float64 for float64 input): in half precision DC, some hundred times the median,
    would drown the rest.
    """
    return _transform(X, is_inverse=False)


def idct2(Y: Features) -> Features:
    """Transform coefficients back to features: the inverse of `dct2`, in the same precision."""
    return _transform(Y, is_inverse=True)


@cache_constant
def fourier_matrices(
    n: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Float[Tensor, "2 n n"]:
    """Return C and S, cosine and sine of ``2 pi i x / n`` over ``sqrt(n)``."""
    index = torch.arange(n, device=device)
    # The product modulo n keeps the angles small, so the entries are exact for large n too.
    angle = torch.outer(index, index).remainder(n).to(widest_float(device)) * (2 * math.pi / n)
    return (torch.stack([angle.cos(), angle.sin()]) / math.sqrt(n)).to(dtype)


def fft2(X: Features) -> tuple[Features, Features]:
    """Transform each channel to frequencies, orthonormal: real and imaginary part, like `dct2`.

    The order along each axis is that of `torch.fft.fftfreq`.
    """
    X = widen(X)
    with torch.autocast(X.device.type, enabled=False):
        (C_h, S_h), (C_w, S_w) = (fourier_matrices(n, X.device, X.dtype) for n in X.shape[1:3])
        cosine, sine = _rows(C_h, X), _rows(S_h, X)
        return C_w @ cosine - S_w @ sine, -(S_w @ cosine + C_w @ sine)


def ifft2(real: Features, imaginary: Features) -> Features:
    """Transform complex frequencies back and return the real part.

    Coefficients need not be Hermitian: what would be imaginary after the inverse is dropped.
    """
    real, imaginary = widen(real), widen(imaginary)
    with torch.autocast(real.device.type, enabled=False):
        sizes = real.shape[1:3]
        (C_h, S_h), (C_w, S_w) = (fourier_matrices(n, real.device, real.dtype) for n in sizes)
        rows_real = _rows(C_h, real) - _rows(S_h, imaginary)
        rows_imaginary = _rows(S_h, real) + _rows(C_h, imaginary)
        return C_w @ rows_real - S_w @ rows_imaginary
