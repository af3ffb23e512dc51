"""The table of what every method trains, counted on models made for it.

The methods are those of the configuration, with their defaults and again with each option that is a
switch or has named values changed alone: a row where that changes the count, else a name below.
"""

import functools
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args, get_origin

import timm
import torch
from pydantic import TypeAdapter

from causalseg.adapters.base import trainable_parameters
from causalseg.backbones.timm import FrozenBackbone
from causalseg.build.adapter import build_adapter
from causalseg.config.adapters import AdapterConfig
from causalseg.config.block import Block
from causalseg.report.format import format_markdown

_BACKBONES = {"ViT-S": "small", "ViT-B": "base", "ViT-L": "large"}
_QUERY_WIDTH = 256  # of the protocol's head
# Methods that need options: an example, and its name.
_EXAMPLES: dict[str, tuple[dict[str, Any], str]] = {
    "peft": ({"type": "LOHA"}, "[peft](peft.md), type LOHA"),
    "chain": ({"parts": ["lora", "causal_tune"]}, "[chain](README.md#compose), lora + causal_tune"),
}


class Row(NamedTuple):
    """What a method trains on each backbone; ``option`` is what differs from its defaults."""

    method: str
    option: str
    counts: list[str]


@functools.cache
def count_parameters() -> list[Row]:
    """Return a row for each method of the configuration, followed by rows for its options."""
    rows = []
    for kind in get_args(get_args(AdapterConfig)[0]):
        method = kind.model_fields["name"].default
        example, _ = _EXAMPLES.get(method, ({}, ""))
        rows += [
            Row(method, option, _count({"name": method, **example, **changes}))
            for option, changes in [("", {}), *_choices(kind)]
        ]
    return rows


def parameters_page(generated: str) -> str:
    """Return docs/methods/parameters.md; ``generated`` is the line that says so."""
    rows = count_parameters()
    plain = {row.method: row.counts for row in rows if not row.option}
    shown = [row for row in rows if not row.option or row.counts != plain[row.method]]
    same = [f"{row.method}, {row.option}" for row in rows if row not in shown]
    return "\n\n".join(
        [
            "# Trained parameters",
            generated,
            "Counted on models made with each method's defaults, the head not included. A second "
            f"number is with the query link of a Mask2Former head of width {_QUERY_WIDTH}. All "
            "backbones have patches of 14 pixels and a position grid of 37 x 37.",
            format_markdown(["method", *_BACKBONES], [[_title(row), *row.counts] for row in shown]),
            f"As many as with the method's defaults: {'; '.join(same)}.",
            "[All methods](README.md)\n",
        ]
    )


def _count(options: dict[str, Any]) -> list[str]:
    """Count on every backbone, and again with a query link if that changes the count."""
    checked = TypeAdapter(AdapterConfig).validate_python(options)
    cells = []
    for size in _BACKBONES:
        backbone = _backbone(size)
        with torch.device("meta"):
            adapters = [build_adapter(checked, backbone, width) for width in (None, _QUERY_WIDTH)]
        counts = [0 if adapter is None else trainable_parameters(adapter) for adapter in adapters]
        cells.append(" / ".join(f"{count:,}" for count in dict.fromkeys(counts)))
    return cells


@functools.cache
def _backbone(size: str) -> FrozenBackbone:
    with torch.device("meta"):  # shapes without numbers
        name = f"vit_{_BACKBONES[size]}_patch14_dinov2"
        return FrozenBackbone(timm.create_model(name, num_classes=0, dynamic_img_size=True))


def _choices(block: type[Block], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and change of each value of an option that is not its default."""
    for key, field in block.model_fields.items():
        if key in ("query_link", "init"):  # counted with every row; a scale is one number
            continue
        kind = field.annotation
        values = (True, False) if kind is bool else ()
        if get_origin(kind) is Literal:
            values = get_args(kind)
        elif isinstance(kind, type) and issubclass(kind, Block):
            for option, inner in _choices(kind, f"{prefix}{key}."):
                yield option, {key: inner}
        for value in values:
            if value != field.default:
                text = str(value).lower() if kind is bool else value
                yield f"{prefix}{key}={text}", {key: value}


def _title(row: Row) -> str:
    if row.option:
        return f"{row.method}, {row.option}"
    _, title = _EXAMPLES.get(row.method, ({}, f"[{row.method}]({row.method}.md)"))
    return title
