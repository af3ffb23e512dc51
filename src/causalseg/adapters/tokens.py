"""Tokens of every block, low-rank or full, and the link that turns them into queries of the head.

Low-rank tokens are ``T_l = A_l B_l`` with A (m, r) and B (r, c); full tokens are T (m, c) itself.
Both start as in Rein's code, small (a deviation of 0.009 at 384 channels and rank 16), until
`spread` makes them larger.
The link follows Rein (CVPR 2024): all tokens pass a linear to the query width; their maximum over
blocks, mean over blocks and last block are joined and projected once more. Its start is Rein's,
in which all queries are nearly equal, until `QueryLink.spread` makes them differ.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from causalseg.errors import ConfigError


class LowRankTokens(nn.Module):
    """The tokens ``T_l = A_l B_l`` of all blocks.

    Args:
        depth: number of blocks.
        num_tokens: m, tokens per block.
        rank: r.
        width: c, channels of the backbone.

    Raises:
        ConfigError: for sizes below 1 (tokens below 2).
    """

    def __init__(self, depth: int, num_tokens: int, rank: int, width: int):
        super().__init__()
        _check_sizes(num_tokens, rank=rank, width=width)
        self.A = nn.Parameter(torch.empty(depth, num_tokens, rank))
        self.B = nn.Parameter(torch.empty(depth, rank, width))
        _spread(self.A, math.sqrt(rank * width))
        _spread(self.B, math.sqrt(rank * width))

    def forward(self) -> Float[Tensor, "l m c"]:
        """Return the tokens of all blocks."""
        return self.A @ self.B

    @torch.no_grad()
    def spread(self, deviation: float) -> None:
        """Scale A and B alike so that the tokens have this standard deviation."""
        factor = (deviation / self().std()).sqrt()
        self.A.mul_(factor)
        self.B.mul_(factor)


class FullTokens(nn.Module):
    """The tokens T_l of all blocks, of full rank.

    Args:
        depth: number of blocks.
        num_tokens: m, tokens per block.
        width: c, channels of the backbone.

    Raises:
        ConfigError: for sizes below 1 (tokens below 2).
    """

    def __init__(self, depth: int, num_tokens: int, width: int):
        super().__init__()
        _check_sizes(num_tokens, width=width)
        self.T = nn.Parameter(torch.empty(depth, num_tokens, width))
        _spread(self.T, width)

    def forward(self) -> Float[Tensor, "l m c"]:
        """Return the tokens of all blocks."""
        return self.T

    @torch.no_grad()
    def spread(self, deviation: float) -> None:
        """Scale the tokens so that they have this standard deviation."""
        self.T.mul_(deviation / self.T.std())


class QueryLink(nn.Module):
    """Tokens of all blocks -> the head's queries (m, query width)."""

    def __init__(self, width: int, query_width: int):
        super().__init__()
        if query_width < 1:
            raise ConfigError(f"query_width = {query_width}: the width of the head's queries")
        self.transform = nn.Linear(width, query_width)
        self.merge = nn.Linear(3 * query_width, query_width)

    def forward(self, tokens: Float[Tensor, "l m c"]) -> Float[Tensor, "m d"]:
        """Join maximum, mean and last block of the projected tokens."""
        projected = self.transform(tokens)
        parts = (projected.amax(0), projected.mean(0), projected[-1])
        return self.merge(torch.cat(parts, dim=-1))

    @torch.no_grad()
    def spread(self, queries: Float[Tensor, "m d"], deviation: float) -> None:
        """Scale the first linear's weight so that the queries differ by ``deviation``.

        Tokens start small, so queries start nearly equal, and a decoder first has to tell them
        apart. All three parts are linear in that weight, so one factor is exact.

        Args:
            queries: what the link gives now.
            deviation: root mean square wanted of their differences to the mean query; the queries
                that a head learns itself start with 1.
        """
        self.transform.weight *= deviation / (queries - queries.mean(0)).square().mean().sqrt()


def _check_sizes(num_tokens: int, **others: int) -> None:
    if num_tokens < 2 or min(others.values()) < 1:
        shown = ", ".join(f"{name} = {size}" for name, size in others.items())
        raise ConfigError(
            f"num_tokens = {num_tokens}, {shown}: two tokens at least (the first gives no value), "
            "the others positive"
        )


def _spread(parameter: nn.Parameter, fan_out: float) -> None:
    """Draw evenly up to Rein's bound, that of a projection of 16 x 16 x 3 inputs to ``fan_out``."""
    bound = math.sqrt(6 / (3 * 16 * 16 + fan_out))
    nn.init.uniform_(parameter, -bound, bound)
