"""What every head does: class scores and a loss from feature maps and an adapter's queries."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from causalseg.config.heads import BalancedConfig
from causalseg.heads.balance import ClassBalance

Features = list[Float[Tensor, "b c h w"]]
"""Four maps, shallow to deep: of one grid, or of strides 4 to 32."""

Queries = Float[Tensor, "q d"] | None
"""The adapter's queries; None without."""


class Head(nn.Module):
    """Feature maps to a score for each of k classes and each pixel.

    `forward` and `loss` raise ConfigError if queries are missing, unexpected or of another width.
    """

    def __init__(self, num_classes: int, options: BalancedConfig) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.balance = ClassBalance(num_classes, options)

    def forward(
        self, features: Features, queries: Queries, size: tuple[int, int]
    ) -> Float[Tensor, "b k H W"]:
        """Return float32 scores, resized bilinearly to ``size`` (H, W) and adjusted by ``balance``.

        The class with the largest score is predicted.
        """
        raise NotImplementedError

    def probabilities(self, scores: Float[Tensor, "k H W"]) -> Float[Tensor, "k H W"]:
        """Return the class probabilities of scores; they sum to 1 at every pixel."""
        raise NotImplementedError

    def loss(
        self, features: Features, queries: Queries, labels: Int[Tensor, "b H W"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the terms of the loss: weighted float32 scalars by name, to be added.

        Labels are classes 0..k-1, or 255 for ignored pixels.

        Raises:
            DataError: if a label is neither a class nor 255.
        """
        raise NotImplementedError
