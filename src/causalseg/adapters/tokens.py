"""Low-rank tokens of every block, and the link that turns them into queries of the head.

``T_l = A_l B_l`` with A (m, r) and B (r, c). The link follows Rein (CVPR 2024): all tokens pass a
linear to the query width; their maximum over blocks, mean over blocks and last block are joined
and projected once more.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LowRankTokens(nn.Module):
    """The tokens ``T_l = A_l B_l`` of all blocks.

    Args:
        depth: number of blocks.
        num_tokens: m, tokens per block.
        rank: r.
        width: c, channels of the backbone.
    """

    def __init__(self, depth: int, num_tokens: int, rank: int, width: int):
        super().__init__()
        self.A = nn.Parameter(torch.empty(depth, num_tokens, rank))
        self.B = nn.Parameter(torch.empty(depth, rank, width))
        # Rein's bound: as for a patch projection of 16 x 16 x 3 inputs, with r for each factor.
        bound = math.sqrt(6 / (3 * 16 * 16 + math.sqrt(rank * width)))
        nn.init.uniform_(self.A, -bound, bound)
        nn.init.uniform_(self.B, -bound, bound)

    def forward(self) -> Float[Tensor, "l m c"]:
        """Return the tokens of all blocks."""
        return self.A @ self.B


class QueryLink(nn.Module):
    """Tokens of all blocks -> the head's queries (m, query width)."""

    def __init__(self, width: int, query_width: int):
        super().__init__()
        self.transform = nn.Linear(width, query_width)
        self.merge = nn.Linear(3 * query_width, query_width)

    def forward(self, tokens: Float[Tensor, "l m c"]) -> Float[Tensor, "m d"]:
        """Join maximum, mean and last block of the projected tokens."""
        projected = self.transform(tokens)
        parts = (projected.amax(0), projected.mean(0), projected[-1])
        return self.merge(torch.cat(parts, dim=-1))
