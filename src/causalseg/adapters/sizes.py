"""The sizes that adapters are made for: widths, depth and layers."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from causalseg.errors import ConfigError


def check_sizes(method: Any, width: Any, depth: Any) -> None:
    """Raise ConfigError unless width and depth are numbers of channels and blocks."""
    name, widths = method.__name__, width if isinstance(width, tuple | list) else [width]
    if isinstance(width, nn.Module):
        raise ConfigError(f"{name} takes width and depth; for a model use {name}.for_model(model)")
    if len(widths) > 1 and method.has_one_width:
        raise ConfigError(
            f"{name} has one width; for stages of widths {list(widths)} use {name}.for_model(model)"
        )
    if isinstance(width, tuple | list) and len(widths) != depth:
        raise ConfigError(f"{name}: {len(widths)} widths for {depth} blocks: give one for each")
    for key, value in [("depth", depth), *(("width", each) for each in widths)]:
        if type(value) is not int or value < 1:
            raise ConfigError(f"{name}: {key} = {value!r} must be an integer of at least 1")


def check_layers(layers: int | Sequence[int] | None, depth: int) -> tuple[int, ...]:
    """Return sorted indices of blocks: of a list, of the last k, or of all for None.

    Raises:
        ConfigError: if one is no block, or named twice, or there is none.
    """
    if layers is None:
        return tuple(range(depth))
    chosen = range(depth - layers, depth) if isinstance(layers, int) else sorted(layers)
    is_known = all(0 <= layer < depth for layer in chosen)
    if not is_known or not chosen or len(set(chosen)) < len(chosen):
        raise ConfigError(
            f"layers = {layers}: give different blocks from 0 to {depth - 1}, or the number of "
            f"last blocks, at most {depth}"
        )
    return tuple(chosen)


def describe_widths(widths: Sequence[int]) -> str:
    """Return the sizes of a model as text."""
    if len(set(widths)) == 1:
        return f"width={widths[0]}, depth={len(widths)}"
    return f"stages of widths {', '.join(map(str, widths))}"
