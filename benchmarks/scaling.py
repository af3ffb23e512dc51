"""How the time of Causal-Tune and of a ViT block grows with the grid, and a model's with its depth.

    python benchmarks/scaling.py [--rounds 5] [--json FILE]

Forward and backward pass in float32 on one thread, 384 channels. The exponents are least squares on
logarithms: 1 is proportional. Over patches: one image, one block; over images: a grid of 16 x 16;
over blocks: ViTs of that depth, frozen and with the adapter after every block.
"""

import math
from collections.abc import Callable, Sequence

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import measure
from causalseg.adapters.base import attach
from causalseg.adapters.causal_tune import CausalTune
from measure import Row

ABOUT = "Exponents of the time over patches, images and blocks: 384 channels, one thread."
WIDTH, HEADS, PATCH = 384, 6, 16
SIDES, BATCHES, DEPTHS = (8, 16, 32, 48), (1, 2, 4, 8), (1, 2, 4, 8)
Run = Callable[[], object]


def make_runs(side: int, batch: int, depth: int) -> dict[str, Run]:
    """Return a pass through the adapters, the blocks, and blocks with adapters."""
    vits = [make_vit(side, depth) for _ in range(2)]
    adapter = CausalTune(WIDTH, depth)
    attach(vits[1], adapter)
    vits[1].patch_embed(torch.zeros(1, 3, PATCH * side, PATCH * side))  # it learns its grid here
    X = torch.randn(batch, side**2, WIDTH, requires_grad=True)
    gradient = torch.randn(X.shape)

    def edit(tokens: Tensor) -> Tensor:
        for layer in range(depth):
            tokens = adapter(tokens, layer, (side, side))
        return tokens

    return {
        "causal_tune": lambda: edit(X).backward(gradient),
        "block": lambda: vits[0].blocks(X).backward(gradient),
        "block with causal_tune": lambda: vits[1].blocks(X).backward(gradient),
    }


def make_vit(side: int, depth: int) -> VisionTransformer:
    vit = VisionTransformer(
        img_size=PATCH * side,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=depth,
        num_heads=HEADS,
        num_classes=0,
        class_token=False,
        global_pool="",
    )
    return vit.eval().requires_grad_(False)


def fit_exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Return a of seconds = b sizes^a, by least squares on logarithms."""
    x, y = ([math.log(value) for value in values] for values in (sizes, seconds))
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - x_mean) ** 2 for a in x)


def measure_scaling(rounds: int) -> list[Row]:
    """Return a row for each kind of size: exponents, and the adapter over the block at its ends."""
    torch.set_num_threads(1)
    kinds = {
        "patches": [(side**2, (side, 1, 1)) for side in SIDES],
        "images": [(batch, (16, batch, 1)) for batch in BATCHES],
        "blocks": [(depth, (16, 1, depth)) for depth in DEPTHS],
    }
    rows = []
    for kind, points in kinds.items():
        runs = {
            (name, size): run for size, shape in points for name, run in make_runs(*shape).items()
        }
        keys = {f"{name}, {size}": (name, size) for name, size in runs}
        times = measure.interleave({key: runs[pair] for key, pair in keys.items()}, rounds)
        sizes = [size for size, _ in points]
        row: Row = {"case": f"{kind}, {sizes[0]} to {sizes[-1]}"}
        for name in ("causal_tune", "block", "block with causal_tune"):
            medians = [measure.median(times, f"{name}, {size}") for size in sizes]
            row[name] = round(fit_exponent(sizes, medians), 2)
        for size in (sizes[0], sizes[-1]):
            own, block = (f"{name}, {size}" for name in ("causal_tune", "block"))
            where = "smallest" if size == sizes[0] else "largest"
            row[f"causal_tune/block, {where}"] = round(measure.ratio(times, own, block), 3)
        rows.append(row)
    return rows


def main() -> None:
    options = measure.make_parser(__doc__).parse_args()
    measure.tell(ABOUT, measure_scaling(options.rounds), (), options.json)


if __name__ == "__main__":
    main()
