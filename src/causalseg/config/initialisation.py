"""Initialisation of adapters with tokens.

`zero` gives the edit its full gradient at once, as in LoRA, AdaptFormer and `zero_mlp_delta_f` of
Rein's code. With `small` all other gradients are multiplied by the scale, which has to grow first.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from causalseg.config.block import Block, Positive

PUBLISHED_SCALE = 0.001


class Init(Block):
    """Initialisation of tokens, queries and of the layer that writes the edit."""

    kind: Literal["zero", "small"] = "zero"
    """zero: W2 = b2 = 0, no edit at first, full gradient; small: W2 and b2 drawn at random, times a
    learnt scale, as published."""
    scale: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """small: initial value of the learnt scale; null is the published 0.001."""
    token_std: Positive | None = None
    """Standard deviation of the tokens; null is that of Rein's code, about 0.01."""
    query_std: Positive | None = 1.0
    """Standard deviation, over tokens, of the queries that a head takes from them; the head's own
    have 1. null leaves the projection as torch draws it: queries nearly equal."""

    def _find_mistakes(self) -> Iterator[str]:
        if self.kind == "zero" and self.scale is not None:
            yield (
                f"scale = {self.scale} has no effect with kind=zero, which has no scale: leave it "
                "out, or take kind=small"
            )
