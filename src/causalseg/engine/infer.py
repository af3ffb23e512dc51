"""Scores of images of any size, at any size.

    whole    the image, padded to a multiple of the patch, at once
    slide    windows that cover the image, the last ones moved back inside; at every pixel
                 score_k = sum over windows of w logits_k / sum over windows of w

    mean     w = 1
    hann     w = sin^2(pi (i + 1/2) / n) at pixel i of n, on both axes: never 0, small at the edges

On an axis on which the window does not fit, the one window is the image, padded as in `whole`. w is
a product over both axes and so is its sum: every window is weighted by its fraction before it is
added. All sums are in float32 and in place: for any number of windows there is one map of k x H x W
an image (a second one for further scales and mirrors), and the windows of one batch.
"""

import math
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from causalseg.config.inference import Blend, InferenceConfig
from causalseg.data.dataset import fit_inside, scale_size
from causalseg.errors import TrainingError
from causalseg.heads.pyramid import resize
from causalseg.model import Segmenter


def predict(
    model: Segmenter,
    image: Float[Tensor, "3 H W"],
    how: InferenceConfig,
    out: tuple[int, int] | None = None,
) -> Float[Tensor, "k H W"]:
    """Return the scores of one image, as `predict_batch`."""
    return predict_batch(model, image[None], how, out)[0]


@torch.inference_mode()
def predict_batch(
    model: Segmenter,
    images: Float[Tensor, "b 3 H W"],
    how: InferenceConfig,
    out: tuple[int, int] | None = None,
) -> Float[Tensor, "b k H W"]:
    """Return the float32 scores of images of any one size, RGB in [0, 1], by a model in eval mode.

    ``out`` is the height and width of the result; None takes the images'. Raises ConfigError if
    mode is slide and the window is missing.
    """
    how = how.resolve()
    H, W = images.shape[-2:]
    size = model_size(how, H, W)
    first, *others = product(how.scales, (False, True) if how.flip else (False,))
    total = resize(_predict_at(model, images, how, scale_size(size, first[0])), out or (H, W))
    for scale, is_mirrored in others:
        view = images.flip(-1) if is_mirrored else images
        _add(total, _predict_at(model, view, how, scale_size(size, scale)), is_mirrored)
    return total.div_(1 + len(others))


def check_scores(scores: Float[Tensor, "..."]) -> None:
    """Raise TrainingError if a score is not finite."""
    if not scores.isfinite().all():
        raise TrainingError(
            "the model's scores are not finite: its weights are broken, or values overflow; "
            "train again with a lower train.lr, or try run.precision=32-true"
        )


def model_size(how: InferenceConfig, H: int, W: int) -> tuple[int, int]:
    """Return the height and width to which an image of H x W pixels is resized."""
    if how.size is not None:
        return how.size
    if how.inside is not None:
        return fit_inside((H, W), how.inside)
    if how.shortest is not None:
        return scale_size((H, W), how.shortest / min(H, W))
    return scale_size((H, W), how.scale or 1.0)


def _predict_at(
    model: Segmenter, images: Float[Tensor, "b 3 _ _"], how: InferenceConfig, size: tuple[int, int]
) -> Float[Tensor, "b k H W"]:
    """Score images that are resized to ``size``, at that size."""
    (H, W), patch = size, model.backbone.patch
    h, w = -(-H // patch) * patch, -(-W // patch) * patch  # one window: the padded image
    if how.window is not None:
        h = how.window[0] if how.window[0] <= H else h
        w = how.window[1] if how.window[1] <= W else w
    images = resize(images, size, antialias=True)
    below, right = max(0, h - H), max(0, w - W)
    if below or right:
        images = F.pad(images, (0, right, 0, below), mode="replicate")
    return _slide(model, images, (h, w), how)[..., :H, :W]


def _slide(
    model: Segmenter,
    images: Float[Tensor, "b 3 H W"],
    window: tuple[int, int],
    how: InferenceConfig,
) -> Float[Tensor, "b k H W"]:
    """Average the logits of overlapping windows; images are at least as large as a window."""
    H, W = images.shape[-2:]
    h, w = window
    if (h, w) == (H, W):
        return model.logits(images).float()
    assert how.stride is not None
    tops, lefts = window_starts(H, h, how.stride[0]), window_starts(W, w, how.stride[1])
    rows = [weights.to(images.device) for weights in window_weights(H, h, tops, how.blend)]
    columns = [weights.to(images.device) for weights in window_weights(W, w, lefts, how.blend)]
    places = (range(len(images)), zip(tops, rows, strict=True), zip(lefts, columns, strict=True))
    windows = list(product(*places))
    total: Tensor | None = None
    for start in range(0, len(windows), how.windows_at_once):
        batch = windows[start : start + how.windows_at_once]
        crops = [images[n, :, top : top + h, left : left + w] for n, (top, _), (left, _) in batch]
        logits = model.logits(torch.stack(crops)).float()
        if total is None:
            total = logits.new_zeros(len(images), logits.shape[1], H, W)
        for (n, (top, row), (left, column)), scores in zip(batch, logits, strict=True):
            target = total[n, :, top : top + h, left : left + w]
            target.addcmul_(scores, row[:, None] * column)
        del logits, scores  # before the next batch is made
    assert total is not None
    return total


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return the first pixel of every window on one axis; the last window ends at the edge."""
    steps = max(0, -(-(length - window) // stride))
    return [min(i * stride, length - window) for i in range(steps + 1)]


def window_weights(
    length: int, window: int, starts: list[int], blend: Blend
) -> list[Float[Tensor, " n"]]:
    """Return each window's weights at its n pixels along one axis; at every pixel they sum to 1."""
    weight = torch.ones(window, dtype=torch.float64)
    if blend == "hann":
        middle = torch.arange(window, dtype=torch.float64) + 0.5  # of each pixel
        weight = torch.sin(math.pi * middle / window) ** 2
    total = torch.zeros(length, dtype=torch.float64)
    for start in starts:
        total[start : start + window] += weight
    return [(weight / total[start : start + window]).float() for start in starts]


def _add(
    total: Float[Tensor, "b k H W"], scores: Float[Tensor, "b k _ _"], is_mirrored: bool
) -> None:
    """Add scores to ``total`` at its size: class by class, so that no resized map is kept."""
    size = (total.shape[-2], total.shape[-1])
    for target, plane in zip(total.split(1, 1), scores.split(1, 1), strict=True):
        resized = resize(plane, size)
        target += resized.flip(-1) if is_mirrored else resized
