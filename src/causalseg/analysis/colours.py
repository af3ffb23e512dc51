"""Features as colours: their first three principal components as red, green and blue."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_SPREAD = 4.0  # standard deviations of a component from black to full colour


def pca_colours(parts: Sequence[Float[Tensor, "h w c"]]) -> list[Int[np.ndarray, "h w 3"]]:
    """Return 8-bit colours of features and of parts of them, all in the basis of the first.

    Each part is centred; one scale for a component, so that a weak part is gray.
    """
    first = parts[0].flatten(0, 1).double()
    centred = first - first.mean(0)
    _, values, basis = torch.linalg.svd(centred, full_matrices=False)
    basis, scale = basis[:3], values[:3] / max(1, len(first) - 1) ** 0.5
    # The sign of a component is arbitrary: let its largest weight be positive.
    largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
    basis = basis * torch.where(largest < 0, -1.0, 1.0)
    pictures = []
    for part in parts:
        moved = part.flatten(0, 1).double()
        components = (moved - moved.mean(0)) @ basis.T / scale.clamp_min(1e-12)
        colours = torch.zeros(len(moved), 3, dtype=torch.float64)
        colours[:, : components.shape[1]] = components
        shown = (0.5 + colours / _SPREAD).clamp(0, 1).unflatten(0, part.shape[:2])
        pictures.append((255 * shown).round().to(torch.uint8).numpy())
    return pictures
