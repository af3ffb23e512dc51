"""How an adapter with tokens starts: one block for YAML and Python alike.

    zero    W2 = b2 = 0 and no scale: the edit is 0 at first and has its full gradient at once,
            as in LoRA and AdaptFormer; `zero_mlp_delta_f` of Rein's code
    small   W2, b2 as torch draws them, times a learnt scale that starts at 0.001: as published

With `small` the optimiser first has to grow the scale, by about a learning rate a step, before
anything else has a gradient worth the name.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from causalseg.config.block import Block

_PUBLISHED_SCALE = 0.001
_Std = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Init(Block):
    """Initialisation of tokens, queries and of the layer that writes the edit."""

    kind: Literal["zero", "small"] = "zero"
    """zero: W2 = b2 = 0, the edit starts at nothing with its full gradient; small: W2 and b2 drawn
    at random, times a learnt scale, as published."""
    scale: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """small: starting value of the learnt scale; null is the published 0.001."""
    token_std: _Std | None = None
    """Standard deviation of the tokens; null is that of Rein's code, about 0.01."""
    query_std: _Std | None = 1.0
    """Standard deviation, over tokens, of the queries that a Mask2Former head takes from them; the
    head's own have 1. null leaves the projection as torch draws it: queries nearly equal."""

    @model_validator(mode="before")
    @classmethod
    def _kind_alone(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _no_idle_scale(self) -> Self:
        if self.kind == "zero" and self.scale is not None:
            raise ValueError(
                f"scale = {self.scale} has no effect with kind=zero, which has no scale: leave it "
                "out, or take kind=small"
            )
        return self

    @property
    def first_scale(self) -> float | None:
        """Starting value of the learnt scale; None where there is none."""
        if self.kind == "zero":
            return None
        return _PUBLISHED_SCALE if self.scale is None else self.scale


def renamed(options: Any) -> Any:
    """Bring the spelling of 0.2 (`scale`, `token_spread`, `query_spread`) to `init`.

    Run folders of 0.2 have all three; what they named was the published initialisation.
    """
    names = {"scale": "scale", "token_spread": "token_std", "query_spread": "query_std"}
    if not isinstance(options, dict) or "init" in options or not names.keys() & options.keys():
        return options
    kept = {key: value for key, value in options.items() if key not in names}
    moved = {new: options[old] for old, new in names.items() if old in options}
    return {**kept, "init": {"kind": "small", **moved}}
