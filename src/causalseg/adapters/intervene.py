"""Interventions on the feature stream: random edits in training that change domain, not content.

If a part of the features does not cause the classes, a classifier must not depend on it. So in
training that part is set to random values, an intervention in the sense of causal inference, and
what follows learns to do without. Nothing is learnt here and nothing is left at inference: in eval
mode every edit returns the tensor it was given.

    spectral  X' = X + (g_h - 1) (X - L_RH X) + (g_l - 1) L_RL X     gains g per image and channel
    MixStyle  X' = s' (X - m) / s + m',   m', s' mixed with another image's (arXiv 2104.02008)
    DSU       X' = s' (X - m) / s + m',   m', s' with Gaussian noise        (arXiv 2202.03958)

m and s are mean and standard deviation over the positions of an image, per channel. L_R is the
Gaussian low-pass ``exp(-(u^2 + v^2) / (2 R^2))`` in the DCT domain (`spectral.bands`), so the
spectral edit acts on what the band of Causal-Tune leaves out and spares most of what it keeps.

An edit is an `nn.Module` to be put to work with `install_after_blocks`. Keep it as a submodule of
the model, so that `train` and `eval` reach it. All numbers are drawn from torch's global generator
of the features' device: the training loop seeds it for every step, and activation checkpointing
restores it for the recomputation. MixStyle and DSU make an image depend on its batch in training;
that is their point.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from causalseg.errors import ConfigError
from causalseg.spectral.bands import band_pass, check_radii
from causalseg.spectral.grid import grid_to_tokens, tokens_to_grid
from causalseg.spectral.transforms import widen

Range = tuple[float, float]
_EPS = 1e-6  # added to variances: a constant channel has no deviation to divide by


class Intervention(nn.Module):
    """A random edit of patch tokens, active in training mode only.

    Args:
        p: probability of the edit, for each block and step; one draw for the whole batch.

    Raises:
        ConfigError: unless p is in [0, 1].
    """

    def __init__(self, p: float):
        super().__init__()
        if not 0 <= p <= 1:
            raise ConfigError(f"p = {p}: a probability is in [0, 1]; the usual one is 0.5")
        self.p = p

    def forward(
        self, tokens: Float[Tensor, "b n c"], layer: int, grid: tuple[int, int]
    ) -> Float[Tensor, "b n c"]:
        """Return the edited tokens in their dtype; in eval mode the very same tensor.

        Args:
            tokens: patch tokens of a block, without prefix tokens.
            layer: number of the block; every block draws anew.
            grid: ``(h, w)`` in patches.
        """
        if not self.training or self.p == 0:
            return tokens
        with torch.autocast(tokens.device.type, enabled=False):
            # A factor instead of an `if`: no wait for the device, no break in a compiled graph.
            is_on = torch.rand((), device=tokens.device) < self.p
            return self.edit(widen(tokens), grid, is_on).to(tokens.dtype)

    def edit(
        self, X: Float[Tensor, "b n c"], grid: tuple[int, int], is_on: Bool[Tensor, ""]
    ) -> Float[Tensor, "b n c"]:
        """Return the edited tokens where ``is_on``, else X; in the precision of X."""
        raise NotImplementedError(f"{type(self).__name__} has no edit: write it")


class SpectralIntervention(Intervention):
    """Random gains on the frequencies outside the causal band.

    Args:
        p: probability, for each block and step.
        high_gain: range that g_h, the gain above R_H, is drawn from uniformly; None leaves the
            high frequencies alone.
        low_gain: range of g_l, the gain below R_L, likewise.
        low: R_L, fraction of the grid's highest frequency; without ``low_gain`` unused.
        high: R_H, likewise.

    Raises:
        ConfigError: for ranges that are not ordered or below 0, or both None; for radii that are
            not positive or, where both are used, not ordered.
    """

    def __init__(
        self,
        p: float = 0.5,
        high_gain: Range | None = (0.25, 1.5),
        low_gain: Range | None = None,
        low: float = 0.2,
        high: float = 0.7,
    ):
        super().__init__(p)
        if high_gain is None and low_gain is None:
            raise ConfigError(
                "high_gain and low_gain are both null: there is nothing to intervene on; give one "
                "a range, for example high_gain = [0.25, 1.5]"
            )
        for name, gain in (("high_gain", high_gain), ("low_gain", low_gain)):
            if gain is not None and not 0 <= gain[0] <= gain[1] < math.inf:
                raise ConfigError(
                    f"{name} = {list(gain)}: give the lowest and the highest gain, both at least "
                    "0, in this order; 1 changes nothing"
                )
        check_radii(None if low_gain is None else low, None if high_gain is None else high)
        self.high_gain, self.low_gain, self.low, self.high = high_gain, low_gain, low, high

    def edit(
        self, X: Float[Tensor, "b n c"], grid: tuple[int, int], is_on: Bool[Tensor, ""]
    ) -> Float[Tensor, "b n c"]:
        """X + (g_h - 1) (X - L_RH X) + (g_l - 1) L_RL X."""
        edited = X
        if self.high_gain is not None:
            edited = edited + _change(self.high_gain, X, is_on) * (X - _lowpass(X, grid, self.high))
        if self.low_gain is not None:
            edited = edited + _change(self.low_gain, X, is_on) * _lowpass(X, grid, self.low)
        return edited


class MixStyle(Intervention):
    """Statistics mixed with those of another image (Zhou et al., ICLR 2021).

    ``m' = l m + (1 - l) m_j`` and likewise s', with j from a random permutation of the batch and
    l ~ Beta(alpha, alpha) per image. No gradient flows through the statistics. A batch of one
    image is left as it is.

    Args:
        p: probability, for each block and step.
        alpha: of the Beta distribution; small values mix little or swap.

    Raises:
        ConfigError: unless alpha is positive.
    """

    def __init__(self, p: float = 0.5, alpha: float = 0.1):
        super().__init__(p)
        if not alpha > 0:
            raise ConfigError(f"alpha = {alpha}: it must be positive; the paper has 0.1")
        self.alpha = alpha

    def edit(
        self, X: Float[Tensor, "b n c"], grid: tuple[int, int], is_on: Bool[Tensor, ""]
    ) -> Float[Tensor, "b n c"]:
        """Mix the statistics of every image with those of its partner."""
        m, s = _statistics(X.detach())
        alpha = torch.full((len(X), 1, 1), self.alpha, device=X.device)
        mixing = torch.distributions.Beta(alpha, alpha, validate_args=False).sample()
        other = (1 - mixing).to(X.dtype) * is_on
        partner = torch.randperm(len(X), device=X.device)
        return _restyle(X, m, s, other * (m[partner] - m), other * (s[partner] - s))


class Dsu(Intervention):
    """Statistics with Gaussian noise (domain shifts with uncertainty; Li et al., ICLR 2022).

    ``m' = m + e S_m`` and ``s' = s + e' S_s`` with e, e' ~ N(0, 1) per image and channel; S_m and
    S_s are the standard deviations of m and s over the batch, divided by b and not b - 1: for a
    batch of one image they are 0 and it is left as it is. Gradients flow through the statistics.

    Args:
        p: probability, for each block and step.
        factor: on the noise.

    Raises:
        ConfigError: unless the factor is positive.
    """

    def __init__(self, p: float = 0.5, factor: float = 1.0):
        super().__init__(p)
        if not factor > 0:
            raise ConfigError(f"factor = {factor}: it must be positive; the paper has 1")
        self.factor = factor

    def edit(
        self, X: Float[Tensor, "b n c"], grid: tuple[int, int], is_on: Bool[Tensor, ""]
    ) -> Float[Tensor, "b n c"]:
        """Perturb the statistics of every image."""
        m, s = _statistics(X)
        shifts = [
            torch.randn_like(part) * (self.factor * is_on) * _batch_deviation(part)
            for part in (m, s)
        ]
        return _restyle(X, m, s, *shifts)


def _change(gain: Range, X: Float[Tensor, "b n c"], is_on: Tensor) -> Float[Tensor, "b 1 c"]:
    """Return g - 1 with g ~ U(gain) per image and channel; 0 where the edit is off."""
    lowest, highest = gain
    g = lowest + (highest - lowest) * torch.rand_like(X[:, :1])
    return (g - 1) * is_on


def _lowpass(
    X: Float[Tensor, "b n c"], grid: tuple[int, int], radius: float
) -> Float[Tensor, "b n c"]:
    """Return L_R X: the Gaussian low-pass as a small matrix on each side of the grid."""
    return grid_to_tokens(band_pass(tokens_to_grid(X, grid), None, radius))


def _statistics(
    X: Float[Tensor, "b n c"],
) -> tuple[Float[Tensor, "b 1 c"], Float[Tensor, "b 1 c"]]:
    """Return mean and standard deviation over positions; the latter is never 0."""
    variance, mean = torch.var_mean(X, dim=1, correction=0, keepdim=True)
    return mean, (variance + _EPS).sqrt()


def _batch_deviation(statistic: Float[Tensor, "b 1 c"]) -> Float[Tensor, "1 1 c"]:
    """Return the standard deviation over the batch; where it is 0, so is its gradient."""
    centered = statistic - statistic.mean(0, keepdim=True)
    # A norm, since the gradient of a root is infinite at 0.
    return torch.linalg.vector_norm(centered, dim=0, keepdim=True) / len(statistic) ** 0.5


def _restyle(X: Tensor, m: Tensor, s: Tensor, m_shift: Tensor, s_shift: Tensor) -> Tensor:
    """Return ``(s + s_shift) (X - m) / s + m + m_shift``; X itself for shifts of 0."""
    return X + (X - m) * (s_shift / s) + m_shift
