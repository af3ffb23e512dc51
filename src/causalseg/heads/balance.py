"""What a head does about classes that are rare in the training labels.

With f_c the fraction of class c among the labelled pixels of the sources:

    weights      w_c = 1 / ln(1.02 + f_c), divided by sum over c of f_c w_c: a pixel's mean is 1
    adjustment   s_c = tau * log(f_c)

The weights are ENet's (Paszke et al., 2016, arXiv 1606.02147) but for their scale. The adjustment
(Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, arXiv 2007.07314) is added to
the logits in the training loss, or subtracted from them when predicting; either way common classes
are no longer favoured. There a class without pixels counts as having one, so that s_c is finite.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from causalseg.errors import DataError

_SMOOTHING = 1.02  # ENet's constant: it bounds the weight of a class that is next to never there


class ClassBalance(nn.Module):
    """Class weights and logit adjustment of a head, from the pixels of every class.

    Until the pixels are counted all classes are as common as each other. The counts are saved with
    the head, where one of the two is used.

    Args:
        num_classes: k.
        has_weights: Whether the classes have weights in the loss.
        tau: Strength of the adjustment; 0 is none.
        at: Where the logits are adjusted: in the training `loss` or at `inference`.

    Attributes:
        is_used: Whether anything depends on the pixels.
    """

    pixels: Int[Tensor, " k"]

    def __init__(
        self,
        num_classes: int,
        has_weights: bool = False,
        tau: float = 0.0,
        at: Literal["loss", "inference"] = "loss",
    ) -> None:
        super().__init__()
        self.has_weights, self.tau, self.at = has_weights, tau, at
        self.is_used = has_weights or tau > 0
        # Integers: conversion of a model to half precision leaves them as they are.
        pixels = torch.ones(num_classes, dtype=torch.int64) if self.is_used else None
        self.register_buffer("pixels", pixels)

    def count(self, pixels: Int[np.ndarray, " k"]) -> None:
        """Take the labelled pixels of every class.

        Raises:
            DataError: If there is none.
        """
        if not pixels.any():
            raise DataError(
                "no pixel of the sources has a class, so head.class_weights and "
                "head.logit_adjustment have nothing to go by: check the labels and their class "
                "mapping with `causalseg data check`"
            )
        self.pixels.copy_(torch.from_numpy(pixels))

    def weights(self) -> Float[Tensor, " k"] | None:
        """Return the weights of the classes in the loss; None if they have none."""
        if not self.has_weights:
            return None
        fractions = self.pixels / self.pixels.sum()
        weights = 1 / (_SMOOTHING + fractions).log()
        return weights / (fractions * weights).sum()

    def shift(self, at: Literal["loss", "inference"]) -> Float[Tensor, " k"] | None:
        """Return the adjustment s of the logits; None if they are not adjusted there."""
        if self.tau == 0 or at != self.at:
            return None
        return self.tau * (self.pixels.clamp(min=1) / self.pixels.sum()).log()
