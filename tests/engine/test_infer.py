"""Inference: windows cover the image, averages are averages, sizes and memory come out right."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from causalseg.build.model import build_segmenter
from causalseg.config.heads import Mask2FormerHeadConfig
from causalseg.config.inference import InferenceConfig
from causalseg.engine.infer import model_size, predict, window_starts, window_weights
from causalseg.errors import ConfigError
from causalseg.heads.mask2former import Mask2FormerHead


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
    """Five classes; a logit depends on the pixel's value and on its position in the window."""

    def logits(self, images):
        h, w = images.shape[-2:]
        place = torch.arange(h * w, dtype=images.dtype).reshape(h, w) / (h * w)
        return torch.cat([images, images[:, :2]], 1) * place.sin() + place


class Memory(TorchDispatchMode):
    """Counts the values of tensors made within: most at once, and most in one."""

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


def score(model, image, out=None, **options):
    """Predict the whole image unless options of windows are given."""
    default = {} if "window" in options else {"mode": "whole"}
    return predict(model, image, InferenceConfig(**default, **options), out)


@pytest.mark.parametrize(
    "options", [{}, {"window": (32, 48)}, {"window": (32, 48), "blend": "hann"}]
)
@pytest.mark.parametrize("size", [(48, 64), (50, 70), (20, 100)])
def test_every_pixel_is_scored_at_its_position(options, size):
    image = torch.rand(3, *size)
    assert torch.allclose(score(Echo(), image, flip=True, **options), image, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "options", "batches"),
    [
        ((50, 70), {}, [(1, 3, 64, 80)]),
        ((64, 96), {"window": (32, 48), "stride": (32, 48)}, [(2, 3, 32, 48)] * 2),
        ((50, 64), {"window": (96, 32), "stride": (64, 32)}, [(2, 3, 64, 32)]),
        ((50, 70), {"window": (96, 96)}, [(1, 3, 64, 80)]),
    ],
)
def test_whole_pads_to_the_patch_as_a_window_that_does_not_fit(size, options, batches):
    echo = Echo()
    score(echo, torch.rand(3, *size), **options)
    assert echo.sizes == batches


def test_windows_without_a_size_are_refused():
    with pytest.raises(ConfigError, match="needs a window"):
        predict(Echo(), torch.rand(3, 32, 32), InferenceConfig())


@pytest.mark.parametrize("blend", ["mean", "hann"])
def test_single_windows_are_whole_predictions(model, blend):
    image = torch.rand(3, 50, 70)
    assert torch.equal(score(model, image, window=(96, 96), blend=blend), score(model, image))
    image = torch.rand(3, 64, 96)
    tiles = {"window": (32, 48), "stride": (32, 48), "windows_at_once": 1}
    scores = score(model, image, blend=blend, **tiles)
    for top, left in product((0, 32), (0, 48)):
        tile = (slice(None), slice(top, top + 32), slice(left, left + 48))
        assert torch.equal(scores[tile], score(model, image[tile]))


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
        total[place] += weight * model.logits(image[place].double()[None])[0]
        count[place] += weight
    return total / count


@pytest.mark.parametrize("blend", ["mean", "hann"])
@pytest.mark.parametrize("stride", [(5, 4), (11, 17), (1, 9)])
def test_averaged_logits_equal_a_slow_loop_in_double_precision(blend, stride):
    image, window = torch.rand(3, 37, 53), (11, 17)
    scores = score(Ramp(), image, window=window, stride=stride, blend=blend, windows_at_once=3)
    expected = slow_slide(Ramp(), image, window, stride, blend)
    assert torch.allclose(scores.double(), expected)


def test_hann_weights_sum_to_one_and_are_never_zero():
    weights = window_weights(20, 8, [0, 6, 12], "hann")
    total = torch.zeros(20)
    for start, one in zip([0, 6, 12], weights, strict=True):
        total[start : start + 8] += one
        assert one.min() > 0
    assert torch.allclose(total, torch.ones(20))
    outer, inner = math.sin(math.pi / 16) ** 2, math.sin(3 * math.pi / 16) ** 2
    assert weights[1][:3].tolist() == pytest.approx(  # the first window ends at pixel 7
        [outer / (outer + inner), inner / (outer + inner), 1]
    )


@pytest.mark.parametrize("count", [2, 5, 100])
def test_windows_in_batches_score_as_one_by_one(model, count):
    image, windows = torch.rand(3, 64, 80), {"window": (32, 48), "stride": (16, 20)}
    alone = score(model, image, **windows, windows_at_once=1)
    batched = score(model, image, **windows, windows_at_once=count)
    assert torch.allclose(batched, alone, atol=1e-5)
    echo = Echo()
    score(echo, image, **windows, windows_at_once=count)
    assert sum(shape[0] for shape in echo.sizes) == 9
    assert echo.sizes[0][0] == min(count, 9)


def peak(**options):
    """Values held at once, beyond the image, by predicting three classes in small windows."""
    image = torch.rand(3, 64, 80)
    with torch.inference_mode(), Memory() as memory:
        score(Echo(), image, **{"window": (8, 8), "stride": (8, 8), **options})
    return memory.peak - image.numel()


SCORES, BATCH = 3 * 64 * 80, 2 * 3 * 8 * 8  # values; the image and its crops have as many


def test_memory_does_not_grow_with_the_number_of_windows():
    few, many = (peak(stride=(n, n)) for n in (8, 3))
    assert SCORES < few < SCORES + 3 * BATCH  # crops, their logits and the weights
    assert many < few + BATCH


