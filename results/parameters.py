"""The table of what every method trains, counted on models made for it."""

import functools

import timm
import torch
from pydantic import TypeAdapter

from causalseg.adapters.base import trainable_parameters
from causalseg.backbones.timm import TimmBackbone
from causalseg.build_adapter import build_adapter
from causalseg.comparison_page import markdown_table
from causalseg.config.adapters import AdapterConfig

_BACKBONES = {"ViT-S": "small", "ViT-B": "base", "ViT-L": "large"}
_QUERY_WIDTH = 256  # of the protocol's head
# SoMA trains the factors of a LoRA on all linear layers; its start would need the weights' SVD.
_METHODS = {
    "[full](full.md)": "full",
    "[rein](rein.md)": "rein",
    "[set](set.md)": "set",
    "[fada](fada.md)": "fada",
    "[lora](lora.md)": "lora",
    "[dora](dora.md)": "dora",
    "[soma](soma.md)": {"name": "lora", "rank": 16, "targets": "all"},
    "[adaptformer](adaptformer.md)": "adaptformer",
    "[vpt](vpt.md)": "vpt",
    "[causal_tune](causal_tune.md)": "causal_tune",
    "causal_tune, suppress": {"suppress": True},
    "causal_tune, band.learnable": {"band": {"learnable": True}},
    "causal_tune, band.gains": {"band": {"gains": True}},
    "lora and causal_tune": ["lora", "causal_tune"],
}


@functools.cache
def count_parameters() -> list[list[str]]:
    """Return a row for each method: name, then its trained parameters by backbone."""
    rows = [[name] for name in _METHODS]
    for size in _BACKBONES.values():
        with torch.device("meta"):  # shapes without numbers
            vit = timm.create_model(
                f"vit_{size}_patch14_dinov2", num_classes=0, dynamic_img_size=True
            )
            backbone = TimmBackbone(vit)
            for row, options in zip(rows, _METHODS.values(), strict=True):
                row.append(" / ".join(_counts(options, backbone)))
    return rows


def parameters_page(generated: str) -> str:
    """Return docs/methods/parameters.md; ``generated`` is the line that says so."""
    return "\n\n".join(
        [
            "# Trained parameters",
            generated,
            "Counted on models made with each method's defaults, the head not included. A second "
            f"number is with the query link of a Mask2Former head of width {_QUERY_WIDTH}. All "
            "backbones have patches of 14 pixels and a position grid of 37 x 37.",
            markdown_table(["method", *_BACKBONES], count_parameters()),
            "[All methods](README.md)\n",
        ]
    )


def _counts(options: object, backbone: TimmBackbone) -> list[str]:
    checked = TypeAdapter(AdapterConfig).validate_python(options)
    counts = []
    for query_width in (None, _QUERY_WIDTH):
        adapter = build_adapter(checked, backbone, query_width)
        assert adapter is not None
        counts.append(f"{trainable_parameters(adapter):,}")
    return list(dict.fromkeys(counts))
