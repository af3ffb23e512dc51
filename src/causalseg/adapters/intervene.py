"""Interventions on the features: random edits in training that change domain, not content.

A part of the features that does not cause the classes is set to random values in training, an
intervention in the sense of causal inference, and the model learns not to use it. Nothing is learnt
here; in eval mode every edit returns its input.

    spectral  X' = X + (g_h - 1) (X - L_RH X) + (g_l - 1) L_RL X     gains g per image and channel
    MixStyle  X' = s' (X - m) / s + m',   m', s' mixed with another image's (arXiv 2104.02008)
    DSU       X' = s' (X - m) / s + m',   m', s' with Gaussian noise        (arXiv 2202.03958)

m and s are mean and standard deviation over the positions of an image, per channel. L_R is the
Gaussian low-pass ``exp(-(u^2 + v^2) / (2 R^2))`` in the DCT domain (`spectral.bands`), so the
spectral edit changes what the band of Causal-Tune leaves out and spares most of the rest.

Install an edit with `install_after_blocks` and keep it as a submodule of the model, so that `train`
and `eval` reach it. Random values come from torch's global generator of the features' device: the
training loop seeds it for every step, and activation checkpointing restores it for the
recomputation. In training, MixStyle and DSU make an image depend on its batch, by design.
"""

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from causalseg.config.intervene import Gain, InterveneConfig
from causalseg.config.mistakes import check
from causalseg.spectral.bands import band_pass
from causalseg.spectral.grid import GridSize, Tokens, grid_to_tokens, tokens_to_grid
from causalseg.spectral.transforms import widen

_EPS = 1e-6  # added to variances: a constant channel has no deviation to divide by


class Intervention(nn.Module):
    """A random edit of patch tokens, active in training mode only.

    The options are the fields of `InterveneConfig` for this kind; one draw with probability ``p``
    holds for the whole batch. An edit of your own overrides `edit`.
    """

    kind: ClassVar[Literal["spectral", "mixstyle", "dsu"]] = "spectral"

    def __init__(self, **options: Any):
        super().__init__()
        self.options = check(InterveneConfig, {"kind": self.kind, **options}, "intervene")

    def forward(self, tokens: Tokens, layer: int, grid: GridSize) -> Tokens:
        """Return the edited tokens in their dtype; in eval mode the same tensor."""
        if not self.training:
            return tokens
        with torch.autocast(tokens.device.type, enabled=False):
            # A factor instead of an `if`: no wait for the device, no break in a compiled graph.
            is_on = torch.rand((), device=tokens.device) < self.options.p
            return self.edit(widen(tokens), grid, is_on).to(tokens.dtype)

    def edit(self, X: Tokens, grid: GridSize, is_on: Bool[Tensor, ""]) -> Tokens:
        """Return the edited tokens if ``is_on``, else X; in the precision of X."""
        raise NotImplementedError(f"{type(self).__name__} has no edit: write it")


class SpectralIntervention(Intervention):
    """Random gains, uniform in their range, on the frequencies outside the causal band."""

    def edit(self, X: Tokens, grid: GridSize, is_on: Bool[Tensor, ""]) -> Tokens:
        """Return ``X + (g_h - 1) (X - L_RH X) + (g_l - 1) L_RL X``."""
        options, edited = self.options, X
        if options.high_gain is not None:
            rest = X - _lowpass(X, grid, options.high)
            edited = edited + _change(options.high_gain, X, is_on) * rest
        if options.low_gain is not None:
            low = _lowpass(X, grid, options.low)
            edited = edited + _change(options.low_gain, X, is_on) * low
        return edited


class MixStyle(Intervention):
    """Statistics mixed with those of another image (Zhou et al., ICLR 2021).

    ``m' = l m + (1 - l) m_j`` and likewise s', with j from a random permutation of the batch and
    l ~ Beta(alpha, alpha) per image. No gradient flows through the statistics. A batch of one
    image is left as it is.
    """

    kind = "mixstyle"

    def edit(self, X: Tokens, grid: GridSize, is_on: Bool[Tensor, ""]) -> Tokens:
        """Mix the statistics of every image with those of its partner."""
        m, s = _statistics(X.detach())
        alpha = torch.full((len(X), 1, 1), self.options.alpha, device=X.device)
        mixing = torch.distributions.Beta(alpha, alpha, validate_args=False).sample()
        other = (1 - mixing).to(X.dtype) * is_on
        partner = torch.randperm(len(X), device=X.device)
        return _restyle(X, m, s, other * (m[partner] - m), other * (s[partner] - s))


class Dsu(Intervention):
    """Statistics with Gaussian noise (domain shifts with uncertainty; Li et al., ICLR 2022).

    ``m' = m + e S_m`` and ``s' = s + e' S_s`` with e, e' ~ N(0, 1) per image and channel; S_m and
    S_s are the standard deviations of m and s over the batch, divided by b and not b - 1: for a
    batch of one image they are 0 and it is left as it is. Gradients flow through the statistics.
    """

    kind = "dsu"

    def edit(self, X: Tokens, grid: GridSize, is_on: Bool[Tensor, ""]) -> Tokens:
        """Perturb the statistics of every image."""
        m, s = _statistics(X)
        shifts = [
            torch.randn_like(part) * (self.options.factor * is_on) * _batch_deviation(part)
            for part in (m, s)
        ]
        return _restyle(X, m, s, *shifts)


def _change(gain: Gain, X: Tokens, is_on: Tensor) -> Float[Tensor, "b 1 c"]:
    """Return g - 1 with g ~ U(gain) per image and channel; 0 where the edit is off."""
    lowest, highest = gain
    g = lowest + (highest - lowest) * torch.rand_like(X[:, :1])
    return (g - 1) * is_on


def _lowpass(X: Tokens, grid: GridSize, radius: float) -> Tokens:
    return grid_to_tokens(band_pass(tokens_to_grid(X, grid), None, radius))


def _statistics(X: Tokens) -> tuple[Float[Tensor, "b 1 c"], Float[Tensor, "b 1 c"]]:
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