@pytest.mark.parametrize("scales", [[1.0], [0.5, 0.75, 1.0, 1.0]])
def test_further_scales_and_mirrors_cost_one_more_map_of_scores_however_many(scales):
    mirrored_image = plane = SCORES
    held = peak(flip=True, scales=scales)
    assert 2 * SCORES < held < 2 * SCORES + mirrored_image + plane / 3 + 4 * BATCH


@pytest.mark.parametrize("options", [{}, {"window": (96, 96)}])
def test_logits_of_a_single_window_are_not_copied(options):
    class Keep(Echo):
        def logits(self, images):
            self.last = images.clone()
            return self.last

    keep = Keep()
    assert score(keep, torch.rand(3, 50, 70), **options).data_ptr() == keep.last.data_ptr()


def test_scores_of_scales_and_mirrors_are_averaged_at_the_size_asked_for():
    image, out = torch.rand(3, 37, 53), (61, 80)
    views = []
    for scale in (0.5, 1.0):
        one = score(Ramp(), image, out, scales=[scale])
        views += [one, score(Ramp(), image.flip(-1), out, scales=[scale]).flip(-1)]
    scores = score(Ramp(), image, out, flip=True, scales=[0.5, 1.0])
    assert torch.allclose(scores, torch.stack(views).mean(0), atol=1e-6)
    echo = Echo()
    score(echo, torch.rand(3, 48, 64), flip=True, scales=[0.5, 1.0])
    assert [shape[-2:] for shape in echo.sizes] == [(32, 32), (32, 32), (48, 64), (48, 64)]


def test_the_image_is_resized_for_the_model_and_scores_to_the_label():
    echo = Echo()
    scores = score(echo, torch.rand(3, 64, 96), (128, 192), size=(32, 48))
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
    assert model_size(InferenceConfig(**rule), 90, 121) == size
    assert score(Echo(), torch.rand(3, 90, 121), **rule).shape == (3, 90, 121)


def test_the_shorter_side_is_met_exactly():
    for H, W in ((97, 1013), (1013, 97), (500, 500)):
        assert min(model_size(InferenceConfig(shortest=333), H, W)) == 333


@pytest.mark.parametrize("rule", [{"shortest": 64}, {"scale": 3.0}, {"inside": (64, 64)}])
def test_the_size_of_a_domain_replaces_any_other_rule(rule):
    how = InferenceConfig(flip=True, **rule)
    assert how.resized_to((32, 48), False) == InferenceConfig(flip=True, size=(32, 48))
    assert how.resized_to((32, 48), True) == InferenceConfig(flip=True, inside=(32, 48))


def test_a_configuration_fills_in_window_and_stride(tiny):
    resolved = tiny("eval={mode: slide, shortest: 64, blend: hann, scales: [1, 2]}").inference
    assert (resolved.window, resolved.stride) == ((32, 48), (21, 32))
    assert (resolved.shortest, resolved.blend, resolved.scales) == (64, "hann", [1, 2])
    assert tiny("eval.mode=whole").inference == InferenceConfig(mode="whole")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("mode: whole, blend: hann", "blend has no effect"),
        ("mode: whole, windows_at_once: 3", "windows_at_once has no effect"),
        ("mode: slide, windows_at_once: 0", "windows_at_once"),
        ("mode: slide, stride: [0, 8]", "stride"),
        ("mode: slide, window: [32, 32], stride: [40, 8]", r"\[40, 8\] .* \[32, 32\]"),
        ("mode: slide, stride: [40, 8]", r"\[40, 8\] .* \[32, 48\]"),  # the crop
        ("mode: whole, size: [32, 48], shortest: 64", "size and shortest exclude each other"),
        ("mode: whole, scale: 0.5, inside: [64, 64]", "scale and inside exclude each other"),
    ],
)
def test_impossible_or_idle_options_are_refused(tiny, options, named):
    with pytest.raises(ConfigError, match=named):
        tiny(f"eval={{{options}}}")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"window": (32, 40), "blend": "hann"}, ("40 × 32 px", "26 × 21 px", "Hann")),
        ({"mode": "whole", "inside": (30, 50)}, ("whole", "inside 50 × 30 px")),
        ({"mode": "whole", "shortest": 9}, ("shortest edge of 9 px",)),
        ({"mode": "whole", "scale": 0.5, "flip": True}, ("by 0.5", "mirrored")),
        ({"mode": "whole", "size": (10, 20), "scales": [0.5, 1.0]}, ("20 × 10 px", "0.5, 1.0")),
    ],
)
def test_inference_is_described_in_words(options, named):
    words = InferenceConfig(**options).resolve().describe()
    assert all(part in words for part in named)


@pytest.mark.parametrize("mode", ["slide", "whole"])
def test_logits_in_half_precision_are_averaged_in_full(mode):
    class Half(Echo):
        def logits(self, images):
            return (images / 3).bfloat16()

    image = torch.rand(3, 48, 48)
    options = {"window": (32, 32), "stride": (8, 8)} if mode == "slide" else {}
    scores = score(Half(), image, **options)
    assert scores.dtype == torch.float32
    assert torch.allclose(scores, (image / 3).bfloat16().float(), rtol=1e-6)


def test_mask2former_never_holds_queries_at_full_resolution():
    options = Mask2FormerHeadConfig(
        hidden=32, num_queries=10, encoder_layers=1, decoder_layers=1, feedforward=32
    )
    head = Mask2FormerHead([32] * 4, 3, options).eval()
    features = [torch.rand(1, 32, 4, 6) for _ in range(4)]
    with torch.inference_mode(), Memory() as memory:
        scores = head(features, None, (400, 600))
    assert memory.largest == scores.numel() == 3 * 400 * 600
