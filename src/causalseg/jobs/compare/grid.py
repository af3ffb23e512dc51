"""A grid: options with several values each, and all combinations of these."""

import itertools
from collections.abc import Sequence

from causalseg.errors import ConfigError

Grid = dict[str, list[float]]  # by option


def parse_grid(texts: Sequence[str]) -> Grid:
    """Read options with two values or more, such as ``train.adapter_lr=2.5e-4,5e-4``."""
    grid: Grid = {}
    for text in texts:
        key, _, listed = text.partition("=")
        try:
            values = sorted(float(value) for value in listed.split(","))
        except ValueError:
            values = []
        if not key or key in grid or len(values) < 2 or len(set(values)) < len(values):
            raise ConfigError(
                f"grid {text!r}: give an option once, with two different numbers or more, such as "
                "train.adapter_lr=2.5e-4,5e-4,1e-3"
            )
        grid[key] = values
    if not grid:
        raise ConfigError("nothing to try: give --grid train.adapter_lr=2.5e-4,5e-4,1e-3")
    return grid


def combine(grid: Grid) -> list[dict[str, float]]:
    """Return all combinations, the last option changing fastest; none without an option."""
    combined = itertools.product(*grid.values()) if grid else ()
    return [dict(zip(grid, values, strict=True)) for values in combined]
