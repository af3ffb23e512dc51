"""The options of predicting and scoring images.

`InferenceConfig` is also what `causalseg.engine.infer` takes and what eval.json stores.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from causalseg.config.block import Block, Count, Positive, Size, Width
from causalseg.config.stages import COMPUTING, Stage
from causalseg.errors import ConfigError

Blend = Literal["mean", "hann"]
_SIZE_RULES = ("size", "shortest", "scale", "inside")
_OF_WINDOWS = ("window", "stride", "blend", "windows_at_once")
_IN_TRAINING = Stage.SCORES | Stage.COMPARE | Stage.TRAINING  # of intermediate evaluations


class InferenceConfig(Block):
    """How an image is predicted."""

    mode: Literal["slide", "whole"] = "slide"
    """slide averages the logits of overlapping windows, whole takes the whole image at once."""
    size: Size | None = None
    """Height and width in pixels that images are resized to; labels keep theirs. null keeps the
    size of the image."""
    shortest: Width | None = None
    """Instead of size: the shorter side in pixels after resizing; the aspect ratio is kept."""
    scale: Positive | None = None
    """Instead of size: factor by which both sides are resized."""
    inside: Size | None = None
    """Instead of size: height and width in pixels that images are resized to fit inside; the aspect
    ratio is kept, and height and width are swapped for portrait images."""
    window: Size | None = None
    """Height and width of the window in pixels; null takes the training crop. Along an axis on
    which the image is smaller, the window is the image padded to a multiple of the patch."""
    stride: Size | None = None
    """Step between windows in pixels, at most the window; null takes two thirds of the window."""
    blend: Blend = "mean"
    """Weights of overlapping windows: equal, or falling to the edges like a Hann window."""
    windows_at_once: Width = 2
    """Windows per batch; affects only speed and memory."""
    flip: bool = False
    """Average with the prediction of the mirrored image."""
    scales: Annotated[list[Positive], Field(min_length=1)] = [1.0]
    """Average predictions at these multiples of the size that the image was resized to."""

    def _find_mistakes(self) -> Iterator[str]:
        if self.mode == "whole":
            yield from self.find_idle(_OF_WINDOWS, "mode=whole")
        if self.window and (mistake := self.stride_mistake(self.window)):
            yield mistake
        rules = [name for name in _SIZE_RULES if getattr(self, name) is not None]
        if len(rules) > 1:
            yield f"{' and '.join(rules)} exclude each other: give one of them"

    def stride_mistake(self, window: tuple[int, int]) -> str | None:
        """Say why the stride does not fit a window of (height, width); None if it does."""
        if not self.stride or all(s <= w for s, w in zip(self.stride, window, strict=True)):
            return None
        return (
            f"stride = {list(self.stride)} leaves gaps between windows of {list(window)} pixels: "
            "it must be at most the window"
        )

    def resolve(self, crop: tuple[int, int] | None = None) -> "InferenceConfig":
        """Return the block with window and stride set if mode=slide.

        ``crop`` is the default of the window, in pixels; ConfigError if neither is given.
        """
        options = {name: getattr(self, name) for name in InferenceConfig.model_fields}
        if self.mode == "slide":
            window = self.window or crop
            if window is None:
                raise ConfigError("mode=slide needs a window: give one, or use mode=whole")
            stride = max(1, window[0] * 2 // 3), max(1, window[1] * 2 // 3)
            options |= {"window": window, "stride": self.stride or stride}
        return InferenceConfig(**options)

    def resized_to(self, size: tuple[int, int], keep_ratio: bool) -> Self:
        """Return the block with images resized to ``size``, or to fit inside it."""
        rules: dict[str, Any] = dict.fromkeys(_SIZE_RULES)
        rules["inside" if keep_ratio else "size"] = size
        return self.model_copy(update=rules)

    def describe(self) -> str:
        """Return how images are predicted, as a phrase for tables and reports."""
        text = "images " if self.mode == "slide" else "whole images "
        if self.size:
            text += f"resized to {_pixels(self.size)}"
        elif self.inside:
            text += f"resized to fit inside {_pixels(self.inside)}"
        elif self.shortest:
            text += f"resized to a shortest edge of {self.shortest} px"
        elif self.scale:
            text += f"resized by {self.scale}"
        else:
            text += "at the sizes of their domains"
        if self.window and self.stride:
            blend = "blended by a Hann window" if self.blend == "hann" else "averaged"
            text += f", in windows of {_pixels(self.window)} every {_pixels(self.stride)}, {blend}"
        if self.scales != [1.0]:
            text += f", averaged over scales {', '.join(map(str, self.scales))}"
        return text + (", averaged with the mirrored image" if self.flip else "")


class EvalConfig(InferenceConfig):
    """Inference and scoring."""

    every: Annotated[Count | None, _IN_TRAINING] = None
    """Steps between evaluations during training; null evaluates only at the end."""
    limit: Annotated[Count | None, _IN_TRAINING] = None
    """Maximum number of images per domain in intermediate evaluations; the final one uses all."""
    pictures: Annotated[int, Field(ge=0), COMPUTING] = 3
    """Example images per domain in the report, evenly spaced; unless 0, those with the best, the
    median and the lowest mIoU are added."""

    def _find_mistakes(self) -> Iterator[str]:
        yield from super()._find_mistakes()
        if self.limit is not None and self.every is None:
            yield "limit has no effect without every: give eval.every"


def _pixels(size: tuple[int, int]) -> str:
    """Return (height, width) as people write it, width first."""
    return f"{size[1]} × {size[0]} px"
