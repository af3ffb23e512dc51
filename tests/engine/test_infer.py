"""Inference: windows cover the image, averages are averages, sizes and memory come out right."""

import math
from dataclasses import replace
from itertools import combinations, product

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from causalseg.build.model import build_inference, build_segmenter
from causalseg.engine.infer import Inference, slide, window_shares, window_starts
from causalseg.errors import ConfigError
from causalseg.heads.mask2former import DecoderSize, Mask2FormerHead


class Echo(nn.Module):
    """A model whose logits are the image itself: what comes out shows where it went."""

    class backbone:  # noqa: N801
        patch = 16

    def __init__(self):
        super().__init__()
        self.sizes = []

    def logits(self, images):
        self.sizes.append(tuple(images.shape))
        return images.clone()


class Ramp(Echo):
    """Five classes; a logit depends on the pixel's value and on its place in the window."""

    def logits(self, images):
        h, w = images.shape[-2:]
        place = torch.arange(h * w, dtype=images.dtype).reshape(h, w) / (h * w)
        return torch.cat([images, images[:, :2]], 1) * place.sin() + place


class Memory(TorchDispatchMode):
    """Counts the numbers held by tensors made within: most at once, and most in one."""

    def __init__(self):
        super().__init__()
        self.living, self.peak, self.largest = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.living[StorageWeakRef(storage)] = storage.nbytes() // tensor.element_size()
        self.living = {ref: size for ref, size in self.living.items() if not ref.expired()}
        self.peak = max(self.peak, sum(self.living.values()))
        self.largest = max(self.largest, *self.living.values(), 0)
        return result


@pytest.fixture
def model(tiny):
    return build_segmenter(tiny()).eval()


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


@pytest.mark.parametrize(
    "options", [{"mode": "whole"}, {"mode": "slide"}, {"mode": "slide", "blend": "hann"}]
)
@pytest.mark.parametrize("size", [(48, 64), (50, 70), (20, 100)])
def test_every_pixel_comes_back_to_its_place(options, size):
    image = torch.rand(3, *size)
    scores = Inference(**options, window=(32, 48), stride=(20, 30), flip=True)(Echo(), image)
    assert torch.allclose(scores, image, atol=1e-6)


def test_whole_pads_to_the_patch_and_slide_uses_windows():
    echo = Echo()
    Inference("whole")(echo, torch.rand(3, 50, 70))
    Inference("slide", window=(32, 48), stride=(32, 48))(echo, torch.rand(3, 64, 96))
    assert echo.sizes == [(1, 3, 64, 80), (2, 3, 32, 48), (2, 3, 32, 48)]


def test_a_window_that_does_not_fit_becomes_the_image_padded_to_the_patch():
    echo = Echo()
    Inference("slide", window=(96, 32), stride=(64, 32))(echo, torch.rand(3, 50, 64))
    Inference("slide", window=(96, 96), stride=(64, 64))(echo, torch.rand(3, 50, 70))
    assert echo.sizes == [(2, 3, 64, 32), (1, 3, 64, 80)]


@pytest.mark.parametrize("blend", ["mean", "hann"])
def test_a_window_larger_than_the_image_is_the_whole_image(model, blend):
    image = torch.rand(3, 50, 70)
    scores = Inference("slide", window=(96, 96), stride=(64, 64), blend=blend)(model, image)
    assert torch.equal(scores, Inference("whole")(model, image))


@pytest.mark.parametrize("blend", ["mean", "hann"])
def test_windows_side_by_side_are_whole_predictions_of_the_tiles(model, blend):
    image = torch.rand(3, 64, 96)
    windows = Inference(window=(32, 48), stride=(32, 48), blend=blend, windows_at_once=1)
    scores = windows(model, image)
    for top, left in product((0, 32), (0, 48)):
        tile = (slice(None), slice(top, top + 32), slice(left, left + 48))
        assert torch.equal(scores[tile], Inference("whole")(model, image[tile]))


def test_overlapping_windows_are_averaged():
    class Count(Echo):
        def logits(self, images):
            self.calls = getattr(self, "calls", 0) + len(images)
            numbers = torch.arange(self.calls - len(images), self.calls)
            return numbers[:, None, None, None].expand(images.shape).float()

    scores = slide(Count(), torch.rand(1, 3, 32, 48), (32, 32), (32, 16))
    assert scores[0, 0, 0].tolist() == [0.0] * 16 + [0.5] * 16 + [1.0] * 16


