"""Look at every pair of a data set before a long run: what cannot be read, and what is in it."""

from collections import Counter
from collections.abc import Hashable, Sequence, Sized
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from rich.console import Console
from rich.progress import track
from torch.utils.data import Dataset

from causalseg.data.classes import IGNORE, ClassList
from causalseg.data.dataset import PairData, Sample
from causalseg.data.layout_data import LayoutData
from causalseg.data.workers import compute_in_order
from causalseg.errors import DataError

_TILE = 320  # pixels, the longer side
_LONGEST = 40  # letters of a class's name on a sheet


@dataclass
class Findings:
    """What was found in one data set.

    Attributes:
        name: what the data set is called.
        classes: of its labels.
        count: pairs looked at.
        published: pairs that the publisher names, where fewer are there.
        absent: what to say where there was nothing to look at; else empty.
        problems: one message for each pair that cannot be used, one for images without label and
            one for labels without image, one for published pairs that are not there.
        sizes: how many images have which (height, width).
        resized: labels of another size than their image's, where that is allowed.
        pixels: labelled pixels by class, the last number those ignored.
        images: in how many images each class occurs.
        examples: some samples, spread evenly; none of those that were looked at before.
    """

    name: str
    classes: ClassList
    count: int
    pixels: Int[np.ndarray, " k"]
    images: Int[np.ndarray, " k"]
    problems: list[str] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    resized: int = 0
    examples: list[Sample] = field(default_factory=list)
    published: int | None = None
    absent: str = ""


class Look(NamedTuple):
    """What a look at a pair told: (height, width) and pixels as in `Findings`, or a problem."""

    size: tuple[int, int] = (0, 0)
    is_resized: bool = False
    pixels: Int[np.ndarray, " k"] = np.zeros(0, np.int64)
    problem: str = ""


Looks = dict[Hashable, dict[Hashable, Look]]
"""What was looked at: by how labels are read, then by the files of a pair."""


def check_pairs(
    name: str,
    data: Dataset[Sample],
    classes: ClassList,
    num_examples: int = 4,
    looks: Looks | None = None,
    workers: int = 0,
) -> Findings:
    """Read every image and label of a data set.

    Args:
        name: what the data set is called.
        data: the data set.
        classes: of its labels.
        num_examples: samples to keep for a contact sheet.
        looks: pairs looked at before, which are not read again; new ones are added.
        workers: processes that read; 0 takes this one.
    """
    count, k = len(cast(Sized, data)), len(classes.names)
    found = Findings(name, classes, count, np.zeros(k + 1, np.int64), np.zeros(k, np.int64))
    if isinstance(data, PairData):
        found.problems += data.unpaired
    if isinstance(data, LayoutData) and data.shortfall:
        found.published = data.num_published
        found.problems.append(data.shortfall)
    known: dict[Hashable, Look] = {}
    files: list[Hashable] = list(range(count))
    if isinstance(data, PairData):
        files = [tuple(map(data.where, pair)) for pair in data.pairs]
        if looks is not None:
            known = looks.setdefault((type(data.labels), tuple(data.labels.table.items())), {})
    new = [index for index in range(count) if files[index] not in known]
    console = Console(stderr=True)
    looked = track(
        compute_in_order(partial(_look, data, k), new, workers),
        f"checking {name}",
        len(new),
        console=console,
        disable=not console.is_terminal,
    )
    known |= {files[index]: look for index, look in zip(new, looked, strict=True)}
    for look in map(known.__getitem__, files):
        if look.problem:
            found.problems.append(look.problem)
            continue
        found.sizes[look.size] += 1
        found.resized += look.is_resized
        found.pixels += look.pixels
        found.images += look.pixels[:-1] > 0
    shown = {count * (2 * i + 1) // (2 * num_examples) for i in range(num_examples)}
    found.examples = [data[i] for i in new if i in shown and not known[files[i]].problem]
    return found


def _look(data: Dataset[Sample], k: int, index: int) -> Look:
    is_resized = False
    try:
        if isinstance(data, PairData):
            image, label = data.read_image(index), data.read_label(index)
            is_resized = label.shape != image.shape[1:]
            label = data.join(index, image, label).label
        else:
            label = data[index].label
    except DataError as error:
        return Look(problem=str(error))
    ids = np.where(label == IGNORE, k, label)
    H, W = label.shape
    return Look((H, W), is_resized, np.bincount(ids.ravel(), minlength=k + 1))


def draw_sheet(findings: Sequence[Findings], out: Path) -> None:
    """Draw some images of every data set with their labels over them.

    Data sets of the same classes stand together, above the colours of these.
    """
    groups: dict[Hashable, list[Findings]] = {}
    for found in findings:
        if found.examples:
            groups.setdefault((found.classes.names, found.classes.palette), []).append(found)
    columns = max([3, *(len(found.examples) for group in groups.values() for found in group)])
    width, heights = 2.9 * columns, []
    for group in groups.values():
        across = _legend_columns(group[0].classes, width)
        heights += [2.3] * len(group) + [0.3 + 0.17 * -(-len(group[0].classes.names) // across)]
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    rows = iter(range(len(heights)))
    for group in groups.values():
        for found in group:
            row = next(rows)
            for place, example in enumerate(found.examples):
                axes = figure.add_subplot(grid[row, place])
                _draw_example(axes, example, found.classes)
                if place == 0:
                    _draw_name(axes, found.name)
        _draw_legend(figure.add_subplot(grid[next(rows), :]), group[0].classes, width)
    figure.savefig(out, format="png", dpi=110)


def _draw_example(axes: Axes, example: Sample, classes: ClassList) -> None:
    image, label, name = example
    palette = np.array([*classes.palette, (0, 0, 0)], np.uint8)
    step = max(1, max(label.shape) // _TILE)
    ids = np.where(label == IGNORE, len(palette) - 1, label)[::step, ::step]
    pixels = 255 * image.movedim(0, -1).numpy()[::step, ::step]
    axes.imshow((0.5 * pixels + 0.5 * palette[ids]).astype(np.uint8))
    title = axes.set_title(_shortened(Path(name).name, 50), fontsize=6)
    title.set_in_layout(False)
    axes.set_axis_off()


def _draw_name(axes: Axes, name: str) -> None:
    axes.annotate(
        _shortened(name, 34),
        *((-0.04, 0.5), None, "axes fraction"),
        rotation=90,
        ha="right",
        va="center",
        fontsize=8,
    )


def _draw_legend(axes: Axes, classes: ClassList, width: float) -> None:
    colours = [np.array(colour) / 255 for colour in classes.palette]
    labels = [_shortened(name, _LONGEST) for name in classes.names]
    patches = [Patch(color=c, label=n) for n, c in zip(labels, colours, strict=True)]
    across = _legend_columns(classes, width)
    axes.legend(handles=patches, loc="upper center", ncols=across, fontsize=6).set_in_layout(False)
    axes.set_axis_off()


def _legend_columns(classes: ClassList, width: float) -> int:
    """Return how many names stand side by side in so many inches: a letter takes 0.06 of them."""
    longest = min(_LONGEST, max(map(len, classes.names)))
    return max(1, min(7, int(width / (0.06 * longest + 0.5))))


def _shortened(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"
