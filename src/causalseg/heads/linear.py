"""The linear head: one 1x1 convolution over the features, as in linear probing.

The maps of several blocks are layer-normalised over channels, concatenated and mapped to classes.
Normalisation has no parameters: it removes the differences in scale between blocks, and unlike
batch statistics a norm over channels keeps the images of a batch independent of each other.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from causalseg.config.heads import LinearHeadConfig
from causalseg.data.classes import IGNORE
from causalseg.errors import ConfigError
from causalseg.heads.balance import ClassBalance
from causalseg.heads.targets import check_labels, mean_over_processes

_DEFAULTS = LinearHeadConfig()


class LinearHead(nn.Module):
    """Per-pixel classes from a 1x1 convolution over normalised, concatenated feature maps.

    Args:
        widths: channels of the feature maps.
        num_classes: number of classes k.
        options: how rare classes are treated.
    """

    def __init__(
        self, widths: Sequence[int], num_classes: int, options: LinearHeadConfig = _DEFAULTS
    ) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(sum(widths), num_classes, kernel_size=1)
        self.balance = ClassBalance(num_classes, options)

    def forward(
        self,
        features: list[Float[Tensor, "b c h w"]],
        queries: Float[Tensor, "q d"] | None,
        size: tuple[int, int],
    ) -> Float[Tensor, "b k H W"]:
        """Score every class at every pixel.

        Args:
            features: one map for each of ``widths``; smaller ones are resized to the first.
            queries: must be None, this head has no queries.
            size: height and width of the result in pixels.

        Returns:
            Logits in float32, resized bilinearly to ``size``; minus tau * log(prior) if they are
            adjusted at inference.

        Raises:
            ConfigError: if queries are given.
        """
        logits, shift = self._classify(features, queries), self.balance.shift("inference")
        if shift is not None:
            logits = logits - shift[:, None, None]
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)

    def probabilities(self, scores: Float[Tensor, "k H W"]) -> Float[Tensor, "k H W"]:
        """Return the softmax of the scores over classes."""
        return scores.softmax(dim=0)

    def loss(
        self,
        features: list[Float[Tensor, "b c h w"]],
        queries: Float[Tensor, "q d"] | None,
        labels: Int[Tensor, "b H W"],
    ) -> dict[str, Float[Tensor, ""]]:
        """Cross-entropy over the pixels that have a class.

        The mean is over the labelled pixels of all processes together; without any it is 0. With
        class weights it is the weighted mean, sum of w ce / sum of w.

        Args:
            features: as in `forward`.
            queries: must be None.
            labels: classes 0..k-1, or 255 for ignored pixels.

        Returns:
            ``cross_entropy``, a scalar.

        Raises:
            ConfigError: if queries are given.
            DataError: if a label is neither a class nor 255.
        """
        check_labels(labels, self.classifier.out_channels)
        logits, shift = self._classify(features, queries), self.balance.shift("loss")
        if shift is not None:
            logits = logits + shift[:, None, None]
        logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
        labels, weights = labels.long(), self.balance.weights()
        total = F.cross_entropy(logits, labels, weights, ignore_index=IGNORE, reduction="sum")
        is_labelled = labels != IGNORE
        mass = is_labelled.sum().float() if weights is None else weights[labels[is_labelled]].sum()
        # The smallest mean above 0 is one pixel over all processes, so this only prevents 0 / 0.
        return {"cross_entropy": total / mean_over_processes(mass).clamp(min=1e-6)}

    def _classify(
        self, features: list[Float[Tensor, "b c h w"]], queries: Float[Tensor, "q d"] | None
    ) -> Float[Tensor, "b k h w"]:
        """Logits at the size of the first map, in float32."""
        if queries is not None:
            raise ConfigError(
                "the linear head takes no queries, but the adapter makes some: switch its query "
                "link off, or use the mask2former head"
            )
        levels = [F.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1) for x in features]
        levels = [levels[0], *(_resize(level, levels[0].shape[-2:]) for level in levels[1:])]
        return self.classifier(torch.cat(levels, dim=1)).float()


def _resize(x: Float[Tensor, "b c _ _"], size: tuple[int, ...]) -> Float[Tensor, "b c h w"]:
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
