"""Class weights and logit adjustment, for classes that are rare in the training labels.

With f_c the fraction of class c among the labelled pixels of the sources:

    weights      w_c = 1 / ln(1.02 + f_c), divided by the mean over pixels, sum over c of f_c w_c
    adjustment   s_c = tau * log(f_c)

The weights are ENet's (Paszke et al., 2016, arXiv 1606.02147) up to their scale. The adjustment
(Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, arXiv 2007.07314) is added to
the logits in the training loss, or subtracted from them when predicting; either way common classes
are no longer favoured. It counts a class without pixels as having one, so that s_c is finite.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from causalseg.config.heads import BalancedConfig
from causalseg.errors import DataError

_SMOOTHING = 1.02  # ENet's constant: it bounds the weight of a class that hardly occurs


class ClassBalance(nn.Module):
    """Class weights and logit adjustment of a head, from the pixels of every class.

    Before the pixels are counted, all classes are equally common. The counts are saved with the
    head if they are used.
    """

    pixels: Int[Tensor, " k"]

    def __init__(self, num_classes: int, options: BalancedConfig) -> None:
        super().__init__()
        self.has_weights = options.class_weights == "auto"
        self.adjustment = options.logit_adjustment
        self.is_used = self.has_weights or self.adjustment is not None
        # Integers: converting a model to half precision leaves them as they are.
        pixels = torch.ones(num_classes, dtype=torch.int64) if self.is_used else None
        self.register_buffer("pixels", pixels)

    def count(self, pixels: Int[np.ndarray, " k"]) -> None:
        """Set the labelled pixels of every class; raise DataError if there are none."""
        if not pixels.any():
            raise DataError(
                "no pixel of the sources has a class, which head.class_weights and "
                "head.logit_adjustment need: check labels and class mapping with `causalseg data "
                "check`"
            )
        self.pixels.copy_(torch.from_numpy(pixels))

    def weights(self) -> Float[Tensor, " k"] | None:
        """Return the weights of the classes in the loss; None if they are off."""
        if not self.has_weights:
            return None
        fractions = self.pixels / self.pixels.sum()
        weights = 1 / (_SMOOTHING + fractions).log()
        return weights / (fractions * weights).sum()

    def shift(self, at: Literal["loss", "inference"]) -> Float[Tensor, " k"] | None:
        """Return the adjustment s of the logits; None if they are not adjusted there."""
        if self.adjustment is None or at != self.adjustment.at:
            return None
        return self.adjustment.tau * (self.pixels.clamp(min=1) / self.pixels.sum()).log()
