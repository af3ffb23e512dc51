"""Options of test-time adaptation, which belong to a call and not to a run."""

from typing import Annotated

from pydantic import Field

from causalseg.config.block import Block, Count, NonNegative, Positive


class AdaptConfig(Block):
    """How band gains are trained on unlabelled images."""

    steps: Count = 100
    """Optimiser steps."""
    lr: Positive = 1e-3
    """Learning rate of Adam, which moves each gain by about that much a step."""
    batch: Count = 4
    """Crops a step."""
    mu: NonNegative = 0.1
    """Weight of the sum of the squared gains in the loss."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the teacher's moving average of the gains; 0 makes the teacher the student."""
