"""What a training step costs with each method, over a step with LoRA on all linear layers.

    python benchmarks/step.py [--rounds 7] [--methods FILE] [--json FILE]

A frozen ViT-S/14 with random weights, a batch of 4, one thread: forward pass, a loss on its
features, backward pass. All methods are timed in turn, round after round, by CPU time; the ratio is
the median over rounds of the ratio within a round. Methods of rank 16, or those of a file.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import TypeAdapter

from causalseg.adapters.base import attach
from causalseg.backbones.timm import FrozenBackbone, build_backbone
from causalseg.build.adapter import build_adapter
from causalseg.config.adapters import AdapterConfig
from causalseg.config.backbone import BackboneConfig
from causalseg.writing import write_json

SETTINGS = ((168, 224, True), (252, 336, True), (252, 336, False))  # pixels, bfloat16
METHODS = """
lora: {name: lora, rank: 16, alpha: 32, targets: all}
causal_lora: causal_lora
causal_lora_all: {name: causal_lora, split: {all: 1}}
causal_lora_mixed: {name: causal_lora, split: {all: 1, causal: 1}}
causal_lora_split: {name: causal_lora, split: {low: 1, causal: 2, high: 1}}
soma: {name: soma, rank: 16}
causal_tune: causal_tune
rein: rein
adaptformer: adaptformer
"""


def make(adapter: Any) -> FrozenBackbone:
    """Return a backbone with an attached adapter in training mode."""
    backbone = build_backbone(BackboneConfig(name="dinov2_vits14", weights="random"))
    built = build_adapter(TypeAdapter(AdapterConfig).validate_python(adapter), backbone, None)
    assert built is not None, adapter
    attach(backbone.vit, built.train())
    return backbone


def step(backbone: FrozenBackbone, images: torch.Tensor, is_bf16: bool) -> float:
    """Return the CPU seconds of a forward and a backward pass."""
    start = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
        levels = backbone(images)
    torch.stack([level.float().square().mean() for level in levels]).sum().backward()
    return time.process_time() - start


def main() -> None:
    """Print a table; write it as JSON where asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--methods", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    methods = yaml.safe_load(options.methods.read_text() if options.methods else METHODS)
    models = {name: make(adapter) for name, adapter in methods.items()}
    first, results = next(iter(models)), {}
    for H, W, is_bf16 in SETTINGS:
        images = torch.rand(4, 3, H, W)
        rounds = [
            {name: step(model, images, is_bf16) for name, model in models.items()}
            for _ in range(options.rounds + 1)
        ][1:]
        row = {name: statistics.median(r[name] / r[first] for r in rounds) for name in models}
        setting = f"{H}x{W} {'bf16' if is_bf16 else 'float32'}"
        results[setting] = {name: round(ratio, 2) for name, ratio in row.items()}
        print(setting, *(f"{name} {ratio}" for name, ratio in results[setting].items()), sep="\n  ")
    if options.json:
        write_json(options.json, results)


if __name__ == "__main__":
    main()
