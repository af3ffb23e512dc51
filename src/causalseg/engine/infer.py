"""From one image of any size to scores at any size.

    whole    the image, padded to a multiple of the patch, at once
    slide    windows that cover the image, the last ones pushed back inside; at every pixel
                 score_k = sum over windows of w logits_k / sum over windows of w

    mean     w = 1
    hann     w = sin^2(pi (i + 1/2) / n) at pixel i of n, on both axes: never 0, small at the edges

On an axis on which the window does not fit, the one window is the image, padded to a multiple of
the patch as in `whole`. Windows stand on a grid and w is a product over both axes, so the sum of w
is one, too, and every window is weighted by its share before it is added.

Scores may be averaged over scales and the mirrored image. All sums are in float32 and in place: at
any number of windows there is one map of k x H x W (a second one for further scales and mirrors),
and the windows of one batch.
"""

import math
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from causalseg.data.dataset import fit_inside, scale_size
from causalseg.errors import ConfigError
from causalseg.model import Segmenter

Blend = Literal["mean", "hann"]


@dataclass(frozen=True)
class Inference:
    """How an image is predicted.

    Args:
        mode: `slide` or `whole`.
        window: height and width of a window in pixels, divisible by the patch.
        stride: step between windows.
        size: height and width the image is resized to first. Of `size`, `inside`, `shortest` and
            `scale` the first that is not None counts; without any the image keeps its size.
        inside: height and width that the image is fit inside, in proportion; turned for images
            that stand upright.
        shortest: the shorter side becomes this many pixels, the longer one in proportion.
        scale: both sides become this many times as long.
        flip: average with the mirrored image.
        scales: average over the image at these multiples of the size that it has by then.
        blend: how windows are weighted where they overlap: `mean` or `hann`.
        windows_at_once: windows that go through the model as one batch.

    Raises:
        ConfigError: if the stride is below 1 or leaves pixels between windows, or no window goes
            through the model.
    """

    mode: Literal["slide", "whole"] = "slide"
    window: tuple[int, int] = (512, 512)
    stride: tuple[int, int] = (341, 341)
    size: tuple[int, int] | None = None
    inside: tuple[int, int] | None = None
    shortest: int | None = None
    scale: float | None = None
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    blend: Blend = "mean"
    windows_at_once: int = 2

    def __post_init__(self) -> None:
        steps = zip(self.stride, self.window, strict=True)
        if self.mode == "slide" and not all(1 <= stride <= window for stride, window in steps):
            raise ConfigError(
                f"eval.stride = {list(self.stride)} with eval.window = {list(self.window)}: the "
                "stride is 1 at least, and at most the window, or pixels would be left out"
            )
        if self.windows_at_once < 1:
            raise ConfigError(f"eval.windows_at_once = {self.windows_at_once}: must be 1 or more")

    @torch.inference_mode()
    def __call__(
        self,
        model: Segmenter,
        image: Float[Tensor, "3 H W"],
        out: tuple[int, int] | None = None,
    ) -> Float[Tensor, "k H W"]:
        """Return the scores of every class and pixel, in float32.

        Args:
            model: in eval mode.
            image: RGB in [0, 1], any size.
            out: height and width of the result; None takes the image's.
        """
        H, W = image.shape[-2:]
        size = self.model_size(H, W)
        first, *others = product(self.scales, (False, True) if self.flip else (False,))
        total = _resize(self._predict(model, image, scale_size(size, first[0])), out or (H, W))
        for scale, is_mirrored in others:
            seen = image.flip(-1) if is_mirrored else image
            _add(total, self._predict(model, seen, scale_size(size, scale)), is_mirrored)
        return total.div_(1 + len(others))[0]

    def model_size(self, H: int, W: int) -> tuple[int, int]:
        """Return the height and width to which an image of H x W pixels is resized."""
        if self.size is not None:
            return self.size
        if self.inside is not None:
            return fit_inside((H, W), self.inside)
        if self.shortest is not None:
            return scale_size((H, W), self.shortest / min(H, W))
        return scale_size((H, W), self.scale or 1.0)

    def _predict(
        self, model: Segmenter, image: Float[Tensor, "3 _ _"], size: tuple[int, int]
    ) -> Float[Tensor, "1 k H W"]:
        """Score an image that is resized to ``size``, at that size."""
        H, W = size
        resized = _resize(image[None], size, antialias=True)
        window = self._fitting_window(size, model.backbone.patch)
        padded = _pad(resized, (max(H, window[0]), max(W, window[1])))
        scores = slide(model, padded, window, self.stride, self.blend, self.windows_at_once)
        return scores[..., :H, :W]

    def _fitting_window(self, size: tuple[int, int], patch: int) -> tuple[int, int]:
        """Return the window, or on an axis where it does not fit the image up to the patch."""
        up = (-(-size[0] // patch) * patch, -(-size[1] // patch) * patch)
        if self.mode == "whole":
            return up
        height, width = self.window
        return height if height <= size[0] else up[0], width if width <= size[1] else up[1]


def slide(
    model: Segmenter,
    image: Float[Tensor, "1 3 H W"],
    window: tuple[int, int],
    stride: tuple[int, int],
    blend: Blend = "mean",
    windows_at_once: int = 2,
) -> Float[Tensor, "1 k H W"]:
    """Average the logits of overlapping windows; the image is at least a window large."""
    H, W = image.shape[-2:]
    h, w = window
    if (h, w) == (H, W):
        return model.logits(image).float()
    tops, lefts = window_starts(H, h, stride[0]), window_starts(W, w, stride[1])
    rows = [share.to(image.device) for share in window_shares(H, h, tops, blend)]
    columns = [share.to(image.device) for share in window_shares(W, w, lefts, blend)]
    places = list(product(zip(tops, rows, strict=True), zip(lefts, columns, strict=True)))
    total: Tensor | None = None
    for start in range(0, len(places), windows_at_once):
        chunk = places[start : start + windows_at_once]
        crops = [image[0, :, top : top + h, left : left + w] for (top, _), (left, _) in chunk]
        logits = model.logits(torch.stack(crops)).float()
        if total is None:
            total = logits.new_zeros(1, logits.shape[1], H, W)
        for ((top, row), (left, column)), scores in zip(chunk, logits, strict=True):
            place = total[0, :, top : top + h, left : left + w]
            place.addcmul_(scores, row[:, None] * column)
        del logits, scores  # before the next batch is made
    assert total is not None
    return total


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return the first pixel of every window on one axis; the last window ends at the edge."""
    steps = max(0, -(-(length - window) // stride))
    return [min(i * stride, length - window) for i in range(steps + 1)]


def window_shares(
    length: int, window: int, starts: list[int], blend: Blend
) -> list[Float[Tensor, " n"]]:
    """Return for every window on one axis its share in the average at each of its n pixels.

    The shares of all windows in a pixel sum to 1; one that is alone there has exactly 1.
    """
    weight = torch.ones(window, dtype=torch.float64)
    if blend == "hann":
        middle = torch.arange(window, dtype=torch.float64) + 0.5  # of each pixel
        weight = torch.sin(math.pi * middle / window) ** 2
    total = torch.zeros(length, dtype=torch.float64)
    for start in starts:
        total[start : start + window] += weight
    return [(weight / total[start : start + window]).float() for start in starts]


def _add(
    total: Float[Tensor, "1 k H W"], scores: Float[Tensor, "1 k _ _"], is_mirrored: bool
) -> None:
    """Add scores to ``total`` at its size: class by class, so that no resized map is held."""
    size = (total.shape[-2], total.shape[-1])
    for target, plane in zip(total.split(1, 1), scores.split(1, 1), strict=True):
        resized = _resize(plane, size)
        target += resized.flip(-1) if is_mirrored else resized


def _resize(x: Tensor, size: tuple[int, int], antialias: bool = False) -> Tensor:
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=antialias)


def _pad(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Repeat the last row and column up to ``size``."""
    below, right = size[0] - image.shape[-2], size[1] - image.shape[-1]
    return F.pad(image, (0, right, 0, below), mode="replicate") if below or right else image
