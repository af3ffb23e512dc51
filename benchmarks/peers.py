"""A training step and a prediction beside other software, on the same images.

    python benchmarks/peers.py [--rounds 3] [--json FILE]

A ViT-S/14 with random weights, 4 images of 252 x 252, 19 classes, one thread; ratios to our LoRA.
`peft` is `peft.get_peft_model` on the same model, of the same rank, with our linear head. EoMT is
that of transformers at the size of a ViT-S, 100 queries, all of it trained; beside it Causal-Tune
with our Mask2Former head.
"""

from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import EomtConfig, EomtForUniversalSegmentation

import measure
from causalseg.adapters.base import trainable_parameters
from measure import Row, Target

ABOUT = (
    "A step and a prediction beside other software: ViT-S/14, 4 images of 252 × 252, one thread."
)
BATCH, SIDE, CLASSES = 4, 252, 19
LORA = {"name": "lora", "rank": 5, "alpha": 10, "targets": "all"}
TARGETS = (Target("lora", "step/peft", 1.05),)
Runs = tuple[nn.Module, Callable[[], None], Callable[[], None]]  # model, step, prediction


def ours(images: Tensor, labels: Tensor, head: str, is_peft: bool, **adapter: object) -> Runs:
    """Return a model of this package, or one that peft changes."""
    model = measure.build(f"head={head}", **adapter)
    if is_peft:
        targets = r"blocks\..*\.(qkv|proj|fc1|fc2)"  # a list would match the patch embedding
        get_peft_model(model.backbone.vit, LoraConfig(r=5, lora_alpha=10, target_modules=targets))

    def predict() -> None:
        with torch.inference_mode():
            model(images)

    return model, lambda: measure.step(model, images, labels, False), predict


def eomt(images: Tensor, labels: Tensor) -> Runs:
    """Return EoMT of transformers."""
    sizes = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 12}
    rest = {"patch_size": 14, "image_size": SIDE, "num_queries": 100, "num_labels": CLASSES}
    model = EomtForUniversalSegmentation(EomtConfig(**sizes, **rest))
    classes = [each.unique() for each in labels]
    masks = [
        (each == ids[:, None, None]).float() for each, ids in zip(labels, classes, strict=True)
    ]

    def step() -> None:
        model.zero_grad()
        model(pixel_values=images, mask_labels=masks, class_labels=classes).loss.backward()

    def predict() -> None:
        with torch.inference_mode():
            model(pixel_values=images)

    return model, step, predict


def measure_peers(rounds: int) -> list[Row]:
    """Time steps and predictions; a row for each model."""
    torch.set_num_threads(1)
    images = torch.rand(BATCH, 3, SIDE, SIDE)
    cells = torch.randint(0, CLASSES, (BATCH, 6, 6))
    labels = cells.repeat_interleave(SIDE // 6, 1).repeat_interleave(SIDE // 6, 2)
    pair = (images, labels)
    found = {
        "lora": ours(*pair, "linear", False, **LORA),
        "peft": ours(*pair, "linear", True),
        "causal_tune": ours(*pair, "linear", False, name="causal_tune"),
        "causal_tune, mask2former": ours(*pair, "mask2former", False, name="causal_tune"),
        "EoMT of transformers": eomt(*pair),
    }
    steps = measure.interleave({name: each[1] for name, each in found.items()}, rounds)
    for model, *_ in found.values():
        model.eval()
    predictions = measure.interleave({name: each[2] for name, each in found.items()}, rounds)
    rows = []
    for name, (model, *_) in found.items():
        row: Row = {"case": name, "trained": trainable_parameters(model)}
        row["step/lora"] = round(measure.ratio(steps, name, "lora"), 3)
        row["step/peft"] = round(measure.ratio(steps, name, "peft"), 3)
        row["prediction/lora"] = round(measure.ratio(predictions, name, "lora"), 3)
        rows.append(row)
    return rows


def main() -> None:
    options = measure.make_parser(__doc__, rounds=3).parse_args()
    measure.tell(ABOUT, measure_peers(options.rounds), TARGETS, options.json)


if __name__ == "__main__":
    main()
