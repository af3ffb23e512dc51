"""Plain against fused attention in a ViT-S/14 on one thread of the CPU.

    python benchmarks/attention.py [--precision bf16-mixed] [--rounds 3] [--json FILE]

Forward and backward pass of the frozen model with gradients for its activations, as an adapter
needs them, in the precision that is the faster one here unless another is asked for.
The backbone takes the faster kind by these figures.
"""

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import measure
from measure import Row

ABOUT = "Plain over fused attention in a step of a frozen ViT-S/14, one thread."
SIZES = ((4, 168, 224), (1, 252, 336), (2, 448, 448), (1, 728, 728))


def step(vit: VisionTransformer, images: torch.Tensor, is_fused: bool, bf16: bool) -> None:
    """Run a forward and a backward pass."""
    for block in vit.blocks:
        assert isinstance(block, nn.Module)
        block.get_submodule("attn").fused_attn = is_fused  # type: ignore[assignment]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        features = vit.forward_features(images)
    features.sum().backward()


def measure_attention(rounds: int, bf16: bool) -> list[Row]:
    """Time both kinds; a row for each size."""
    torch.set_num_threads(1)
    vit = timm.create_model("vit_small_patch14_dinov2", dynamic_img_size=True)
    vit.eval().requires_grad_(False)
    rows = []
    for batch, H, W in SIZES:
        images = torch.rand(batch, 3, H, W).requires_grad_()
        runs = {
            name: (lambda images=images, is_fused=is_fused: step(vit, images, is_fused, bf16))
            for name, is_fused in (("fused", True), ("plain", False))
        }
        ratio = measure.ratio(measure.interleave(runs, rounds), "plain", "fused")
        case = f"{batch} x {W} × {H}, {H * W // 196} tokens"
        rows.append({"case": case, "plain/fused": round(ratio, 2)})
    return rows


def main() -> None:
    parser = measure.make_parser(__doc__, rounds=3)
    parser.add_argument("--precision", choices=measure.PRECISIONS, default="auto")
    options = parser.parse_args()
    rows = measure_attention(options.rounds, measure.is_bf16(options.precision, "cpu"))
    measure.tell(ABOUT, rows, (), options.json)


if __name__ == "__main__":
    main()
