"""Token attention on the coefficients of a transform, as SET and FADA have it.

For coefficients Q at n positions and the tokens T = A B of a block, c channels:

    (1) P = softmax(Q T^T / sqrt(c))                    over the m tokens
    (2) D = (P[:, 1:] (T[1:] W1^T + b1) + Q) W2^T + b2  token 0 gives no value

The logits may be instance-normalised over the positions, which removes style from the attention.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from causalseg.adapters.tokens import BlockTokens, make_delta
from causalseg.config.adapters import FadaConfig, SetConfig

_LOGIT_EPS = 1e-10  # added to the variance of logits, which are small at first


class TokenRefinement(nn.Module):
    """D for coefficients Q; W1, b1, W2, b2 are shared by all blocks, the tokens are per block."""

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
