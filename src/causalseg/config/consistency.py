"""The options of consistency under other strengths of frequency bands."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from causalseg.config.block import Block, Count, Positive


class ConsistencyConfig(Block):
    """A loss that the prediction changes when bands of the features the head reads are scaled."""

    weight: Positive = 0.1
    """Weight of the loss."""
    ramp: Annotated[float, Field(ge=0, lt=1)] = 0.025
    """Fraction of the steps in which the weight rises linearly from 0."""
    levels: Annotated[int, Field(ge=1, le=4)] = 1
    """How many of the last feature maps are scaled."""
    rings: Annotated[int, Field(ge=2, le=32)] = 4
    """Bands: rings of equal width, from the lowest to the highest frequencies of the grid."""
    std: list[Annotated[float, Field(ge=0, le=3)]] | None = None
    """Standard deviation of the logarithm of the gain, for each ring from low to high; null
    measures on the source how much each ring changes in the changes of `under`."""
    factor: Positive = 1.0
    """Factor on the measured variance."""
    under: Annotated[list[str], Field(min_length=1)] = ["photometric", "contrast", "gaussian_noise"]
    """Changes of source images to measure: photometric, or corruptions at severity 3."""
    images: Count = 16
    """Source images to measure on, spread evenly."""

    def _find_mistakes(self) -> Iterator[str]:
        if self.std is None:
            return
        if len(self.std) != self.rings:
            yield f"std has {len(self.std)} values, one for each of {self.rings} rings is needed"
        if not any(self.std):
            yield "std is 0 in every ring: nothing would change"
        yield from self.find_idle(("factor", "under", "images"), "std given")
