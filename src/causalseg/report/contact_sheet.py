"""A contact sheet: some images of data sets with their labels drawn over them."""

from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from causalseg.data.classes import IGNORE, ClassList
from causalseg.data.dataset import Sample

Row = tuple[str, ClassList, Sequence[Sample]]
"""Name of a data set, classes of its labels, and at least one sample."""
_TILE = 320  # pixels of the longer side
_LONGEST = 40  # characters of a class name in a legend


def draw_sheet(rows: Sequence[Row], out: Path) -> None:
    """Write a PNG with a row for each data set, grouped by class list above a legend of classes."""
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        groups.setdefault((row[1].names, row[1].palette), []).append(row)
    columns = max(3, *(len(samples) for *_, samples in rows))
    width, heights = 2.9 * columns, []  # inches
    for group in groups.values():
        classes = group[0][1]
        legend_rows = -(-len(classes.names) // _count_columns(classes, width))
        heights += [2.3] * len(group) + [0.3 + 0.17 * legend_rows]
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    position = 0
    for group in groups.values():
        for name, classes, samples in group:
            for column, sample in enumerate(samples):
                axes = figure.add_subplot(grid[position, column])
                _draw_sample(axes, sample, classes, name if column == 0 else "")
            position += 1
        _draw_legend(figure.add_subplot(grid[position, :]), group[0][1], width)
        position += 1
    figure.savefig(out, format="png", dpi=110)


def _draw_sample(axes: Axes, sample: Sample, classes: ClassList, name: str) -> None:
    palette = np.array([*classes.palette, (0, 0, 0)], np.uint8)
    step = max(1, max(sample.label.shape) // _TILE)
    ids = np.where(sample.label == IGNORE, len(palette) - 1, sample.label)[::step, ::step]
    pixels = 255 * sample.image.movedim(0, -1).numpy()[::step, ::step]
    axes.imshow((0.5 * pixels + 0.5 * palette[ids]).astype(np.uint8))
    axes.set_title(_shorten(Path(sample.name).name, 50), fontsize=6).set_in_layout(False)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_ylabel(_shorten(name, 34), fontsize=8)


def _draw_legend(axes: Axes, classes: ClassList, width: float) -> None:
    pairs = zip([_shorten(name, _LONGEST) for name in classes.names], classes.palette, strict=True)
    patches = [Patch(color=np.array(colour) / 255, label=name) for name, colour in pairs]
    columns = _count_columns(classes, width)
    legend = axes.legend(handles=patches, loc="upper center", ncols=columns, fontsize=6)
    legend.set_in_layout(False)
    axes.set_axis_off()


def _count_columns(classes: ClassList, width: float) -> int:
    """Return the number of legend columns in ``width`` inches; a character takes 0.06 inches."""
    longest = min(_LONGEST, max(map(len, classes.names)))
    return max(1, min(7, int(width / (0.06 * longest + 0.5))))


def _shorten(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"