def slow_slide(model, image, window, stride, blend):
    """Windows one by one and weights pixel by pixel, in float64."""
    weight = torch.ones(window, dtype=torch.float64)
    if blend == "hann":
        pixels = [torch.arange(n, dtype=torch.float64) for n in window]
        rows, columns = (
            (1 - torch.cos(2 * torch.pi * (i + 0.5) / len(i))) / 2 for i in pixels
        )  # sin^2 x = (1 - cos 2x) / 2
        weight = torch.outer(rows, columns)
    H, W = image.shape[-2:]
    total = torch.zeros(5, H, W, dtype=torch.float64)
    count = torch.zeros(H, W, dtype=torch.float64)
    tops = [*range(0, H - window[0], stride[0]), H - window[0]]
    lefts = [*range(0, W - window[1], stride[1]), W - window[1]]
    for top, left in product(tops, lefts):
        place = (..., slice(top, top + window[0]), slice(left, left + window[1]))
        total[place] += weight * model.logits(image[place].double())[0]
        count[place] += weight
    return total / count


@pytest.mark.parametrize("blend", ["mean", "hann"])
@pytest.mark.parametrize("stride", [(5, 4), (11, 17), (1, 9)])
def test_averaged_logits_equal_a_slow_loop_in_double_precision(blend, stride):
    image = torch.rand(1, 3, 37, 53)
    scores = slide(Ramp(), image, (11, 17), stride, blend, windows_at_once=3)
    assert torch.allclose(scores[0].double(), slow_slide(Ramp(), image, (11, 17), stride, blend))


def test_hann_shares_sum_to_one_and_are_never_zero():
    shares = window_shares(20, 8, [0, 6, 12], "hann")
    total = torch.zeros(20)
    for start, share in zip([0, 6, 12], shares, strict=True):
        total[start : start + 8] += share
        assert share.min() > 0
    assert torch.allclose(total, torch.ones(20))
    outer, inner = math.sin(math.pi / 16) ** 2, math.sin(3 * math.pi / 16) ** 2
    assert shares[1][:3].tolist() == pytest.approx(  # the first window ends at pixel 7
        [outer / (outer + inner), inner / (outer + inner), 1]
    )


@pytest.mark.parametrize("count", [2, 5, 100])
def test_windows_in_batches_score_as_one_by_one(model, count):
    image = torch.rand(3, 64, 80)
    windows = Inference(window=(32, 48), stride=(16, 20), windows_at_once=1)
    batched = replace(windows, windows_at_once=count)
    assert torch.allclose(batched(model, image), windows(model, image), atol=1e-5)
    echo = Echo()
    batched(echo, image)
    assert sum(shape[0] for shape in echo.sizes) == 9
    assert echo.sizes[0][0] == min(count, 9)


def peak(inference):
    """Numbers held at once, beyond the image, by predicting three classes."""
    image = torch.rand(3, 64, 80)
    with torch.inference_mode(), Memory() as memory:
        inference(Echo(), image)
    return memory.peak - image.numel()


SMALL_WINDOWS = Inference(window=(8, 8), stride=(8, 8), windows_at_once=2)
SCORES, BATCH = 3 * 64 * 80, 2 * 3 * 8 * 8  # numbers; the image and its crops have as many


def test_memory_does_not_grow_with_the_number_of_windows():
    few, many = (peak(replace(SMALL_WINDOWS, stride=(n, n))) for n in (8, 3))
    assert SCORES < few < SCORES + 3 * BATCH  # crops, their logits and the weights
    assert many < few + BATCH


def test_further_scales_and_mirrors_cost_one_more_map_of_scores_however_many():
    mirrored_image = plane = SCORES
    for scales in ((1.0,), (0.5, 0.75, 1.0, 1.0)):
        held = peak(replace(SMALL_WINDOWS, flip=True, scales=scales))
        assert 2 * SCORES < held < 2 * SCORES + mirrored_image + plane / 3 + 4 * BATCH


def test_logits_of_a_single_window_are_not_copied():
    class Keep(Echo):
        def logits(self, images):
            self.last = images.clone()
            return self.last

    for inference in (Inference("whole"), Inference(window=(96, 96), stride=(64, 64))):
        keep = Keep()
        assert inference(keep, torch.rand(3, 50, 70)).data_ptr() == keep.last.data_ptr()


def test_flip_and_scales_average_predictions_of_the_whole():
    image = torch.rand(3, 48, 64)
    plain = Inference("whole")(Echo(), image)
    assert torch.allclose(Inference("whole", flip=True)(Echo(), image), plain, atol=1e-6)
    echo = Echo()
    scores = Inference("whole", flip=True, scales=(0.5, 1.0))(echo, image)
    assert [shape[-2:] for shape in echo.sizes] == [(32, 32), (32, 32), (48, 64), (48, 64)]
    assert scores.shape == (3, 48, 64)


def test_scores_of_scales_and_mirrors_are_averaged_at_the_size_asked_for():
    image, out = torch.rand(3, 37, 53), (61, 80)
    scores = Inference("whole", flip=True, scales=(0.5, 1.0))(Ramp(), image, out)
    views = []
    for scale in (0.5, 1.0):
        one = Inference("whole", scales=(scale,))
        views += [one(Ramp(), image, out), one(Ramp(), image.flip(-1), out).flip(-1)]
    assert torch.allclose(scores, torch.stack(views).mean(0), atol=1e-6)


