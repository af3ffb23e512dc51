"""Golden arrays of the reference modules of Rein and Causal-Tune, held against our adapters."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from causalseg.adapters.rein import Rein

NAMES = {
    "learnable_tokens": "tokens.T",
    "learnable_tokens_a": "tokens.A",
    "learnable_tokens_b": "tokens.B",
    "scale": "scale",
    "mlp_token2feat.weight": "token_to_feature.weight",
    "mlp_token2feat.bias": "token_to_feature.bias",
    "mlp_delta_f.weight": "delta.weight",
    "mlp_delta_f.bias": "delta.bias",
    "transform.weight": "link.transform.weight",
    "transform.bias": "link.transform.bias",
    "merge.weight": "link.merge.weight",
    "merge.bias": "link.merge.bias",
}
"""Reference name -> ours. Names that are not here have no gradient in the reference."""
PAPER_NAMES = {
    "a": "tokens.A",
    "b": "tokens.B",
    "w1": "token_to_feature.weight",
    "b1": "token_to_feature.bias",
    "w2": "delta.weight",
    "b2": "delta.bias",
    "scale": "scale",
}
"""The same for the formula of the paper."""


def load(path: Path) -> dict[str, Tensor]:
    """Return the arrays of a file as float64 tensors, laid out as ours are.

    The reference joins maximum, mean and last of one query channel after another, we join all
    channels of one after another: the columns of the merging linear change places.
    """
    data = {name: torch.from_numpy(array).double() for name, array in np.load(path).items()}
    for name in ("param/merge.weight", "grad/merge.weight"):
        if name in data:
            data[name] = data[name].unflatten(1, (-1, 3)).transpose(1, 2).flatten(1)
    return data


def options(data: dict[str, Tensor]) -> dict[str, int | None]:
    """Return the options of an adapter with the sizes of the reference module."""
    tokens = data.get("param/learnable_tokens", data.get("param/learnable_tokens_a"))
    depth, num_tokens = tokens.shape[:2]
    return {
        "width": data["x"].shape[-1],
        "depth": depth,
        "num_tokens": num_tokens,
        "rank": None if "param/learnable_tokens" in data else tokens.shape[2],
        "query_width": data["queries"].shape[-1] if "queries" in data else None,
    }


def errors(
    adapter: Rein,
    data: dict[str, Tensor],
    grid: tuple[int, int],
    dtype: torch.dtype,
    names: dict[str, str] = NAMES,
) -> tuple[dict[str, float], dict[str, float]]:
    """Run an adapter with the reference's parameters on its input.

    Returns:
        Errors of outputs and queries, and errors of all gradients, by name (see `error`).
    """
    adapter.to(dtype)
    ours = dict(adapter.named_parameters())
    theirs = {ours_name: name for name, ours_name in names.items() if ours_name in ours}
    assert set(theirs) == set(ours)
    with torch.no_grad():
        for name, parameter in ours.items():
            parameter.copy_(data[f"param/{theirs[name]}"])
    x = data["x"].to(dtype).requires_grad_()
    outputs = [x]
    for layer in range(adapter.depth):
        y = outputs[-1]
        outputs.append(torch.cat([y[:, :1], adapter(y[:, 1:], layer, grid)], dim=1))
    loss = (outputs[-1] * data["grad_out"]).sum()
    made = {"out_layer0": outputs[1], "out": outputs[-1]}
    queries = adapter.queries()
    if queries is not None:
        loss = loss + (queries * data["grad_queries"]).sum()
        made["queries"] = queries
    loss.backward()
    gradients = {"grad_x": error(x.grad, data["grad_x"])}
    for name, parameter in ours.items():
        gradients[name] = error(parameter.grad, data[f"grad/{theirs[name]}"])
    made = {name: error(value, data[name]) for name, value in made.items() if name in data}
    return made, gradients


def error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a share of the largest expected value."""
    return float((actual.detach().double() - expected).abs().max() / expected.abs().max())
