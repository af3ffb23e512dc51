"""What every head does: feature maps, and an adapter's queries, to class scores and a loss."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from causalseg.config.heads import BalancedConfig
from causalseg.heads.balance import ClassBalance


class Head(nn.Module):
    """Feature maps to a score per class and pixel.

    Attributes:
        num_classes: number of classes k.
        balance: how rare classes are treated.
    """

    def __init__(self, num_classes: int, options: BalancedConfig) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.balance = ClassBalance(num_classes, options)

    def forward(
        self,
        features: list[Float[Tensor, "b c h w"]],
        queries: Float[Tensor, "q d"] | None,
        size: tuple[int, int],
    ) -> Float[Tensor, "b k H W"]:
        """Score every class at every pixel.

        Args:
            features: four maps, shallow to deep: of one grid, or of strides 4 to 32.
            queries: the adapter's queries, None without.
            size: height and width of the result in pixels.

        Returns:
            Scores in float32, resized bilinearly to ``size``, adjusted if ``balance`` says so; the
            largest is the predicted class.

        Raises:
            ConfigError: if queries are missing, unexpected or of another width.
        """
        raise NotImplementedError

    def probabilities(self, scores: Float[Tensor, "k H W"]) -> Float[Tensor, "k H W"]:
        """Return the class probabilities of scores; they sum to 1 at every pixel."""
        raise NotImplementedError

    def loss(
        self,
        features: list[Float[Tensor, "b c h w"]],
        queries: Float[Tensor, "q d"] | None,
        labels: Int[Tensor, "b H W"],
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the training loss.

        Args:
            features: as in `forward`.
            queries: as in `forward`.
            labels: classes 0..k-1, or 255 for ignored pixels.

        Returns:
            Weighted scalars in float32 by name, to be added.

        Raises:
            ConfigError: if queries are missing, unexpected or of another width.
            DataError: if a label is neither a class nor 255.
        """
        raise NotImplementedError
