"""The only place that moves between tokens and grid.

A ViT carries an image as ``n = h w`` patch tokens in row-major order, behind a few prefix tokens
(class, registers). Everything spatial needs the grid back. A wrong reshape has the right shape and
the wrong content, so the crossing lives here once.
"""

from jaxtyping import Float
from torch import Tensor

Tokens = Float[Tensor, "b n c"]
"""Patch tokens in row-major order, without prefix tokens."""
Features = Float[Tensor, "b h w c"]
"""Patch tokens on their grid."""
GridSize = tuple[int, int]
"""Height and width in patches."""


def tokens_to_grid(tokens: Tokens, grid: GridSize) -> Features:
    """Lay patch tokens out on their grid; a view, no copy for contiguous tokens.

    Raises:
        ValueError: if the number of tokens is not ``h * w``.
    """
    h, w = grid
    if tokens.shape[1] != h * w:
        raise ValueError(f"{tokens.shape[1]} patch tokens do not fill a grid of {h} x {w}")
    return tokens.unflatten(1, (h, w))


def grid_to_tokens(features: Features) -> Tokens:
    """Flatten a grid of features to patch tokens in row-major order."""
    return features.flatten(1, 2)


def split_prefix(tokens: Float[Tensor, "b p_n c"], num_prefix: int) -> tuple[Tensor, Tokens]:
    """Split ``num_prefix`` leading tokens (class, registers) from the patch tokens."""
    return tokens[:, :num_prefix], tokens[:, num_prefix:]
