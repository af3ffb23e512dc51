"""A training step never reads a value back: on an accelerator that would wait for the device.

Operations that do so are found on the CPU, where they cost nothing.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from causalseg.build.model import build_segmenter
from causalseg.heads import base

READING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount")
METHODS = (
    *("none", "causal_tune", "rein", "set", "fada", "full", "lora", "dora", "soma", "adaptformer"),
    *("vpt", "causal_lora", "{name: causal_tune, recipe: paper}", "[lora, causal_tune]"),
)


class Readings(TorchDispatchMode):
    """Notes the operations whose result has to be known before the next one can be queued."""

    def __init__(self):
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        is_mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in READING or is_mask:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("adapter", METHODS)
def test_a_step_reads_nothing_back(tiny, monkeypatch, adapter):
    monkeypatch.setattr(base, "check_labels", lambda labels, num_classes: None)  # off elsewhere
    model = build_segmenter(tiny(f"adapter={adapter}", "head.class_weights=auto")).train()
    images, labels = torch.rand(2, 3, 32, 48), torch.randint(3, (2, 32, 48))
    model.loss(images, labels).backward()  # what is cached for a size is made here
    with Readings() as readings:
        model.loss(images, labels).backward()
    assert readings.seen == []


def test_reading_a_value_is_seen():
    with Readings() as readings:
        x = torch.ones(2)
        float(x.sum())
        x[x > 0]
    assert readings.seen == ["_local_scalar_dense", "index"]


@pytest.mark.gpu
def test_on_a_gpu_a_step_waits_for_nothing(tiny):
    model = build_segmenter(tiny("head.class_weights=auto")).train().cuda()
    images = torch.rand(2, 3, 32, 48, device="cuda")
    labels = torch.randint(3, (2, 32, 48), device="cuda")
    model.loss(images, labels).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.loss(images, labels).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("adapter", ["causal_tune", "lora", "soma", "rein", "causal_lora"])
def test_blocks_below_the_first_adapted_one_have_no_graph(tiny, adapter):
    model = build_segmenter(tiny(f"adapter={{name: {adapter}, layers: [4, 5]}}")).train()
    has_graph = []
    for block in model.backbone.vit.blocks:
        block.register_forward_hook(lambda block, args, out: has_graph.append(out.requires_grad))
    model.loss(torch.rand(1, 3, 32, 48), torch.zeros(1, 32, 48, dtype=torch.long)).backward()
    assert has_graph == [False] * 4 + [True] * (len(has_graph) - 4)
    assert len(has_graph) == 6
