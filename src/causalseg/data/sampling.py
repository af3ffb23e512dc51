"""Rare-class sampling: sampling weights by which images with rare classes are drawn more often.

DAFormer (Hoyer et al., CVPR 2022, arXiv 2111.14887) draws a class c, then one of its images. With
f_c the fraction of c among all labelled pixels, the sampling weight of image i is

    (1) P(c) = softmax over c of (1 - f_c) / T
    (2) p_i  = sum over the classes c of i of  P(c) / (number of images with c)

Counting reads every label once, before the first step, and no image file. An image without any
class is never drawn.
"""

from bisect import bisect_right
from collections.abc import Sized
from functools import partial
from typing import cast

import numpy as np
from jaxtyping import Float, Int
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from causalseg.config.data import RareClassesConfig
from causalseg.data.classes import IGNORE
from causalseg.data.dataset import PairData, Sample, resize_label
from causalseg.data.workers import compute_in_order
from causalseg.data.wrappers import CorruptedData, ResizedData
from causalseg.errors import DataError


def weigh_images(
    counts: Int[np.ndarray, "n k"], options: RareClassesConfig
) -> Float[np.ndarray, " n"]:
    """Return the sampling weight of every image, with sum 1, from its pixels of every class.

    Raises DataError if no image has enough pixels of any class.
    """
    has = counts >= options.min_pixels
    present = has.any(0)
    if not present.any():
        raise DataError(
            f"no image has {options.min_pixels} pixels of any class: set "
            "data.rare_classes.min_pixels lower"
        )
    fractions = counts.sum(0) / counts.sum()
    logits = np.where(present, (1 - fractions) / options.temperature, -np.inf)
    weights = np.exp(logits - logits.max())
    weights /= weights.sum()  # (1)
    per_image = np.divide(weights, has.sum(0), out=np.zeros_like(weights), where=present)
    return has @ per_image  # (2)


def count_pixels(
    data: Dataset[Sample], num_classes: int, workers: int = 0
) -> Int[np.ndarray, "n k"]:
    """Count the pixels of every class in every label, at the size of its file or `ResizedData`.

    ``workers`` is the number of processes that read labels; 0 reads in this one.
    """
    bar, length = Console(stderr=True), len(cast(Sized, data))
    counts = compute_in_order(partial(_count_label, data, num_classes), range(length), workers)
    counted = track(counts, "counting classes", length, console=bar, disable=not bar.is_terminal)
    return np.array(list(counted), dtype=np.int64).reshape(length, num_classes)


def _count_label(data: Dataset[Sample], num_classes: int, index: int) -> Int[np.ndarray, " k"]:
    label = _read_label(data, index)
    return np.bincount(label[label != IGNORE].numpy(), minlength=num_classes)


def _read_label(data: Dataset[Sample], index: int) -> Int[Tensor, "H W"]:
    """Return the label of a sample, without reading its image where possible."""
    match data:
        case PairData():
            return data.read_label(index)
        case ConcatDataset(datasets=parts, cumulative_sizes=ends):
            part = bisect_right(ends, index)
            return _read_label(parts[part], index - (ends[part - 1] if part else 0))
        case Subset(dataset=whole, indices=indices):
            return _read_label(whole, indices[index])
        case ResizedData(data=inner):
            label = _read_label(inner, index)
            return resize_label(label, data.size_of(label))
        case CorruptedData(data=inner):
            return _read_label(inner, index)
        case _:
            return data[index].label
