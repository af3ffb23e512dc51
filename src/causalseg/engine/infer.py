"""From one image of any size to scores at its own size.

`whole` pads the image to a multiple of the patch and predicts it at once. `slide` covers it with
windows, the last ones pushed back inside, and averages the logits where they overlap. Both may be
averaged over scales and the mirrored image.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from causalseg.errors import ConfigError
from causalseg.model import Segmenter

_WINDOWS_AT_ONCE = 4


@dataclass(frozen=True)
class Inference:
    """How an image is predicted.

    Args:
        mode: `slide` or `whole`.
        window: height and width of a window in pixels, divisible by the patch.
        stride: step between windows.
        size: height and width the image is resized to first; None keeps it.
        flip: average with the mirrored image.
        scales: average over the image at these scales.

    Raises:
        ConfigError: if the stride is below 1 or leaves pixels between windows.
    """

    mode: Literal["slide", "whole"] = "slide"
    window: tuple[int, int] = (512, 512)
    stride: tuple[int, int] = (341, 341)
    size: tuple[int, int] | None = None
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        steps = zip(self.stride, self.window, strict=True)
        if self.mode == "slide" and not all(1 <= stride <= window for stride, window in steps):
            raise ConfigError(
                f"eval.stride = {list(self.stride)} with eval.window = {list(self.window)}: the "
                "stride is 1 at least, and at most the window, or pixels would be left out"
            )

    @torch.inference_mode()
    def __call__(
        self,
        model: Segmenter,
        image: Float[Tensor, "3 H W"],
        out: tuple[int, int] | None = None,
    ) -> Float[Tensor, "k H W"]:
        """Return the scores of every class and pixel.

        Args:
            model: in eval mode.
            image: RGB in [0, 1], any size.
            out: height and width of the result; None takes the image's.
        """
        out = out or (image.shape[1], image.shape[2])
        base = self.size or (image.shape[1], image.shape[2])
        scores = []
        for scale in self.scales:
            size = (max(1, round(base[0] * scale)), max(1, round(base[1] * scale)))
            resized = image[None] if size == image.shape[1:] else _resize(image[None], size, True)
            scores.append(_resize(self._at_one_scale(model, resized), out, False))
            if self.flip:
                mirrored = self._at_one_scale(model, resized.flip(-1)).flip(-1)
                scores.append(_resize(mirrored, out, False))
        return torch.stack(scores).mean(0)[0]

    def _at_one_scale(
        self, model: Segmenter, image: Float[Tensor, "1 3 H W"]
    ) -> Float[Tensor, "1 k H W"]:
        H, W = image.shape[-2:]
        if self.mode == "whole":
            patch = model.backbone.patch
            padded = _pad(image, (-(-H // patch) * patch, -(-W // patch) * patch))
            return model.logits(padded)[..., :H, :W]
        image = _pad(image, (max(H, self.window[0]), max(W, self.window[1])))
        return slide(model, image, self.window, self.stride)[..., :H, :W]


def slide(
    model: Segmenter,
    image: Float[Tensor, "1 3 H W"],
    window: tuple[int, int],
    stride: tuple[int, int],
) -> Float[Tensor, "1 k H W"]:
    """Average the logits of overlapping windows; the image is at least a window large."""
    H, W = image.shape[-2:]
    places = [
        (top, left)
        for top in window_starts(H, window[0], stride[0])
        for left in window_starts(W, window[1], stride[1])
    ]
    total: Tensor | None = None
    count = image.new_zeros(1, 1, H, W)
    for start in range(0, len(places), _WINDOWS_AT_ONCE):
        chunk = places[start : start + _WINDOWS_AT_ONCE]
        crops = [image[0, :, t : t + window[0], x : x + window[1]] for t, x in chunk]
        logits = model.logits(torch.stack(crops))
        if total is None:
            total = logits.new_zeros(1, logits.shape[1], H, W)
        for (t, x), scores in zip(chunk, logits, strict=True):
            total[0, :, t : t + window[0], x : x + window[1]] += scores
            count[..., t : t + window[0], x : x + window[1]] += 1
    assert total is not None
    return total / count


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return the first pixel of every window on one axis; the last window ends at the edge."""
    steps = max(0, -(-(length - window) // stride))
    return [min(i * stride, length - window) for i in range(steps + 1)]


def _resize(x: Tensor, size: tuple[int, int], antialias: bool) -> Tensor:
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=antialias)


def _pad(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Repeat the last row and column up to ``size``."""
    below, right = size[0] - image.shape[-2], size[1] - image.shape[-1]
    return F.pad(image, (0, right, 0, below), mode="replicate") if below or right else image
