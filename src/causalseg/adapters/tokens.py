"""Tokens of every block, the link that makes queries of them, and how an edit of tokens starts.

Low-rank tokens are ``T_l = A_l B_l`` with A (m, r) and B (r, c); full tokens are T (m, c) itself.
By default both have the standard deviation of Rein's code (0.009 at 384 channels and rank 16).
The link follows Rein (CVPR 2024): all tokens pass a linear to the query width; their maximum over
blocks, mean over blocks and last block are joined and projected once more. Tokens are small, so
those queries are nearly equal as Rein's code has them; `TokenEdit` scales them apart.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from causalseg.adapters.base import Adapter
from causalseg.config.initialisation import Init
from causalseg.errors import ConfigError


class TokenEdit(Adapter):
    """What adapters with tokens share: the scale s of their edit and the query link.

    Args:
        width: c, channels of the backbone.
        depth: number of blocks.
        layers: the blocks it works on; None for all.
    """

    scale: nn.Parameter | None
    link: "QueryLink | None"

    def __init__(self, width: int | Sequence[int], depth: int, layers: Sequence[int] | None = None):
        super().__init__(width, depth, layers)
        self.link = None

    def queries(self) -> Float[Tensor, "m d"] | None:
        """Return the queries for the head, or None without a query link."""
        return None if self.link is None else self.link(self.linked_tokens())

    def linked_tokens(self) -> Float[Tensor, "l m c"]:
        """Return the tokens of all blocks that the queries are made of."""
        return self.tokens()  # type: ignore[operator]

    def scaled(self, edit: Tensor) -> Tensor:
        """Return ``s edit``; without a scale the edit itself."""
        return edit if self.scale is None else self.scale.to(edit.dtype) * edit

    @torch.no_grad()
    def start(self, init: Init, deltas: Sequence[nn.Linear], query_width: int | None) -> None:
        """Make scale and link, and give everything its first values.

        Args:
            init: how; see `Init`.
            deltas: the layers W2, b2 that write the edit.
            query_width: width of the head's queries; None leaves the link out.
        """
        first = init.first_scale
        self.register_parameter(
            "scale", None if first is None else nn.Parameter(torch.tensor(float(first)))
        )
        for delta in deltas if first is None else ():
            nn.init.zeros_(delta.weight)
            nn.init.zeros_(delta.bias)
        if init.token_std is not None:
            for module in self.modules():
                if isinstance(module, LowRankTokens | FullTokens):
                    module.set_std(init.token_std)
        if query_width is not None:
            self.link = QueryLink(self.width, query_width)
            if init.query_std is not None:
                self.link.set_std(self.linked_tokens(), init.query_std)


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
        _draw(self.A, math.sqrt(rank * width))
        _draw(self.B, math.sqrt(rank * width))

    def forward(self) -> Float[Tensor, "l m c"]:
        """Return the tokens of all blocks."""
        return self.A @ self.B

    @torch.no_grad()
    def set_std(self, std: float) -> None:
        """Scale A and B alike so that the tokens have this standard deviation."""
        factor = (std / self().std()).sqrt()
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
        _draw(self.T, width)

    def forward(self) -> Float[Tensor, "l m c"]:
        """Return the tokens of all blocks."""
        return self.T

    @torch.no_grad()
    def set_std(self, std: float) -> None:
        """Scale the tokens so that they have this standard deviation."""
        self.T.mul_(std / self.T.std())


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
    def set_std(self, tokens: Float[Tensor, "l m c"], std: float) -> None:
        """Scale the first linear's weight so that the queries of these tokens differ by ``std``.

        Nearly equal queries first have to be told apart by the decoder. Maximum, mean and last
        block are all linear in that weight, so one factor is exact.

        Args:
            tokens: of all blocks.
            std: root mean square of the queries' differences to the mean query; the queries that
                a head learns itself start with 1.
        """
        queries = self(tokens)
        self.transform.weight *= std / (queries - queries.mean(0)).square().mean().sqrt()


def _check_sizes(num_tokens: int, **others: int) -> None:
    if num_tokens < 2 or min(others.values()) < 1:
        shown = ", ".join(f"{name} = {size}" for name, size in others.items())
        raise ConfigError(
            f"num_tokens = {num_tokens}, {shown}: two tokens at least (the first gives no value), "
            "the others positive"
        )


def _draw(parameter: nn.Parameter, fan_out: float) -> None:
    """Draw evenly up to Rein's bound, that of a projection of 16 x 16 x 3 inputs to ``fan_out``."""
    bound = math.sqrt(6 / (3 * 16 * 16 + fan_out))
    nn.init.uniform_(parameter, -bound, bound)
