"""Peak memory of a training step, by backbone, method, batch and activation checkpointing.

    python benchmarks/memory.py [--device cuda] [--precision bf16-mixed] [--backbones dinov2_vits14]
        [--json FILE]

ViT-S, B and L with patches of 16 pixels and random weights, a linear head, images of 512 x 512.
On a CUDA card it is the peak of the allocator. Elsewhere nothing is computed: the step runs on
tensors without values, and the largest sum of the bytes of all that exist at once is taken, with
fused attention as on a card; buffers within kernels are not in it. Two moments of AdamW for each
trained parameter are added to both.
"""

import os
import weakref
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import measure
from causalseg.adapters.base import trainable_parameters
from causalseg.model import Segmenter
from measure import Row

ABOUT = "Peak memory of a training step in GB: 512 × 512 pixels, patch 16, linear head, AdamW."
SIDE = 512
BACKBONES = {"dinov2_vits14": "ViT-S", "dinov2_vitb14": "ViT-B", "dinov2_vitl14": "ViT-L"}
METHODS: dict[str, dict[str, Any]] = {
    "none": {},
    "lora": {"name": "lora", "rank": 5, "alpha": 10, "targets": "all"},
    "causal_tune": {"name": "causal_tune"},
    "full": {"name": "full"},
}
BATCHES = (1, 4)
_MOMENTS = 2 * 4  # bytes of AdamW for each trained parameter


class PeakBytes(TorchDispatchMode):
    """The largest number of bytes in storages that exist at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak, self._known = 0, 0, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        return output

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known.add(key)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._remove, key, storage.nbytes())

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def build(backbone: str, method: str, is_checkpointed: bool, device: str) -> Segmenter:
    """Build a model whose memory is reserved and, on a CPU, never touched."""
    options = (f"backbone.name={backbone}", "backbone.patch=16", f"train.crop=[{SIDE}, {SIDE}]")
    how = f"backbone.checkpointing={str(is_checkpointed).lower()}"
    with torch.device("meta"):
        model = measure.build(*options, how, **METHODS[method])
    model.to_empty(device=device)
    if model.adapter is not None:
        model.adapter.tie()
    return model


def run_step(model: Segmenter, batch: int, device: str, bf16: bool) -> None:
    images = torch.rand(batch, 3, SIDE, SIDE, device=device)
    labels = torch.zeros(batch, SIDE, SIDE, dtype=torch.int64, device=device)
    model.zero_grad()
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        scores = model(images)
    functional.cross_entropy(scores, labels).backward()


def on_card(backbone: str, method: str, batch: int, is_checkpointed: bool, bf16: bool) -> int:
    """Return the peak of a step on a CUDA card."""
    model = build(backbone, method, is_checkpointed, "cuda")
    run_step(model, batch, "cuda", bf16)  # what is made once is there now
    torch.cuda.reset_peak_memory_stats()
    run_step(model, batch, "cuda", bf16)
    return torch.cuda.max_memory_allocated() + _MOMENTS * trained(model)


def counted(backbone: str, method: str, batch: int, is_checkpointed: bool, bf16: bool) -> int:
    """Return the peak of a step on tensors without values."""
    model = build(backbone, method, is_checkpointed, "cpu")
    model.backbone._attentions = []  # fused, whatever the precision
    # Else every operation on such a tensor looks for a card.
    without_card = patch("torch.cuda.is_available", return_value=False)
    with without_card, FakeTensorMode(allow_non_fake_inputs=True), PeakBytes() as mode:
        run_step(model, batch, "cpu", bf16)
    parameters = {p.untyped_storage().data_ptr(): p.nbytes for p in model.parameters()}
    return mode.peak + sum(parameters.values()) + _MOMENTS * trained(model)


def trained(model: Segmenter) -> int:
    return sum(trainable_parameters(part) for part in model.trainable().values())


def make_row(device: str, bf16: bool, backbone: str, method: str) -> Row:
    """Return the peaks of a backbone with a method, in GB."""
    torch.set_num_threads(1)
    measure_one = on_card if device == "cuda" else counted
    row: Row = {"case": f"{BACKBONES[backbone]}, {method}"}
    for batch in BATCHES:
        for is_checkpointed in (False, True):
            name = f"batch {batch}" + ", checkpointing" * is_checkpointed
            peak = measure_one(backbone, method, batch, is_checkpointed, bf16)
            row[name] = round(peak / 1e9, 2)
    return row


def measure_memory(backbones: list[str], device: str, precision: str) -> list[Row]:
    """Return a row for each backbone and method; without a card, on all cores."""
    make = partial(make_row, device, precision == "bf16-mixed")
    cases = list(product(backbones, METHODS))
    if device == "cuda":
        return [make(*case) for case in cases]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        return list(pool.map(make, *zip(*cases, strict=True)))


def main() -> None:
    parser = measure.make_parser(__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=measure.PRECISIONS[1:], default="bf16-mixed")
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    options = parser.parse_args()
    rows = measure_memory(options.backbones, options.device, options.precision)
    measure.tell(f"{ABOUT} {options.precision}.", rows, (), options.json)


if __name__ == "__main__":
    main()
