"""The options of the intervention on the feature stream."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from causalseg.config.block import Block, Layers, Radius

_Factor = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Gain = tuple[_Factor, _Factor]


class InterveneConfig(Block):
    """A random change of the features in training, which the model must learn to withstand."""

    kind: Literal["spectral", "mixstyle", "dsu"] = "spectral"
    """spectral: gains on the non-causal bands; mixstyle: channel statistics mixed within the
    batch; dsu: channel statistics perturbed."""
    p: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Probability for each block and step."""
    high_gain: Gain | None = (0.25, 1.5)
    """spectral: range of the gain on what is above `high`; null leaves it alone."""
    low_gain: Gain | None = None
    """spectral: range of the gain on what is below `low`; null leaves it alone."""
    low: Radius = 0.2
    """spectral: R_L, as a fraction of the grid's highest frequency."""
    high: Radius = 0.7
    """spectral: R_H, likewise."""
    alpha: Annotated[float, Field(gt=0)] = 0.1
    """mixstyle: parameter of the Beta distribution of the mixture."""
    factor: Annotated[float, Field(gt=0)] = 1.0
    """dsu: factor on the spread of the noise."""
    layers: Layers = None
    """Blocks after which it happens: a list, or a number k for the last k; null is all."""

    @model_validator(mode="after")
    def _no_idle_settings(self) -> Self:
        own = {"spectral": {"high_gain", "low_gain", "low", "high"}, "mixstyle": {"alpha"}}
        mine = own.get(self.kind, {"factor"})
        theirs = {"high_gain", "low_gain", "low", "high", "alpha", "factor"} - mine
        defaults = type(self).model_fields
        idle = [key for key in sorted(theirs) if getattr(self, key) != defaults[key].default]
        if idle:
            raise ValueError(f"{idle[0]} has no effect with kind={self.kind}: leave it out")
        if self.kind == "spectral":
            if self.high_gain is None and self.low_gain is None:
                raise ValueError("high_gain and low_gain are both null: nothing would change")
            for key, gain in (("low", self.low_gain), ("high", self.high_gain)):
                if gain is None and getattr(self, key) != defaults[key].default:
                    raise ValueError(f"{key} has no effect without {key}_gain")
            is_both = self.high_gain is not None and self.low_gain is not None
            if is_both and self.low >= self.high:
                raise ValueError(f"low = {self.low} must be below high = {self.high}")
            for key in ("high_gain", "low_gain"):
                gain = getattr(self, key)
                if gain is not None and gain[0] > gain[1]:
                    raise ValueError(f"{key} = {list(gain)} must be [smallest, largest]")
                if gain == (1, 1):
                    raise ValueError(f"{key} = [1, 1] changes nothing: null leaves a side alone")
        return self


def kind_alone(value: Any) -> Any:
    """``intervene: dsu`` is short for ``intervene: {kind: dsu}``."""
    return {"kind": value} if isinstance(value, str) else value
