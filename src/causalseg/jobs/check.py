"""`causalseg data check`: read every pair that a run would read, before it runs."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Int
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils.data import Dataset

from causalseg.build.data import list_pairs
from causalseg.build.pairs import Pairs
from causalseg.config.load import load_config, parse_config
from causalseg.config.settings import SETTINGS
from causalseg.data.catalogue import LAYOUTS
from causalseg.data.classes import CITYSCAPES19, IGNORE, ClassList
from causalseg.data.dataset import PairData, Sample, read_depth
from causalseg.data.files import open_files
from causalseg.data.layout_data import LayoutData, find_splits, has_labels
from causalseg.data.layouts import Layout
from causalseg.data.workers import compute_in_order
from causalseg.errors import CausalsegError, ConfigError, DataError, did_you_mean
from causalseg.report.contact_sheet import draw_sheet
from causalseg.runs.scores import size_text
from causalseg.writing import replacing

_NUM_EXAMPLES = 4  # of each data set on a contact sheet
_NUM_DEPTHS = 8  # images of each data set whose largest value is read
_FEW = 10  # classes, so that a list of them fits into a line
_NUM_PROBLEMS = 5  # of each data set that are printed


@dataclass
class Findings:
    """The content and the problems of one data set."""

    name: str
    classes: ClassList = CITYSCAPES19
    count: int = 0  # of pairs
    published: int | None = None  # number of published pairs, if some of them are missing
    absent: str = ""  # why there was nothing to read
    # Of pairs that cannot be used, unpaired files and missing published pairs.
    problems: list[str] = field(default_factory=list)
    # Number of images of each (height, width).
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    resized: int = 0  # labels of another size than their image's, where that is allowed
    # Pixels by class, at the end those ignored.
    pixels: Int[np.ndarray, " k+1"] = field(default_factory=lambda: np.zeros(1, np.int64))
    examples: list[Sample] = field(default_factory=list)
    remark: str = ""  # what is no error but hardly meant


class PairResult(NamedTuple):
    """What `Findings` sums up, of one pair."""

    size: tuple[int, int] = (0, 0)
    is_resized: bool = False
    pixels: Int[np.ndarray, " k+1"] = np.zeros(0, np.int64)
    problem: str = ""


def check_data(
    what: str,
    overrides: Sequence[str] = (),
    root: Path | None = None,
    split: str | None = None,
    sheet: Path | None = None,
    workers: int = 0,
) -> list[Findings]:
    """Read every image and label of a layout, a setting or a configuration file, each pair once.

    ``root`` is that of the layout, otherwise ``data.root``. ``split`` is one of the layout; without
    it, missing splits are no problem, unless all are missing. ``sheet`` is the path of a contact
    sheet, a PNG. 0 ``workers`` read in this process. A data set that could not be opened has one
    problem. Raises ConfigError for wrong arguments and for sources or domains of other classes.
    """
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise ConfigError(f"sheet {sheet}: the sheet is a PNG, give a name that ends in .png")
    if workers < 0:
        raise ConfigError(f"workers {workers}: give 0 or more processes")
    known: dict[Hashable, PairResult] = {}
    findings = []
    for name, open_pairs in _find_pairs(what, overrides, root, split).items():
        try:
            opened = open_pairs()
        except CausalsegError as error:
            findings.append(Findings(name, problems=[str(error)]))
            continue
        if isinstance(opened, str):
            findings.append(Findings(name, absent=opened))
        else:
            num_examples = 0 if sheet is None else _NUM_EXAMPLES
            findings.append(check_pairs(name, *opened, known, num_examples, workers))
    rows = [(each.name, each.classes, each.examples) for each in findings if each.examples]
    if sheet is not None and rows:
        with replacing(sheet) as temporary:
            draw_sheet(rows, temporary)
    return findings


def check_pairs(
    name: str,
    data: Dataset[Sample],
    classes: ClassList,
    known: dict[Hashable, PairResult],
    num_examples: int = 0,
    workers: int = 0,
) -> Findings:
    """Read every image and label of a data set, but for pairs in ``known``; add the new ones.

    ``num_examples`` samples are kept: evenly spaced ones, of those not read before.
    """
    count, k = len(cast(Sized, data)), len(classes.names)
    findings = Findings(name, classes, count, pixels=np.zeros(k + 1, np.int64))
    keys: list[Hashable] = [(name, index) for index in range(count)]
    if isinstance(data, PairData):
        findings.problems += data.unpaired
        findings.remark = _remark_on_depth(data)
        reader = f"{type(data.labels)} {data.labels.table}"
        keys = [(reader, *map(data.where, pair)) for pair in data.pairs]
    if isinstance(data, LayoutData) and data.shortfall:
        findings.published = data.num_published
        findings.problems.append(data.shortfall)
    new = [index for index in range(count) if keys[index] not in known]
    console = Console(stderr=True)
    read = compute_in_order(partial(_check_pair, data, k), new, workers)
    is_silent = not console.is_terminal
    results = track(read, f"checking {name}", len(new), console=console, disable=is_silent)
    known |= {keys[index]: result for index, result in zip(new, results, strict=True)}
    for result in map(known.__getitem__, keys):
        if result.problem:
            findings.problems.append(result.problem)
            continue
        findings.sizes[result.size] += 1
        findings.resized += result.is_resized
        findings.pixels += result.pixels
    if findings.sizes and not findings.pixels[:-1].any():
        findings.problems.append(
            f"no pixel of its {findings.sizes.total()} labels has a class: check the label ids, "
            "data.ignore and id_map"
        )
    spaced = {count * (2 * i + 1) // (2 * num_examples) for i in range(num_examples)}
    findings.examples = [data[i] for i in new if i in spaced and not known[keys[i]].problem]
    return findings


def _check_pair(data: Dataset[Sample], k: int, index: int) -> PairResult:
    is_resized = False
    try:
        if isinstance(data, PairData):
            image, label = data.read_image(index), data.read_label(index)
            is_resized = label.shape != image.shape[1:]
            label = data.join(index, image, label).label
        else:
            label = data[index].label
    except DataError as error:
        return PairResult(problem=str(error))
    ids = np.where(label == IGNORE, k, label)
    H, W = label.shape
    return PairResult((H, W), is_resized, np.bincount(ids.ravel(), minlength=k + 1))


def list_problems(findings: Sequence[Findings]) -> list[str]:
    """Return the first problems of each data set; the same text once, with all names."""
    names, rest = defaultdict[str, list[str]](list), []
    for each in findings:
        for problem in each.problems[:_NUM_PROBLEMS]:
            names[problem].append(each.name)
        if len(each.problems) > _NUM_PROBLEMS:
            rest.append(f"{each.name}: {len(each.problems) - _NUM_PROBLEMS} more")
    return [f"{', '.join(same)}: {problem}" for problem, same in names.items()] + rest


def make_table(findings: Sequence[Findings]) -> Table:
    """Return a table of pairs, problems, sizes and the fraction of ignored pixels."""
    table = Table(title="data sets")
    for head in ("", "pairs", "problems", "size", "ignored"):
        table.add_column(head, overflow="fold")
    for each in findings:
        ignored = f"{100 * each.pixels[-1] / max(1, each.pixels.sum()):.3g} %"
        sizes = [f"{size_text(size)} px ({n})" for size, n in each.sizes.most_common(3)]
        sizes += ["..."] if len(each.sizes) > 3 else []
        sizes += [f"{each.resized} labels resized to their images"] if each.resized else []
        pairs = each.absent or str(each.count)
        pairs += "" if each.published is None else f" of {each.published}"
        table.add_row(each.name, pairs, str(len(each.problems)), "\n".join(sizes), ignored)
    return table


def list_classes(findings: Sequence[Findings]) -> list[str]:
    """Return the classes of each data set in percent of labelled pixels, most frequent first."""
    lines = []
    for each in findings:
        pixels, names = each.pixels[:-1], each.classes.names
        order = np.argsort(-pixels, kind="stable")
        percent = [f"{names[k]} {100 * pixels[k] / pixels.sum():.3g}" for k in order if pixels[k]]
        absent = [names[k] for k in order if not pixels[k]]
        if percent:
            none = f"; none of {', '.join(absent)}" if absent else ""
            lines.append(f"{each.name}: {', '.join(percent)}{none}")
    return lines


def list_remarks(findings: Sequence[Findings]) -> list[str]:
    """Return what is no error but hardly meant: classes that no source has, almost black images."""
    remarks = [f"{each.name}: {each.remark}" for each in findings if each.remark]
    sources = [each for each in findings if each.name.startswith("source") and each.sizes]
    if not sources:
        return remarks
    classes, pixels = sources[0].classes, np.sum([each.pixels for each in sources], axis=0)
    missing = [name for name, count in zip(classes.names, pixels[:-1], strict=True) if not count]
    if not missing or len(missing) == len(classes.names):
        return remarks
    text = f"the sources have no pixel of {', '.join(missing)}, which the model cannot learn"
    if len(missing) == 1 and pixels[-1] and len(classes.names) <= _FEW:
        ids = dict(zip(classes.names, classes.ids, strict=True)) | {missing[0]: IGNORE}
        text += (
            f"; {100 * pixels[-1] / pixels.sum():.3g} % of the pixels are ignored. If those of "
            f"{IGNORE} are {missing[0]}, write data.classes: {{names: [{', '.join(ids)}], ids: "
            f"{list(ids.values())}, ignore: []}} and data.ignore: 254"
        )
    return [*remarks, text]


def _remark_on_depth(data: PairData) -> str:
    """Return what to set if the 16-bit images of a data set use 12 bits."""
    count = len(data)
    spaced = sorted({count * i // _NUM_DEPTHS for i in range(_NUM_DEPTHS)}) if count else []
    try:
        depths = [read_depth(data.read(data.pairs[index][0])) for index in spaced]
    except DataError:  # which is a problem already
        return ""
    largest = max((depth for depth in depths if depth is not None), default=0)
    bits = max(9, largest.bit_length())
    if None in depths or bits > 12 or data.decoding.bits <= bits:
        return ""
    return (
        f"its 16-bit images have values of at most {largest} (of {len(spaced)} images), which are "
        "almost black: set data.bits=12 if the sensor has 12 bits"
    )


def _find_pairs(
    what: str, overrides: Sequence[str], root: Path | None, split: str | None
) -> Mapping[str, Callable[[], Pairs | str]]:
    """Return by name a function that opens each data set, or says why there is nothing to read."""
    if what in LAYOUTS:
        if overrides or root is None:
            raise ConfigError(f"data check {what}: give its folder with --root, and no overrides")
        layout = LAYOUTS[what]
        splits = [split] if split is not None else _find_present_splits(layout, root)
        return {
            f"{what} {name}": partial(_open_layout, layout, name, root, name in splits)
            for name in (layout.splits if split is None else splits)
        }
    if split is not None:
        raise ConfigError("--split applies to a layout only: a setting has its own splits")
    if root is not None:
        overrides = [f"data.root={root}", *overrides]
    if what in SETTINGS:
        config = parse_config({"setting": what}, overrides, f"setting {what}")
    elif Path(what).suffix in (".yaml", ".yml"):
        config = load_config(Path(what), overrides)
    else:
        names = [*LAYOUTS, *SETTINGS]
        raise ConfigError(f"data check {what!r}: {did_you_mean(what, names)}, or a .yaml file")
    return list_pairs(config.data)


def _find_present_splits(layout: Layout, root: Path) -> Sequence[str]:
    """Return the splits with images, or the first, whose error shows the expected files."""
    files, every = open_files(root), list(layout.splits)
    return every if files.broken else find_splits(layout, files) or every[:1]


def _open_layout(layout: Layout, split: str, root: Path, is_present: bool) -> Pairs | str:
    if is_present:
        return LayoutData(layout, split, root, is_strict=False), layout.classes
    is_labelled = has_labels(layout.splits[split], open_files(root))
    return "only labels" if is_labelled else "not there"
