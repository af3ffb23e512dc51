"""The released code of Causal-Tune, which does not compute what its paper says.

For comparison with the results of that code, not for use. Established from the inputs, outputs and
gradients of the released modules. For the patch tokens X of block l, on a grid with h = w:

    (1) V  = X, ordered (n, b, c), read in that order as (b, c, h, w)
    (2) Yc = G * (D_h V D_w^T)            G of `released_mask`; read back as (n, b, c); no gradient
    (3) D  = Z W2^T + b2                  Rein's (1) to (4), with Yc for X and without s
    (4) out = X + s clamp(F, 0, 255)      F = Re(inverse Fourier transform of D), orthonormal

(1) reads values of many patches, and of many images of the batch, as one plane: with n = c a plane
is the channels of one patch. So the result of an image depends on the other images of its batch.
(2) is a constant for autograd: X gets the gradient of the identity alone. In (4) the inverse is not
that of the DCT. It keeps only what is even in position, and negative values become zero.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from causalseg.adapters.rein import Rein
from causalseg.errors import ConfigError
from causalseg.spectral import transforms
from causalseg.spectral.grid import GridSize, Tokens
from causalseg.spectral.transforms import cache_constant, dct_matrix, widen

_LIMIT = 255.0  # upper bound of the clamp


class ReleasedCausalTune(Rein):
    """The released module, on the device, batched, for any float dtype, square grids only.

    Only the parameters that get a gradient in the released code exist here. The options are the
    fields of `ReinConfig`; ``init`` is `small` by default, as in that code.
    """

    def __init__(self, width: int, depth: int, *, query_width: int | None = None, **options: Any):
        options = {"init": "small", **options}
        super().__init__(width, depth, query_width=query_width, **options)

    def describe(self) -> dict[str, Any]:
        """Return what it is: a recipe of Causal-Tune."""
        about = {**super().describe(), "name": "causal_tune", "recipe": "released"}
        return {key: value for key, value in about.items() if key != "use_softmax"}

    def forward(self, tokens: Tokens, layer: int, grid: GridSize) -> Tokens:
        """Return the adapted patch tokens of one block; ConfigError for a grid with h != w."""
        h, w = grid
        if h != w:
            raise ConfigError(
                f"a grid of {h} x {w} patches: the released code of Causal-Tune handles square "
                "grids only; give square images, or choose another recipe of causal_tune"
            )
        with torch.autocast(tokens.device.type, enabled=False):
            query = self._coefficients(tokens, h)
            D = self._delta(query, layer, self.delta.weight, self.delta.bias)  # (3)
            planes = _as_planes(D, h)
            cosine, sine = transforms.fourier_matrices(h, D.device, D.dtype)
            F = cosine @ planes @ cosine - sine @ planes @ sine  # without complex numbers
            increment = _from_planes(F.clamp(0, _LIMIT)).transpose(0, 1)
            return tokens + self.scaled(increment).to(tokens.dtype)  # (4)

    def _coefficients(self, tokens: Tokens, side: int) -> Float[Tensor, "n b c"]:
        """Return Yc of (1) and (2), in float32 or wider, without a gradient."""
        X = widen(tokens.detach()).transpose(0, 1)
        D = dct_matrix(side, X.device, X.dtype)
        G = released_mask(side, X.device, X.dtype)
        return _from_planes(G * (D @ _as_planes(X, side) @ D.T))  # (1), (2)


def _as_planes(X: Float[Tensor, "n b c"], side: int) -> Float[Tensor, "b c h w"]:
    """Read (n, b, c) as (b, c, h, w): an error of the released code, reproduced on purpose.

    Without a permutation this lays out no feature maps: it does not replace `spectral.grid`.
    """
    _, b, c = X.shape
    return X.flatten().view(b, c, side, side)


def _from_planes(planes: Float[Tensor, "b c h w"]) -> Float[Tensor, "n b c"]:
    """Undo `_as_planes`."""
    b, c, h, w = planes.shape
    return planes.flatten().view(h * w, b, c)


@cache_constant
def released_mask(
    n: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Float[Tensor, "n n"]:
    """Return the mask of the released code for a grid of n x n patches.

    A function of ``k = max(u, v)`` with integer u, v and thresholds ``a = int(0.1 n)``,
    ``z = int(0.7 n)``: ``0.95 k / a`` up to a (0 at DC also if a is 0), 0.99 up to z, and
    ``1 - 0.3 (k - z) / (n - z)`` above. Fitted to the masks of the released code at 4, 7, 8, 16
    and 32 patches a side, all of which it reproduces.
    """
    index = torch.arange(n, device=device, dtype=transforms.widest_float(device))
    k = torch.maximum(index[:, None], index[None, :])
    first, last = int(0.1 * n), int(0.7 * n)
    G = torch.where(k <= first, 0.95 * k / max(first, 1), 0.99)
    return torch.where(k > last, 1 - 0.3 * (k - last) / (n - last), G).to(dtype)
