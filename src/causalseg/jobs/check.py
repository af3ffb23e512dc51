"""`causalseg data check`: look at everything that a run would read, before it runs."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.table import Table

from causalseg.build.data import list_pairs
from causalseg.build.pairs import Pairs
from causalseg.config.load import load_config, parse_config
from causalseg.config.settings import SETTINGS
from causalseg.data.catalogue import LAYOUTS
from causalseg.data.classes import CITYSCAPES19
from causalseg.data.files import open_files
from causalseg.data.inspect import Findings, Looks, check_pairs, draw_sheet
from causalseg.data.layout_data import LayoutData, find_splits, has_labels
from causalseg.data.layouts import Layout
from causalseg.data.templates import Template
from causalseg.errors import CausalsegError, ConfigError, did_you_mean
from causalseg.runs.scores import size_text
from causalseg.writing import replacing


def check_data(
    what: str,
    overrides: Sequence[str] = (),
    root: Path | None = None,
    split: str | None = None,
    sheet: Path | None = None,
    workers: int = 0,
) -> list[Findings]:
    """Read every image and label of a data set, a setting or a configuration, each pair once.

    Args:
        what: name of a layout or a setting, or the path of a configuration.
        overrides: of the configuration, such as ``data.roots.cityscapes=/data/cityscapes``.
        root: where a layout lies; of a setting or a configuration, ``data.root``.
        split: of a layout; None looks at all.
        sheet: where a contact sheet is written, a PNG; None writes none.
        workers: processes that read; 0 takes this one.

    Returns:
        What was found in each data set; one that could not be opened has one problem. Without
        ``split``, splits that were not downloaded are no problem, unless none is there.

    Raises:
        ConfigError: if the name is not known, a source or domain cannot be used with the classes,
            ``sheet`` is no PNG, or ``workers`` is below 0.
        MissingFileError: if the root of a layout is not there.
    """
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise ConfigError(f"sheet {sheet}: the sheet is a PNG, give a name that ends in .png")
    if workers < 0:
        raise ConfigError(f"workers {workers}: 0 or more processes read")
    looks: Looks = {}
    found = []
    for name, open_pairs in _find_pairs(what, overrides, root, split).items():
        try:
            opened = open_pairs()
        except CausalsegError as error:
            found.append(replace(_nothing(name), problems=[str(error)]))
            continue
        num_examples = 0 if sheet is None else 4
        if isinstance(opened, str):
            found.append(replace(_nothing(name), absent=opened))
        else:
            found.append(check_pairs(name, *opened, num_examples, looks, workers))
    if sheet is not None and any(each.examples for each in found):
        with replacing(sheet) as temporary:
            draw_sheet(found, temporary)
    return found


def list_problems(findings: Sequence[Findings]) -> list[str]:
    """Return everything that was wrong, the first few of each data set; the same once for all."""
    shown = 5
    names: dict[str, list[str]] = {}
    for found in findings:
        for problem in found.problems[:shown]:
            names.setdefault(problem, []).append(found.name)
    more = [found for found in findings if len(found.problems) > shown]
    return [
        *(f"{', '.join(of)}: {problem}" for problem, of in names.items()),
        *(f"{found.name}: {len(found.problems) - shown} more" for found in more),
    ]


def table(findings: Sequence[Findings]) -> Table:
    """Return pairs, problems and sizes of each data set, and which share of pixels is ignored."""
    shown = Table(title="what was found")
    for head in ("", "pairs", "problems", "size", "ignored"):
        shown.add_column(head, overflow="fold")
    for found in findings:
        ignored = f"{100 * found.pixels[-1] / max(1, found.pixels.sum()):.3g} %"
        sizes = [f"{size_text(size)} px ({n})" for size, n in found.sizes.most_common(3)]
        more = ["..."] if len(found.sizes) > 3 else []
        more += [f"{found.resized} labels resized to their images"] if found.resized else []
        pairs = found.absent or str(found.count)
        pairs += "" if found.published is None else f" of {found.published}"
        shown.add_row(found.name, pairs, str(len(found.problems)), "\n".join(sizes + more), ignored)
    return shown


def list_classes(findings: Sequence[Findings]) -> list[str]:
    """Return the classes of each data set, the most common first, in percent of labelled pixels."""
    lines = []
    for found in findings:
        pixels, names = found.pixels[:-1], found.classes.names
        order = np.argsort(-pixels, kind="stable")
        shares = [f"{names[k]} {100 * pixels[k] / pixels.sum():.3g}" for k in order if pixels[k]]
        absent = [names[k] for k in order if not pixels[k]]
        if shares:
            none = f"; none of {', '.join(absent)}" if absent else ""
            lines.append(f"{found.name}: {', '.join(shares)}{none}")
    return lines


def _find_pairs(
    what: str, overrides: Sequence[str], root: Path | None, split: str | None
) -> Mapping[str, Callable[[], Pairs | str]]:
    """Return by name what opens each data set; it says so of one that was not downloaded."""
    if what in LAYOUTS:
        if overrides or root is None:
            raise ConfigError(f"data check {what}: say where it lies with --root, and nothing else")
        layout = LAYOUTS[what]
        splits = [split] if split is not None else _present_splits(layout, root)
        return {
            f"{what} {name}": partial(_open_layout, layout, name, root, name in splits)
            for name in (layout.splits if split is None else splits)
        }
    if split is not None:
        raise ConfigError("--split belongs to a layout; a setting has its own splits")
    if root is not None:
        overrides = [f"data.root={root}", *overrides]
    if what in SETTINGS:
        config = parse_config({"setting": what}, overrides, f"setting {what}")
    elif Path(what).suffix in (".yaml", ".yml"):
        config = load_config(Path(what), overrides)
    else:
        known = [*LAYOUTS, *SETTINGS]
        raise ConfigError(f"data check {what!r}: {did_you_mean(what, known)}, or a .yaml file")
    return list_pairs(config.data)


def _present_splits(layout: Layout, root: Path) -> Sequence[str]:
    """Return the splits to be opened: those with images; one at least, to say what is missing."""
    files, every = open_files(root), list(layout.splits)
    return every if files.broken else find_splits(layout, files) or every[:1]


def _open_layout(layout: Layout, split: str, root: Path, is_there: bool) -> Pairs | str:
    if is_there:
        return LayoutData(layout, split, root, is_strict=False), layout.classes
    is_labelled = has_labels(layout.splits[split], open_files(root))
    return "labels alone" if is_labelled else "not there"


def _nothing(name: str) -> Findings:
    """Return what is found where there is nothing."""
    none = np.zeros(len(CITYSCAPES19.names), np.int64)
    return Findings(name, CITYSCAPES19, 0, np.append(none, 0), none)


def list_short(names: Sequence[str]) -> list[str]:
    """Return published data sets in a line each: name, splits, homepage.

    Raises:
        ConfigError: if a name is not known.
    """
    lines = []
    for name in names:
        layout = _find_layout(name)
        splits = ", ".join(
            split if about.count is None else f"{split} {about.count:,}"
            for split, about in layout.splits.items()
        )
        lines.append(f"{name}: {splits}; {layout.homepage}")
    return lines


def describe_layout(name: str) -> str:
    """Return where a data set comes from and the files it is expected to have, as text.

    Fields show their regular expression where splits differ by nothing else.

    Raises:
        ConfigError: if the name is not known.
    """
    layout = _find_layout(name)
    lines = [f"{name}: {layout.title}", f"{layout.homepage} ({layout.license})"]
    if layout.archives:
        lines.append(layout.describe_archives())
    if layout.size:
        lines.append(f"images of {size_text(layout.size)} px, as a rule")
    images = {k: [*map(Template, v.image_templates)] for k, v in layout.splits.items()}
    plain = Counter(each.plain for templates in images.values() for each in templates)
    for split, about in layout.splits.items():
        count = "" if about.count is None else f" {about.count:,} pairs"
        shown = [each.plain if plain[each.plain] == 1 else each.text for each in images[split]]
        lines += [
            f"  {split}:{count}",
            f"    {' or '.join(shown)}",
            f"    {' or '.join(Template(text).plain for text in about.label_templates)}",
        ]
    return "\n".join(lines)


def _find_layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise ConfigError(f"data list {name!r}: {did_you_mean(name, LAYOUTS)}")
    return LAYOUTS[name]
