"""A grid: options with several values each, and all combinations of these."""

import itertools
from collections.abc import Sequence

from causalseg.errors import ConfigError
from causalseg.report.format import OptionValue

Grid = dict[str, list[OptionValue]]  # by option


def parse_grid(texts: Sequence[str]) -> Grid:
    """Read options with two values or more, such as ``train.adapter_lr=2.5e-4,5e-4``."""
    grid: Grid = {}
    for text in texts:
        key, _, listed = text.partition("=")
        values = _read_values([value.strip() for value in listed.split(",")])
        is_varied = len(values) > 1 and len(set(values)) == len(values) and "" not in values
        if not key or key in grid or not is_varied:
            raise ConfigError(
                f"grid {text!r}: give an option once, with two different values or more, numbers "
                "or words, such as train.adapter_lr=2.5e-4,5e-4,1e-3"
            )
        grid[key] = values
    if not grid:
        raise ConfigError("nothing to try: give --grid train.adapter_lr=2.5e-4,5e-4,1e-3")
    return grid


def combine(grid: Grid) -> list[dict[str, OptionValue]]:
    """Return all combinations, the last option changing fastest; none without an option."""
    combined = itertools.product(*grid.values()) if grid else ()
    return [dict(zip(grid, values, strict=True)) for values in combined]


def _read_values(texts: Sequence[str]) -> list[OptionValue]:
    """Return numbers from the smallest on, or words in their order."""
    try:
        return sorted(float(text) for text in texts)
    except ValueError:
        return [*texts]
