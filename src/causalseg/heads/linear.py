"""The linear head: one 1x1 convolution over the features, as in linear probing.

The maps of several blocks are layer-normalised over channels, without parameters, to the same
scale; unlike batch statistics this keeps the images of a batch independent of each other.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from causalseg.config.heads import LinearHeadConfig
from causalseg.data.classes import IGNORE
from causalseg.errors import ConfigError
from causalseg.heads import base
from causalseg.heads.base import Counts, Features, Head, Labels, Losses, Queries, Scores
from causalseg.heads.pyramid import resize

_DEFAULTS = LinearHeadConfig()


class LinearHead(Head):
    """Per-pixel classes from feature maps of ``widths`` channels, resized to the first map."""

    def __init__(
        self, widths: Sequence[int], num_classes: int, options: LinearHeadConfig = _DEFAULTS
    ) -> None:
        super().__init__(num_classes, options)
        self.classifier = nn.Conv2d(sum(widths), num_classes, kernel_size=1)

    def forward(self, features: Features, queries: Queries, size: tuple[int, int]) -> Scores:
        """Return logits; minus tau * log(prior) if they are adjusted at inference."""
        logits, shift = self._classify(features, queries), self.balance.shift("inference")
        if shift is not None:
            logits = logits - shift[:, None, None]
        return resize(logits, size)

    def probabilities(self, scores: Float[Tensor, "k H W"]) -> Float[Tensor, "k H W"]:
        """Return the softmax of the logits."""
        return scores.softmax(dim=0)

    def energy(self, scores: Float[Tensor, "k H W"]) -> Float[Tensor, "H W"]:
        """Return -log sum exp of the logits (Liu et al., "Energy-based OOD", NeurIPS 2020)."""
        return -scores.logsumexp(dim=0)

    def loss(
        self, features: Features, queries: Queries, labels: Labels, counts: Counts | None = None
    ) -> Losses:
        """Return ``cross_entropy``, the mean over the labelled pixels of all processes.

        Without labelled pixels it is 0. With class weights w it is sum of w ce / sum of w.
        """
        counts = self.mean_counts([labels]) if counts is None else counts
        logits, shift = self._classify(features, queries), self.balance.shift("loss")
        if shift is not None:
            logits = logits + shift[:, None, None]
        logits = resize(logits, labels.shape[-2:])
        labels, weights = labels.long(), self.balance.weights()
        total = F.cross_entropy(logits, labels, weights, ignore_index=IGNORE, reduction="sum")
        # The smallest mean above 0 is one pixel over all parts, so this only prevents 0 / 0.
        return {"cross_entropy": total / counts[0].clamp(min=1e-6)}

    def count(self, labels: Labels) -> Counts:
        """Return the number of labelled pixels, or the sum of their class weights."""
        base.check_labels(labels, self.num_classes)
        weights, mass = self.balance.weights(), labels != IGNORE
        if weights is not None:
            mass = weights[labels.long().where(mass, 0)] * mass
        return mass.sum().float()[None]

    def _classify(self, features: Features, queries: Queries) -> Float[Tensor, "b k h w"]:
        """Logits at the size of the first map, in float32."""
        if queries is not None:
            raise ConfigError(
                "the linear head takes no queries, but the adapter makes some: switch its query "
                "link off, or use the queries or mask2former head"
            )
        levels = [F.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1) for x in features]
        levels = [resize(level, levels[0].shape[-2:]) for level in levels]
        return self.classifier(torch.cat(levels, dim=1)).float()
