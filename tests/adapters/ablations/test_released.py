"""The released code of Causal-Tune: golden numbers, and what they mean for a user."""

import copy
import pickle
from functools import partial

import numpy as np
import pytest
import torch

from causalseg.adapters.ablations.released import ReleasedCausalTune, released_mask
from causalseg.adapters.base import attach
from causalseg.errors import ConfigError
from golden_modules import error, errors, load, options
from tiny_vit import make_small, make_vit

GOLDEN = {
    "causal_tune_released_lorareins_4x4_b2_c16": 4,
    "causal_tune_released_lorareins_8x8_b1_c32": 8,
    "causal_tune_released_lorareins_8x8_b2_c32": 8,
    "causal_tune_released_reins_8x8_b1_c32": 8,
}
GRID = (4, 4)
small = partial(make_small, ReleasedCausalTune, 24, 2)


@pytest.fixture
def tokens():
    return torch.randn(2, 16, 24, generator=torch.Generator().manual_seed(1))


def test_every_golden_file_is_in_use(golden):
    assert {path.stem for path in golden.glob("causal_tune_released_*.npz")} == set(GOLDEN)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", GOLDEN)
def test_outputs_queries_and_gradients_equal_the_golden_numbers(golden, name, dtype):
    data = load(golden / f"{name}.npz")
    side = GOLDEN[name]
    outputs, gradients = errors(ReleasedCausalTune(**options(data)), data, (side, side), dtype)
    assert max(outputs.values()) <= 1e-5, outputs
    assert max(gradients.values()) <= 1e-4, gradients


@pytest.mark.parametrize("name", GOLDEN)
def test_masked_coefficients_equal_the_golden_numbers(golden, name):
    data = load(golden / f"{name}.npz")
    adapter = ReleasedCausalTune(**options(data))
    coefficients = adapter._coefficients(data["x"][:, 1:], GOLDEN[name])
    assert error(coefficients, data["layer0/coeff_after_mask_NBC"]) <= 1e-6


def test_the_mask_is_that_of_the_released_code_at_every_known_size(golden):
    masks = np.load(golden / "masks.npz")
    for n in (7, 8, 16, 32):
        expected = torch.from_numpy(masks[f"released_{n}x{n}"])
        assert torch.allclose(released_mask(n), expected, atol=1e-6), n
    expected = load(golden / "causal_tune_released_lorareins_4x4_b2_c16.npz")["mask_released"]
    assert torch.allclose(released_mask(4, dtype=torch.float64), expected, atol=1e-6)


def test_increments_lie_between_0_and_255(tokens):
    adapter = small()
    increments = (adapter(tokens, 0, GRID) - tokens) / adapter.scale
    assert increments.min() > -1e-5
    assert (increments.abs() < 1e-5).float().mean() > 0.2
    with torch.no_grad():
        adapter.delta.weight.mul_(1e6)
    increments = (adapter(tokens, 0, GRID) - tokens) / adapter.scale
    assert increments.max().item() == pytest.approx(255, abs=0.01)


def test_the_result_of_an_image_depends_on_the_other_image_of_its_batch(tokens):
    adapter = small()
    before = adapter(tokens, 0, GRID)[0] - tokens[0]
    other = torch.stack([tokens[0], -tokens[1]])
    after = adapter(other, 0, GRID)[0] - tokens[0]
    assert (after - before).norm() > 0.5 * before.norm()
    alone = adapter(tokens[:1], 0, GRID)[0] - tokens[0]
    assert (alone - before).norm() > 0.5 * before.norm()


def test_with_as_many_patches_as_channels_a_patch_does_not_see_the_others():
    torch.manual_seed(0)
    adapter = ReleasedCausalTune(16, 1, init={"kind": "small", "scale": 0.5})
    tokens = torch.randn(1, 16, 16)
    changed = tokens.clone()
    changed[0, 3] += 1
    difference = (adapter(changed, 0, GRID) - adapter(tokens, 0, GRID)).abs().sum(-1)[0]
    assert difference[3] > 0
    assert torch.equal(difference[torch.arange(16) != 3], torch.zeros(15))


def test_the_features_get_the_gradient_of_the_identity_alone(tokens):
    weights = torch.randn_like(tokens)
    tokens.requires_grad_()
    (small()(tokens, 1, GRID) * weights).sum().backward()
    assert torch.equal(tokens.grad, weights)


def test_a_grid_that_is_not_square_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match="3 x 5 patches: the released code.*square grids only"):
        small()(torch.randn(1, 15, 24), 0, (3, 5))


@pytest.mark.parametrize("rank", [4, None])
def test_features_come_back_in_their_dtype_and_close(tokens, rank):
    adapter = small(rank=rank)
    expected = adapter(tokens, 0, GRID)
    double = adapter(tokens.double(), 0, GRID)
    assert double.dtype == torch.float64
    assert torch.allclose(double.float(), expected, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = adapter(tokens, 0, GRID)
        half = adapter(tokens.bfloat16(), 0, GRID)
    assert torch.equal(mixed, expected)
    rounded = adapter.bfloat16()(tokens.bfloat16(), 0, GRID)
    for result in (half, rounded):
        assert result.dtype == torch.bfloat16
        assert (result.float() - expected).norm() < 0.02 * expected.norm()


@pytest.fixture
def vit():
    return make_vit(img_size=32, patch_size=8, embed_dim=24)


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_the_attached_model_gives_the_same_features(vit, copy_of):
    images = torch.rand(2, 3, 32, 32)
    plain = vit(images)
    with attach(vit, small()):
        expected = vit(images)
        assert torch.equal(copy_of(vit)(images), expected)
    assert not torch.allclose(expected, plain, atol=1e-3)
    assert torch.equal(vit(images), plain)


@pytest.mark.slow
def test_compiled_without_graph_breaks_it_gives_the_same_features(vit):
    images = torch.rand(2, 3, 32, 32)
    attach(vit, small())
    expected = vit(images)
    compiled = torch.compile(vit, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(images), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")  # the grid
@pytest.mark.parametrize("strict", [True, False])
def test_exported_it_gives_the_same_features_at_any_batch_size(vit, strict):
    attach(vit, small())
    dynamic = {"x": {0: torch.export.Dim("batch", min=1, max=8)}}
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        exported = torch.export.export(vit, (images,), strict=strict, dynamic_shapes=dynamic)
        for count in (2, 3):
            batch = torch.rand(count, 3, 32, 32)
            assert torch.allclose(exported.module()(batch), vit(batch), atol=1e-5)
