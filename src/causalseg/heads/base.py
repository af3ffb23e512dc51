"""What every head does: class scores and a loss from feature maps and an adapter's queries."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, distributed, nn

from causalseg.config.heads import BalancedConfig
from causalseg.data.classes import IGNORE
from causalseg.errors import DataError
from causalseg.heads.balance import ClassBalance

Features = list[Float[Tensor, "b c h w"]]
"""Four maps, shallow to deep: of one grid, or of strides 4 to 32."""

Queries = Float[Tensor, "q d"] | Float[Tensor, "b q d"] | None
"""The adapter's queries, None without; of an image each if they have passed its blocks."""

Labels = Int[Tensor, "b H W"]
"""Classes 0..k-1, or 255 for ignored pixels."""

Losses = dict[str, Float[Tensor, ""]]
"""The terms of a loss: weighted float32 scalars by name, to be added."""

Counts = Float[Tensor, " n"]
"""What the sums in a head's loss are divided by, such as the number of labelled pixels."""

Scores = Float[Tensor, "b k H W"]


class Head(nn.Module):
    """Feature maps to a score for each of k classes and each pixel.

    `forward` and `loss` raise ConfigError if queries are missing, unexpected or of another width.

    Attributes:
        blocks: number of last blocks of the backbone, up to the last level, that what `joining`
            returns passes together with the patch tokens; 0 for none.
    """

    blocks = 0

    def __init__(self, num_classes: int, options: BalancedConfig) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.balance = ClassBalance(num_classes, options)

    def joining(self, queries: Queries) -> Float[Tensor, "q c"]:
        """Return the queries that pass the last blocks, from those of the adapter."""
        raise NotImplementedError

    def forward(self, features: Features, queries: Queries, size: tuple[int, int]) -> Scores:
        """Return float32 scores, resized bilinearly to ``size`` (H, W) and adjusted by ``balance``.

        The class with the largest score is predicted.
        """
        raise NotImplementedError

    def probabilities(self, scores: Float[Tensor, "k H W"]) -> Float[Tensor, "k H W"]:
        """Return the class probabilities of scores; they sum to 1 at every pixel."""
        raise NotImplementedError

    def energy(self, scores: Float[Tensor, "k H W"]) -> Float[Tensor, "H W"]:
        """Return how little the known classes explain each pixel; only its order has a meaning."""
        raise NotImplementedError

    def loss(
        self, features: Features, queries: Queries, labels: Labels, counts: Counts | None = None
    ) -> Losses:
        """Return the terms of the loss; raise DataError if a label is neither a class nor 255.

        ``counts`` are the `mean_counts` of all parts of the batch; None is of this one alone.
        """
        raise NotImplementedError

    def count(self, labels: Labels) -> Counts:
        """Return what the sums in `loss` are divided by, for these labels alone.

        Raises DataError if a label is neither a class nor 255.
        """
        raise NotImplementedError

    def mean_counts(self, parts: Sequence[Labels]) -> Counts:
        """Return `count` in the mean over equal parts of a batch and over all processes.

        Gradients are averaged over both, too: sums divided by this mean have the gradient of one
        process with the whole batch in one part.
        """
        return mean_over_processes(torch.stack([self.count(labels) for labels in parts]).mean(0))


def mean_over_processes(counts: Counts) -> Counts:
    """Average counts over all processes."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return counts
    total = counts.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def check_labels(labels: Labels, num_classes: int) -> None:
    """Raise DataError if a label is neither a class 0..k-1 nor 255.

    Only on a CPU: elsewhere every step would wait for the device to tell. Data sets check theirs.
    """
    if labels.device.type != "cpu":
        return
    wrong = labels[((labels < 0) | (labels >= num_classes)) & (labels != IGNORE)]
    if len(wrong):
        raise DataError(
            f"labels contain {wrong.unique().tolist()}; allowed are 0 to {num_classes - 1}, and "
            f"{IGNORE} for ignored pixels: check the class mapping of the data set"
        )
