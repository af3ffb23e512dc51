"""Plain against fused attention in a ViT-S/14 on one thread of the CPU, in bfloat16 and float32.

    python benchmarks/attention.py [--rounds 5] [--json FILE]

Forward and backward pass of the frozen model with gradients for its activations, as an adapter
needs them. Both kinds are timed in turn; the ratio, plain over fused, is the median over rounds.
The backbone takes the faster kind by these figures.
"""

import argparse
import statistics
import time
from pathlib import Path

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from causalseg.writing import write_json

SIZES = ((4, 168, 224), (1, 252, 336), (2, 448, 448), (1, 728, 728))


def step(vit: VisionTransformer, images: torch.Tensor, is_fused: bool, is_bf16: bool) -> float:
    """Return the seconds of a forward and a backward pass."""
    for block in vit.blocks:
        assert isinstance(block, nn.Module)
        block.get_submodule("attn").fused_attn = is_fused  # type: ignore[assignment]
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
        features = vit.forward_features(images)
    features.sum().backward()
    return time.perf_counter() - start


def main() -> None:
    """Print a table; write it as JSON where asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    vit = timm.create_model("vit_small_patch14_dinov2", dynamic_img_size=True)
    vit.eval().requires_grad_(False)
    ratios = {}
    for batch, H, W in SIZES:
        images = torch.rand(batch, 3, H, W).requires_grad_()
        for is_bf16 in (True, False):
            seconds = [
                (step(vit, images, True, is_bf16), step(vit, images, False, is_bf16))
                for _ in range(options.rounds + 1)
            ][1:]
            name = f"{batch}x{H}x{W}, {H * W // 196} tokens, {'bf16' if is_bf16 else 'float32'}"
            ratios[name] = round(statistics.median(plain / fused for fused, plain in seconds), 2)
            print(f"{name}: {ratios[name]}")
    if options.json:
        write_json(options.json, ratios)


if __name__ == "__main__":
    main()
