"""What a training step costs with each method, over one with LoRA and over the floor.

    python benchmarks/step.py [--device cuda] [--precision bf16-mixed] [--methods FILE]
        [--rounds 5] [--json FILE]

ViT-S/14 with random weights, a linear head, 4 images of 252 x 336 pixels, one thread: forward pass,
loss, backward pass. All adapters have about 0.4 million parameters, as in
configs/race_camvid_methods.yaml, or are those of a file. Beside them: `head only`, the frozen
backbone, without a graph through it; `floor`, the same with a gradient from the head down to the
input of the first block, which every adapter of that block needs; `full`, full fine-tuning.
"""

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

import measure
from causalseg.adapters.base import trainable_parameters
from causalseg.model import Segmenter
from measure import Row, Target

ABOUT = "A training step: ViT-S/14, linear head, 4 images of 336 × 252, one thread."
BATCH, HEIGHT, WIDTH = 4, 252, 336
METHODS = """
lora: {name: lora, rank: 5, alpha: 10, targets: all}
causal_tune: {name: causal_tune}
soma: {name: soma, rank: 5}
rein: {name: rein}
adaptformer: {name: adaptformer, bottleneck: 42}
full: {name: full}
"""
BASES = ("lora", "floor")
TARGETS = (Target("causal_tune", "/lora", 1.10), Target("causal_tune", "/floor", 1.15))


def require_gradient(_: nn.Module, inputs: tuple[Tensor]) -> None:
    """Let the backward pass reach the input of a block."""
    inputs[0].requires_grad_()


def make_models(methods: dict[str, Any]) -> dict[str, Segmenter]:
    """Build the floor, the head alone, and a model for each method."""
    floor = measure.build()
    floor.backbone.vit.blocks[0].register_forward_pre_hook(require_gradient)
    return {
        "floor": floor,
        "head only": measure.build(),
        **{name: measure.build(**adapter) for name, adapter in methods.items()},
    }


def measure_steps(
    methods: dict[str, Any], device: str = "cpu", precision: str = "auto", rounds: int = 5
) -> list[Row]:
    """Time a step of every method; a row for each."""
    torch.set_num_threads(1)
    images = torch.rand(BATCH, 3, HEIGHT, WIDTH, device=device)
    labels = torch.randint(0, 19, (BATCH, HEIGHT, WIDTH), device=device)
    bf16 = measure.is_bf16(precision, device)
    models = {name: model.to(device) for name, model in make_models(methods).items()}
    runs = {
        name: (lambda model=model: measure.step(model, images, labels, bf16))
        for name, model in models.items()
    }
    times = measure.interleave(runs, rounds, device)
    return [
        {
            "case": name,
            "adapter": trainable_parameters(model.adapter) if model.adapter else 0,
            "ms": round(1e3 * measure.median(times, name)),
            **{
                f"/{base}": round(measure.ratio(times, name, base), 3)
                for base in BASES
                if base in models
            },
        }
        for name, model in models.items()
    ]


def main() -> None:
    parser = measure.make_parser(__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=measure.PRECISIONS, default="auto")
    parser.add_argument("--methods", type=Path)
    options = parser.parse_args()
    methods = yaml.safe_load(options.methods.read_text() if options.methods else METHODS)
    rows = measure_steps(methods, options.device, options.precision, options.rounds)
    measure.tell(ABOUT, rows, TARGETS, options.json)


if __name__ == "__main__":
    main()
