"""How sure a model is of each pixel, from its scores.

With p the class probabilities of a pixel, k classes, and p_m those of model m of several:

    confidence           max p
    entropy              H(p) = -sum p log p / log k, from 0 to 1
    energy               `Head.energy`: high where no known class explains the pixel
    mutual_information   H(mean of p_m) - mean of H(p_m), over models: high where they disagree
                         (Depeweg et al., ICML 2018); confidence and entropy are then of mean p_m
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from causalseg.heads.base import Head

Maps = dict[str, Float[Tensor, "H W"]]
"""Uncertainty of each pixel by name."""


def entropy(probabilities: Float[Tensor, "k H W"]) -> Float[Tensor, "H W"]:
    """Return the entropy over the classes as a fraction of its maximum; 0 for one class."""
    nats = -torch.special.xlogy(probabilities, probabilities).sum(0)
    return nats / math.log(max(2, len(probabilities)))


def measure(
    heads: Sequence[Head], scores: Sequence[Float[Tensor, "k H W"]]
) -> tuple[Float[Tensor, "k H W"], Maps]:
    """Return the mean class probabilities of one or several models, and their uncertainty."""
    each = [head.probabilities(its) for head, its in zip(heads, scores, strict=True)]
    mean = each[0] if len(each) == 1 else torch.stack(each).mean(0)
    maps = {"confidence": mean.amax(0), "entropy": entropy(mean)}
    energies = [head.energy(its) for head, its in zip(heads, scores, strict=True)]
    maps["energy"] = torch.stack(energies).mean(0)
    if len(each) > 1:
        within = torch.stack([entropy(p) for p in each]).mean(0)
        maps["mutual_information"] = (maps["entropy"] - within).clamp_min(0)
    return mean, maps
