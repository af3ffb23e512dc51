"""Inference: windows cover the image, averages are averages, sizes come out right."""

import pytest
import torch
from torch import nn

from causalseg.engine.infer import Inference, slide, window_starts
from causalseg.errors import ConfigError


class Echo(nn.Module):
    """A model whose logits are the image itself: what comes out shows where it went."""

    class backbone:  # noqa: N801
        patch = 16

    def __init__(self):
        super().__init__()
        self.sizes = []

    def logits(self, images):
        self.sizes.append(tuple(images.shape))
        return images


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [
        (10, 4, 3, [0, 3, 6]),
        (11, 4, 3, [0, 3, 6, 7]),
        (4, 4, 3, [0]),
        (960, 512, 341, [0, 341, 448]),
        (540, 512, 341, [0, 28]),
    ],
)
def test_windows_start_every_stride_and_the_last_ends_at_the_edge(length, window, stride, starts):
    assert window_starts(length, window, stride) == starts


@pytest.mark.parametrize("mode", ["slide", "whole"])
@pytest.mark.parametrize("size", [(48, 64), (50, 70), (20, 100)])
def test_every_pixel_comes_back_to_its_place(mode, size):
    image = torch.rand(3, *size)
    scores = Inference(mode, window=(32, 48), stride=(20, 30))(Echo(), image)
    assert torch.allclose(scores, image, atol=1e-6)


def test_whole_pads_to_the_patch_and_slide_uses_windows():
    echo = Echo()
    Inference("whole")(echo, torch.rand(3, 50, 70))
    Inference("slide", window=(32, 48), stride=(32, 48))(echo, torch.rand(3, 64, 96))
    assert echo.sizes == [(1, 3, 64, 80), (4, 3, 32, 48)]


def test_overlapping_windows_are_averaged():
    class Count(Echo):
        def logits(self, images):
            self.calls = getattr(self, "calls", 0) + len(images)
            numbers = torch.arange(self.calls - len(images), self.calls)
            return numbers[:, None, None, None].expand(images.shape).float()

    scores = slide(Count(), torch.rand(1, 3, 32, 48), (32, 32), (32, 16))
    assert scores[0, 0, 0].tolist() == [0.0] * 16 + [0.5] * 16 + [1.0] * 16


def test_flip_and_scales_average_predictions_of_the_whole():
    image = torch.rand(3, 48, 64)
    plain = Inference("whole")(Echo(), image)
    assert torch.allclose(Inference("whole", flip=True)(Echo(), image), plain, atol=1e-6)
    echo = Echo()
    scores = Inference("whole", flip=True, scales=(0.5, 1.0))(echo, image)
    assert [shape[-2:] for shape in echo.sizes] == [(32, 32), (32, 32), (48, 64), (48, 64)]
    assert scores.shape == (3, 48, 64)


def test_the_image_is_resized_for_the_model_and_scores_to_the_label():
    echo = Echo()
    scores = Inference("whole", size=(32, 48))(echo, torch.rand(3, 64, 96), out=(128, 192))
    assert echo.sizes == [(1, 3, 32, 48)]
    assert scores.shape == (3, 128, 192)


@pytest.mark.parametrize("options", [{"stride": (0, 8)}, {"window": (32, 32), "stride": (40, 8)}])
def test_strides_that_skip_pixels_are_refused(options):
    with pytest.raises(ConfigError, match="stride"):
        Inference("slide", **{"window": (32, 32), **options})
