"""Rein: golden numbers of the reference module, the low-rank form, the count."""

from functools import partial

import numpy as np
import pytest
import torch

from causalseg.adapters.rein import Rein
from golden_modules import errors, load, options
from tiny_vit import make_small

small = partial(make_small, Rein, 24, 3, query_width=12)

GOLDEN = {
    "rein_lorareins_8x8_b1_c32": (8, 8),
    "rein_lorareins_8x8_b2_c32": (8, 8),
    "rein_lorareins_4x5_b2_c32_use_softmax": (4, 5),
    "rein_lorareins_4x5_b2_c32_link_token_to_query": (4, 5),
    "rein_reins_8x8_b1_c32": (8, 8),
    "rein_reins_7x9_b2_c32": (7, 9),
}


def test_every_golden_file_is_in_use(golden):
    assert {path.stem for path in golden.glob("rein_*.npz")} == set(GOLDEN)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", GOLDEN)
def test_outputs_queries_and_gradients_equal_the_golden_numbers(golden, name, dtype):
    data = load(golden / f"{name}.npz")
    adapter = Rein(**options(data), init="small", use_softmax="use_softmax" not in name)
    assert (adapter.tokens.rank is None) == ("_reins_" in name)
    assert (adapter.queries() is None) == ("link_token_to_query" in name)
    outputs, gradients = errors(adapter, data, GOLDEN[name], dtype)
    assert max(outputs.values()) <= 1e-5, outputs
    assert max(gradients.values()) <= 1e-4, gradients


def test_the_zero_start_equals_the_golden_numbers_at_first_and_after_a_step(golden):
    data = np.load(golden / "zero_start_rein_4x5_b2_c12.npz")
    data = {name: torch.from_numpy(array) for name, array in data.items()}
    adapter = Rein(12, 3, num_tokens=6, rank=3).double()
    names = {
        "A": adapter.tokens.A,
        "B": adapter.tokens.B,
        "W1": adapter.token_to_feature.weight,
        "b1": adapter.token_to_feature.bias,
        "W2": adapter.delta.weight,
        "b2": adapter.delta.bias,
    }
    assert {id(p) for p in names.values()} == {id(p) for p in adapter.parameters()}
    with torch.no_grad():
        for key, parameter in names.items():
            parameter.copy_(data[f"param/{key}"])
    for when in ("", "_after"):
        x = data["x"].clone().requires_grad_()
        out = x
        for layer in range(3):
            out = adapter(out, layer, (4, 5))
        adapter.zero_grad()
        (out * data["grad_out"]).sum().backward()
        assert torch.allclose(out, data[f"out{when}"], atol=1e-12)
        for key, parameter in (("x", x), *names.items()):
            assert torch.allclose(parameter.grad, data[f"grad{when}/{key}"], atol=1e-7), key
        with torch.no_grad():
            for parameter in names.values():
                parameter -= data["lr"] * parameter.grad


@pytest.mark.parametrize("use_softmax", [True, False])
def test_low_rank_tokens_equal_full_tokens_that_are_their_product(use_softmax):
    low = small(use_softmax=use_softmax).double()
    full = small(rank=None, use_softmax=use_softmax).double()
    shared = {name: p for name, p in low.state_dict().items() if not name.startswith("tokens.")}
    full.load_state_dict({**shared, "tokens.T": low.tokens().detach()})
    tokens = torch.randn(2, 15, 24, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(tokens)
    results = []
    for adapter in (low, full):
        output = adapter(tokens, 1, (3, 5))
        names = ["token_to_feature.weight", "token_to_feature.bias", "delta.weight", "delta.bias"]
        inputs = [tokens, adapter.scale, *(adapter.get_parameter(name) for name in names)]
        results.append((output, *torch.autograd.grad((output * weights).sum(), inputs)))
    for factored, plain in zip(*results, strict=True):
        assert torch.allclose(factored, plain, atol=1e-9, rtol=1e-9)
    assert torch.allclose(low.queries(), full.queries())


@pytest.mark.parametrize("rank", [4, None])
def test_token_0_takes_attention_and_gives_no_value(rank):
    adapter = small(rank=rank).double()
    tokens = torch.randn(1, 15, 24, dtype=torch.float64)
    with torch.no_grad():
        for parameter in adapter.tokens.parameters():
            parameter.zero_()
    # Seven of eight equal weights carry the value b1; the eighth, of token 0, carries nothing.
    Z = 7 / 8 * adapter.token_to_feature.bias + tokens
    expected = tokens + adapter.scale * adapter.delta(Z)
    assert torch.allclose(adapter(tokens, 0, (3, 5)), expected)


def test_vit_large_has_exactly_the_published_layout_of_parameters():
    adapter = Rein(1024, 24, query_width=256, init="small")
    assert sum(p.numel() for p in adapter.parameters()) == 2_990_081


@pytest.mark.parametrize("rank", [2, None])
@pytest.mark.parametrize(("layers", "expected"), [([5, 1], (1, 5)), (2, (4, 5))])
def test_tokens_exist_for_the_named_blocks_only(rank, layers, expected):
    adapter = Rein(8, 6, num_tokens=4, rank=rank, layers=layers)
    assert adapter.layers == expected
    assert adapter.tokens().shape == (2, 4, 8)


def test_patches_in_another_order_give_the_output_in_that_order():
    adapter, tokens = small(), torch.randn(2, 15, 24)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(1))
    expected = adapter(tokens, 0, (3, 5))[:, order]
    assert torch.allclose(adapter(tokens[:, order], 0, (3, 5)), expected, atol=1e-5)


@pytest.mark.parametrize("rank", [4, None])
def test_features_come_back_in_their_dtype_and_close(rank):
    adapter, tokens = small(rank=rank), torch.randn(2, 15, 24)
    expected = adapter(tokens, 0, (3, 5))
    double = adapter(tokens.double(), 0, (3, 5))
    assert double.dtype == torch.float64
    assert torch.allclose(double.float(), expected, atol=1e-5)
    half = adapter(tokens.bfloat16(), 0, (3, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = adapter(tokens, 0, (3, 5))
    assert (half.dtype, mixed.dtype) == (torch.bfloat16, torch.float32)
    for rounded in (half.float(), mixed):
        assert (rounded - expected).norm() < 0.02 * expected.norm()
