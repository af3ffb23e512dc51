"""The options of the intervention on the features."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from causalseg.config.block import Block, Layers, NonNegative, Positive

_Factor = NonNegative
Gain = tuple[_Factor, _Factor]


class InterveneConfig(Block):
    """A random change of the features in training."""

    kind: Literal["spectral", "mixstyle", "dsu"] = "spectral"
    """spectral: gains on the non-causal bands; mixstyle: channel statistics mixed within the
    batch; dsu: channel statistics perturbed."""
    p: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Probability for each block and step."""
    high_gain: Gain | None = (0.25, 1.5)
    """spectral: range of the gain on frequencies above `high`; null leaves them alone."""
    low_gain: Gain | None = None
    """spectral: range of the gain on frequencies below `low`; null leaves them alone."""
    low: Positive = 0.2
    """spectral: R_L, as a fraction of the grid's highest frequency."""
    high: Positive = 0.7
    """spectral: R_H, likewise."""
    alpha: Positive = 0.1
    """mixstyle: parameter of the Beta distribution of the mixture."""
    factor: Positive = 1.0
    """dsu: factor on the standard deviation of the noise."""
    layers: Layers = None
    """Blocks to follow: a list of indices from 0, or a number k for the last k; null is all."""

    def _find_mistakes(self) -> Iterator[str]:
        own = {
            "spectral": ("high_gain", "low_gain", "low", "high"),
            "mixstyle": ("alpha",),
            "dsu": ("factor",),
        }
        for kind, keys in own.items():
            if kind != self.kind:
                yield from self.find_idle(keys, f"kind={self.kind}")
        if self.kind != "spectral":
            return
        if self.high_gain is None and self.low_gain is None:
            yield "high_gain and low_gain are both null: nothing would change"
        for side, gain in (("low", self.low_gain), ("high", self.high_gain)):
            if gain is None:
                yield from self.find_idle([side], f"{side}_gain=null")
            elif gain[0] > gain[1]:
                yield f"{side}_gain = {list(gain)} must be [smallest, largest]"
            elif gain == (1, 1):
                yield f"{side}_gain = [1, 1] changes nothing: null turns a side off"
        if None not in (self.low_gain, self.high_gain) and self.low >= self.high:
            yield f"low = {self.low} must be below high = {self.high}"