def test_the_image_is_resized_for_the_model_and_scores_to_the_label():
    echo = Echo()
    scores = Inference("whole", size=(32, 48))(echo, torch.rand(3, 64, 96), out=(128, 192))
    assert echo.sizes == [(1, 3, 32, 48)]
    assert scores.shape == (3, 128, 192)


@pytest.mark.parametrize(
    ("rule", "size"),
    [
        ({}, (90, 121)),
        ({"size": (32, 48)}, (32, 48)),
        ({"inside": (45, 200)}, (45, 60)),
        ({"inside": (200, 242)}, (180, 242)),
        ({"shortest": 45}, (45, 60)),
        ({"scale": 2.0}, (180, 242)),
        ({"scale": 0.001}, (1, 1)),
    ],
)
def test_the_model_sees_the_size_that_the_rule_gives(rule, size):
    assert Inference(**rule).model_size(90, 121) == size
    assert Inference("whole", **rule)(Echo(), torch.rand(3, 90, 121)).shape == (3, 90, 121)


def test_the_shorter_side_is_met_exactly_whichever_it_is():
    for H, W in ((97, 1013), (1013, 97), (500, 500)):
        assert min(Inference(shortest=333).model_size(H, W)) == 333


def test_an_exact_size_stands_above_the_other_rules():
    for inference in (Inference(shortest=64), Inference(scale=3.0), Inference(inside=(64, 64))):
        assert replace(inference, size=(32, 48)).model_size(90, 121) == (32, 48)


def test_a_configuration_gives_one_rule_of_size_and_all_options_arrive(tiny):
    slide = "eval={mode: slide, shortest: 64, blend: hann, windows_at_once: 2, scales: [1, 2]}"
    built = build_inference(tiny(slide))
    assert (built.shortest, built.blend, built.windows_at_once) == (64, "hann", 2)
    assert (built.window, built.stride, built.scales) == ((32, 48), (21, 32), (1.0, 2.0))
    assert build_inference(tiny("eval.scale=0.5")).scale == 0.5
    assert build_inference(tiny("eval.inside=[64, 64]")).inside == (64, 64)
    values = {"size": "[32, 48]", "shortest": "64", "scale": "0.5", "inside": "[64, 64]"}
    for rules in combinations(values, 2):
        with pytest.raises(ConfigError, match=f"{rules[0]} and {rules[1]} exclude each other"):
            tiny(*(f"eval.{rule}={values[rule]}" for rule in rules))


@pytest.mark.parametrize("option", ["blend=hann", "windows_at_once=3"])
def test_options_of_windows_are_refused_without_windows(tiny, option):
    with pytest.raises(ConfigError, match=f"{option.partition('=')[0]} has no effect"):
        tiny("eval.mode=whole", f"eval.{option}")


@pytest.mark.parametrize(
    "options", [{"stride": (0, 8)}, {"window": (32, 32), "stride": (40, 8)}, {"windows_at_once": 0}]
)
def test_strides_that_skip_pixels_and_empty_batches_are_refused(options):
    with pytest.raises(ConfigError, match=r"stride|windows_at_once"):
        Inference("slide", **{"window": (32, 32), "stride": (8, 8), **options})


@pytest.mark.parametrize("mode", ["slide", "whole"])
def test_scores_are_in_full_precision_under_autocast_and_can_be_used_after(model, mode):
    inference = Inference(mode, window=(32, 48), stride=(16, 24), flip=True, scales=(1.0, 1.5))
    image = torch.rand(3, 50, 70)
    exact = inference(model, image)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        scores = inference(model, image)
    assert scores.dtype == torch.float32
    assert torch.allclose(scores, exact, atol=0.05)
    assert (scores + 1).argmax(0).shape == (50, 70)


@pytest.mark.parametrize("mode", ["slide", "whole"])
def test_logits_in_half_precision_are_averaged_in_full(mode):
    class Half(Echo):
        def logits(self, images):
            return (images / 3).bfloat16()

    image = torch.rand(3, 48, 48)
    scores = Inference(mode, window=(32, 32), stride=(8, 8))(Half(), image)
    assert scores.dtype == torch.float32
    assert torch.allclose(scores, (image / 3).bfloat16().float(), rtol=1e-6)


def test_mask2former_never_holds_queries_at_full_resolution():
    head = Mask2FormerHead([32] * 4, 3, size=DecoderSize(32, 10, 1, 1, 32, 32, 4)).eval()
    features = [torch.rand(1, 32, 4, 6) for _ in range(4)]
    with torch.inference_mode(), Memory() as memory:
        scores = head(features, None, (400, 600))
    assert memory.largest == scores.numel() == 3 * 400 * 600
