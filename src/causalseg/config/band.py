"""The options of a frequency band."""

from collections.abc import Iterator
from typing import Any

from pydantic import model_serializer, model_validator
from pydantic.functional_serializers import SerializerFunctionWrapHandler

from causalseg.config.block import Block, Positive
from causalseg.config.legacy import drop_removed

NAMED_BANDS: dict[str, dict[str, float | None]] = {
    "both": {"low": 0.2, "high": 0.7},
    "low_removed": {"low": 0.2, "high": None},
    "high_removed": {"low": None, "high": 0.7},
    "all": {"low": None, "high": None},
}


class Band(Block):
    """The causal band; or one of the names both, low_removed, high_removed, all and auto."""

    low: Positive | None = 0.2
    """R_L, as a fraction of the grid's highest frequency: lower frequencies are suppressed; null
    keeps them."""
    high: Positive | None = 0.7
    """R_H, likewise: higher frequencies fade; null keeps them."""
    auto: bool = False
    """Measure low and high on the sources before training, as docs/spectrum.md says; the run's
    configuration then has them."""

    @property
    def is_open(self) -> bool:
        """Whether the band has yet to be measured; until then low and high stand in."""
        return self.auto and not {"low", "high"} & self.model_fields_set

    @property
    def name(self) -> str | None:
        """The name of the band, if it has one."""
        radii = {"low": self.low, "high": self.high}
        return next((name for name, band in NAMED_BANDS.items() if band == radii), None)

    @model_validator(mode="before")
    @classmethod
    def _read_name(cls, value: Any) -> Any:
        if isinstance(value, dict | Block):
            return drop_removed(value)
        if value == "auto":
            return {"auto": True}
        if not isinstance(value, str) or value not in NAMED_BANDS:
            raise ValueError(f"allowed are {', '.join(NAMED_BANDS)}, auto, or low and high")
        return NAMED_BANDS[value]

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        if self.is_open:
            return {"auto": True}
        return {key: value for key, value in write(self).items() if key != "auto" or value}

    def _find_mistakes(self) -> Iterator[str]:
        if self.low is not None and self.high is not None and not self.low < self.high:
            yield f"low = {self.low} must be below high = {self.high}; the paper has 0.2 and 0.7"
        if self.auto and len({"low", "high"} & self.model_fields_set) == 1:
            yield "auto measures low and high: leave both out"
