"""Shared by the losses of all heads: valid labels, and counts over all processes."""

from jaxtyping import Float, Int
from torch import Tensor, distributed

from causalseg.data.classes import IGNORE
from causalseg.errors import DataError


def mean_over_processes(count: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Average a count over all processes.

    Gradients are averaged, too: a sum of losses divided by this mean has the gradient of one
    process with the whole batch.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return count
    total = count.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def check_labels(labels: Int[Tensor, "b H W"], num_classes: int) -> None:
    """Raise DataError if a label is neither a class 0..k-1 nor 255."""
    wrong = labels[((labels < 0) | (labels >= num_classes)) & (labels != IGNORE)]
    if len(wrong):
        raise DataError(
            f"labels contain {wrong.unique().tolist()}; allowed are 0 to {num_classes - 1}, and "
            f"{IGNORE} for ignored pixels: check the class mapping of the data set"
        )
