"""The exponential moving average of the trained weights: e <- (1 - m) e + m w after each step.

It begins as a copy of the weights. Buffers, such as running statistics, are not averaged.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from causalseg.config.run import EmaConfig
from causalseg.model import Segmenter


class WeightAverage:
    """The average of the parameters of adapter and head; without options it does nothing."""

    def __init__(self, model: Segmenter, options: EmaConfig | None, steps: int):
        self._weights, self.is_on = list_weights(model), options is not None
        self.values: dict[str, Tensor] | None = None
        if options is not None:
            self.start, self.momentum = options.start_step(steps), options.share(steps)
            self.update(0)

    def restore(self, values: dict[str, Tensor] | None, step: int) -> None:
        """Continue after ``step`` steps with the average of a checkpoint, if it has begun."""
        self.values = None
        self.update(step)
        if self.values is not None and values is not None:
            for name, value in self.values.items():
                value.copy_(values[name])

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Include the weights after ``step`` steps."""
        if self.is_on and self.values is not None:
            for name, weight in self._weights.items():
                self.values[name].lerp_(weight, self.momentum)
        elif self.is_on and step >= self.start:
            self.values = {name: weight.clone() for name, weight in self._weights.items()}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Replace the weights by the average, once it has begun."""
        if self.values is None:
            yield
            return
        raw = {name: weight.detach().clone() for name, weight in self._weights.items()}
        place_weights(self._weights, self.values)
        try:
            yield
        finally:
            place_weights(self._weights, raw)


def list_weights(model: Segmenter) -> dict[str, nn.Parameter]:
    """Return the parameters that train, by part and name."""
    return {
        f"{part_name}.{name}": parameter
        for part_name, part in model.trainable().items()
        for name, parameter in part.named_parameters()
        if parameter.requires_grad
    }


@torch.no_grad()
def place_weights(weights: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    """Write values into the parameters in place."""
    for name, weight in weights.items():
        weight.copy_(values[name])
