"""Tokens of every block, attention to them, their link to queries, and their initialisation.

Low-rank tokens are ``T_l = A_l B_l`` with A (m, r) and B (r, c); full tokens are T (m, c) itself.
By default both have the standard deviation of Rein's code (0.009 at 384 channels and rank 16).
The link follows Rein (CVPR 2024): all tokens pass a linear layer to the query width; their maximum
over blocks, mean over blocks and last block are concatenated and projected once more.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from causalseg.adapters.base import Adapter
from causalseg.config.adapters import FadaConfig, LinkedConfig, SetConfig, TokensConfig
from causalseg.config.initialisation import PUBLISHED_SCALE, Init
from causalseg.errors import ConfigError

_PATCH_INPUTS = 3 * 16 * 16  # the bound of Rein and VPT is that of a projection of such patches
_LOGIT_EPS = 1e-10  # added to the variance of logits, which are small at first


class TokenEdit(Adapter):
    """Base class of adapters with tokens: the scale s of their edit and the query link.

    Adapters with a link also take ``query_width``, the width of the head's queries; None, for a
    head without queries, makes no link.
    """

    has_one_width = True

    def __init__(self, width: int, depth: int, options: TokensConfig):
        super().__init__(width, depth, options.layers)
        self.options = options
        scale = PUBLISHED_SCALE if options.init.scale is None else options.init.scale
        has_scale = options.init.kind == "small"
        self.scale = nn.Parameter(torch.tensor(float(scale))) if has_scale else None
        self.link: QueryLink | None = None

    def describe(self) -> dict[str, Any]:
        """Return what it is, the width of the queries it makes included."""
        about = super().describe()
        if isinstance(self.options, LinkedConfig):
            about["query_width"] = None if self.link is None else self.link.merge.out_features
        return about

    def queries(self) -> Float[Tensor, "m d"] | None:
        """Return the queries for the head, or None without a query link."""
        return None if self.link is None else self.link(self.linked_tokens())

    def linked_tokens(self) -> Float[Tensor, "l m c"]:
        """Return the tokens of all blocks that become queries."""
        return self.tokens()  # type: ignore[operator]

    def link_queries(self, query_width: int | None, options: LinkedConfig) -> None:
        """Make the query link, once the tokens have their values; a width of None makes none."""
        if query_width is not None and options.query_link:
            self.link = QueryLink(self.linked_tokens(), query_width, options.init.query_std)

    def scaled(self, edit: Tensor) -> Tensor:
        """Return ``s edit``; without a scale the edit itself."""
        return edit if self.scale is None else self.scale.to(edit.dtype) * edit


class BlockTokens(nn.Module):
    """The tokens of ``depth`` blocks: ``T_l = A_l B_l``, or T_l itself without a rank."""

    A: nn.Parameter
    B: nn.Parameter
    T: nn.Parameter

    def __init__(self, depth: int, width: int, options: TokensConfig):
        super().__init__()
        m, std = options.num_tokens, options.init.token_std
        self.rank: int | None = options.rank
        if self.rank is None:
            self.T = draw_uniform((depth, m, width), width)
        else:
            fan_out = math.sqrt(self.rank * width)
            self.A = draw_uniform((depth, m, self.rank), fan_out)
            self.B = draw_uniform((depth, self.rank, width), fan_out)
        if std is not None:
            with torch.no_grad():
                factor = std / self().std()
                for parameter in self.parameters():
                    parameter.mul_(factor if self.rank is None else factor.sqrt())

    def forward(self) -> Float[Tensor, "l m c"]:
        """Return the tokens of all blocks."""
        return self.T if self.rank is None else self.A @ self.B


class QueryLink(nn.Module):
    """Tokens of all blocks -> the head's queries (m, query width).

    ``tokens`` have their initial values. ``std`` is the initial root mean square of the queries'
    differences to the mean query; 1 is that of queries a head learns itself, None leaves them
    nearly equal, as torch draws the layers. Raises ConfigError if the query width is below 1.
    """

    def __init__(self, tokens: Float[Tensor, "l m c"], query_width: int, std: float | None = None):
        super().__init__()
        if query_width < 1:
            raise ConfigError(f"query_width = {query_width} must be at least 1")
        self.transform = nn.Linear(tokens.shape[-1], query_width)
        self.merge = nn.Linear(3 * query_width, query_width)
        if std is not None:
            # Maximum, mean and last block are all linear in this weight: one factor is exact.
            with torch.no_grad():
                queries = self(tokens)
                deviation = (queries - queries.mean(0)).square().mean().sqrt()
                self.transform.weight *= std / deviation

    def forward(self, tokens: Float[Tensor, "l m c"]) -> Float[Tensor, "m d"]:
        """Project maximum, mean and last block of the tokens."""
        projected = self.transform(tokens)
        parts = (projected.amax(0), projected.mean(0), projected[-1])
        return self.merge(torch.cat(parts, dim=-1))


class TokenRefinement(nn.Module):
    """Token attention on the coefficients Q of a transform, as SET and FADA have it.

    For the tokens T = A B of a block; W1, b1, W2 and b2 are shared by all blocks:

        (1) P = softmax(Q T^T / sqrt(c))                    over the m tokens
        (2) D = (P[:, 1:] (T[1:] W1^T + b1) + Q) W2^T + b2  token 0 gives no value

    ``is_normalised``: the logits are instance-normalised over the positions, which removes style
    from the attention.
    """

    def __init__(
        self, depth: int, width: int, options: SetConfig | FadaConfig, is_normalised: bool = False
    ):
        super().__init__()
        self.is_normalised = is_normalised
        self.tokens = BlockTokens(depth, width, options)
        self.token_to_feature = nn.Linear(width, width)  # W1, b1
        self.delta = make_delta(width, options.init)  # W2, b2

    def forward(self, Q: Float[Tensor, "b n c"], layer: int) -> Float[Tensor, "b n c"]:
        """Return D for the coefficients Q at n positions, in the precision of Q."""
        T = self.tokens.A[layer].to(Q.dtype) @ self.tokens.B[layer].to(Q.dtype)
        logits = Q @ T.T / math.sqrt(Q.shape[-1])
        if self.is_normalised:
            logits = standardise(logits, _LOGIT_EPS)
        P = torch.softmax(logits, dim=-1)  # (1)
        values = _linear(self.token_to_feature, T[1:])
        return _linear(self.delta, P[..., 1:] @ values + Q)  # (2)


def standardise(X: Float[Tensor, "b n c"], eps: float) -> Float[Tensor, "b n c"]:
    """Instance normalisation: mean 0 and variance 1 over the positions, per image and channel.

    ``eps`` is added to the variance; a channel that is constant becomes 0.
    """
    centered = X - X.mean(-2, keepdim=True)
    return centered * torch.rsqrt(centered.square().mean(-2, keepdim=True) + eps)


def _linear(layer: nn.Linear, X: Float[Tensor, "... c"]) -> Float[Tensor, "... c"]:
    """Apply a linear layer in the precision of X, whatever that of its weights."""
    return functional.linear(X, layer.weight.to(X.dtype), layer.bias.to(X.dtype))


def make_delta(width: int, init: Init) -> nn.Linear:
    """Return W2 and b2, which write the edit: 0 with `zero`, as torch draws them with `small`."""
    delta = nn.Linear(width, width)
    if init.kind == "zero":
        nn.init.zeros_(delta.weight)
        nn.init.zeros_(delta.bias)
    return delta


def draw_uniform(shape: tuple[int, ...], fan_out: float) -> nn.Parameter:
    """Return a parameter that is uniform within the bound of Rein and VPT."""
    bound = math.sqrt(6 / (_PATCH_INPUTS + fan_out))
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
