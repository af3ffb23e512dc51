"""Consistency of a head's predictions when frequency bands of its features change in strength.

B_k keeps ring k of the DCT of the last feature maps z (`causalseg.analysis.rings.ring_index`), p
and p' are the class probabilities of z and z', and sg stops the gradient:

    (1) z' = sum_k g_k B_k z,       log g_k ~ N(-s_k^2 / 2, s_k^2), so that E g_k = 1
    (2) L = w mean over positions of arccos(sum_c sqrt(sg(p_c) p'_c))^2

(2) is the squared geodesic distance of GeCo (CVPR 2026), there with other perturbations; w rises
from 0 over the first steps. g_k is drawn for each image and channel from torch's global generator.
s_k^2 is given, or S(k) measured on the source, at most 1: what moves under a change of style and
weather is what the prediction must not depend on.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from causalseg.analysis.rings import ring_index
from causalseg.config.consistency import ConsistencyConfig
from causalseg.heads.base import Features, Head, Queries
from causalseg.spectral.transforms import dct2, idct2

_CLOSEST = 1 - 1e-6  # largest cosine: the gradient of arccos is infinite at 1
_LEAST = 1e-12  # smallest product of probabilities: that of a root is infinite at 0


class Consistency(nn.Module):
    """The loss (2); ``std`` are s_k of the last maps, low to high frequencies."""

    std: Tensor

    def __init__(self, options: ConsistencyConfig, std: Float[Tensor, "levels rings"]):
        super().__init__()
        self.options = options
        self.register_buffer("std", std, persistent=False)

    def forward(
        self, head: Head, features: Features, queries: Queries, progress: float
    ) -> Float[Tensor, ""]:
        """Return the weighted loss; ``progress`` is the fraction of the steps that are done."""
        size = (features[0].shape[-2], features[0].shape[-1])
        fixed = len(features) - len(self.std)
        changed = [self.perturb(z, s) for z, s in zip(features[fixed:], self.std, strict=True)]
        with torch.no_grad():
            p = _probabilities(head, features, queries, size)
        q = _probabilities(head, [*features[:fixed], *changed], queries, size)
        cosine = (p * q).clamp(min=_LEAST).sqrt().sum(1).clamp(max=_CLOSEST)
        return self.weight(progress) * cosine.arccos().square().mean()

    def weight(self, progress: float) -> float:
        """Return w."""
        ramp = self.options.ramp
        return self.options.weight * (min(1.0, progress / ramp) if ramp else 1.0)

    def perturb(
        self, z: Float[Tensor, "b c h w"], std: Float[Tensor, " rings"]
    ) -> Float[Tensor, "b c h w"]:
        """Return z' of (1), in the dtype of z."""
        b, c, h, w = z.shape
        noise = torch.randn(b, c, len(std), device=z.device)
        gains = (std * noise - std.square() / 2).exp()[..., ring_index((h, w), len(std), z.device)]
        with torch.autocast(z.device.type, enabled=False):
            Y = dct2(z.movedim(1, -1)) * gains.movedim(1, -1)
            return idct2(Y).movedim(-1, 1).to(z.dtype)


def _probabilities(
    head: Head, features: Features, queries: Queries, size: tuple[int, int]
) -> Float[Tensor, "b k h w"]:
    scores = head(features, queries, size)
    return torch.stack([head.probabilities(each) for each in scores])
