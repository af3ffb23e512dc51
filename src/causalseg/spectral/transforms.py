"""Orthonormal DCT-II over the two grid axes, as products with small matrices.

``Y = D_h X D_w^T`` per channel, ``D[i, x] = a_i cos(pi (2 x + 1) i / (2 n))`` with
``a_0 = sqrt(1/n)`` and ``a_i = sqrt(2/n)`` otherwise. ``D`` is orthogonal, so the inverse is its
transpose. A patch grid has tens of rows, where a matrix product beats a fast transform, works for
every size, differentiates and exports.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from causalseg.spectral.constants import exact, kept


@kept
def dct_matrix(
    n: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Float[Tensor, "n n"]:
    """Return the orthonormal DCT-II matrix D; rows are frequencies, columns positions."""
    index = torch.arange(n, device=device, dtype=exact(device))
    D = torch.cos(math.pi / n * index[:, None] * (index[None, :] + 0.5)) * math.sqrt(2 / n)
    return torch.cat([D[:1] / math.sqrt(2), D[1:]]).to(dtype)


def _transform(X: Float[Tensor, "b h w c"], is_inverse: bool) -> Float[Tensor, "b h w c"]:
    dtype = torch.float64 if X.dtype == torch.float64 else torch.float32
    with torch.autocast(X.device.type, enabled=False):
        rows, columns = (dct_matrix(n, X.device, dtype) for n in X.shape[1:3])
        if is_inverse:
            rows, columns = rows.T, columns.T
        transformed_rows = (rows @ X.to(dtype).flatten(2)).unflatten(2, X.shape[2:])
        return columns @ transformed_rows


def dct2(X: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
    """Transform each channel to frequencies, orthonormal: energy is preserved.

    Args:
        X: features on the grid; half precision is widened, since the DC row is some hundred times
            the median and would drown the rest.

    Returns:
        Coefficients in float32 (float64 for float64 input); index (0, 0) is DC.
    """
    return _transform(X, is_inverse=False)


def idct2(Y: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
    """Transform coefficients back to features: the inverse of `dct2`, in the same precision."""
    return _transform(Y, is_inverse=True)
