"""The commands about data. They import what they need when they run, so that help is instant."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

data_app = App(name="data", help="Make data, and look at it before a run.")


def at_least_one(value: int) -> None:
    """Raise ValueError for a count below 1."""
    if value < 1:
        raise ValueError("must be 1 or more")


@data_app.command
def scenes(
    *,
    out: Path,
    domain: Literal["clear", "night", "fog", "rain", "snow"] = "clear",
    count: Annotated[int, Parameter(validator=lambda _t, v: at_least_one(v))] = 10,
    first: int = 0,
    size: tuple[int, int] = (240, 320),
) -> None:
    """Write procedural street scenes: images/, labels/ and depth/ (16-bit PNG, centimetres).

    Parameters
    ----------
    out
        Folder to write into.
    domain
        Weather and light.
    count
        Number of scenes.
    first
        Seed of the first scene.
    size
        Height and width in pixels.
    """
    from causalseg.data.export import write_scenes

    write_scenes(out, domain, range(first, first + count), size)
    print(f"{count} scenes: {out}")


@data_app.command(name="list")
def list_layouts(layout: str = "", /, *, short: bool = False) -> None:
    """Print the published data sets that are known: where to get them, splits and their files.

    Parameters
    ----------
    layout
        One of them; left out, all.
    short
        Names, splits and homepages alone, a line each.
    """
    from causalseg.data.catalogue import LAYOUTS
    from causalseg.jobs.check import describe_layout, list_short

    if short:
        print("\n".join(list_short([layout] if layout else list(LAYOUTS))))
    else:
        print("\n\n".join(map(describe_layout, [layout] if layout else LAYOUTS)))


@data_app.command(name="check")
def check_data(
    what: str,
    /,
    *overrides: str,
    root: Path | None = None,
    split: str | None = None,
    sheet: Path | None = None,
    workers: int = 2,
) -> None:
    """Read every image and label before a long run; exit code 2 if one cannot be used.

    Parameters
    ----------
    what
        A data set such as cityscapes, a setting such as citys2acdc, or a configuration file.
    overrides
        Options of a setting or configuration as key=value, such as data.roots.acdc=/data/acdc.
    root
        Where the data set lies; of a setting, the folder that holds all of its data sets.
    split
        Of a data set: its split; left out, all.
    sheet
        PNG for some of the images with their labels.
    workers
        Processes that read; 0 reads in this one.
    """
    from rich.console import Console

    from causalseg.errors import DataError
    from causalseg.jobs import check

    found = check.check_data(what, overrides, root, split, sheet, workers)
    Console().print(check.table(found))
    classes = check.list_classes(found)
    if classes:
        print("\n  ".join(["labelled pixels in percent:", *classes]))
    problems = check.list_problems(found)
    if problems:
        rest = [each.name for each in found if not (each.absent or each.problems)]
        lines = "\n".join(["these are not complete or cannot be used:", *problems])
        hint = f"\nThe others can be used: {'; '.join(rest)}" if rest else ""
        raise DataError(lines.replace("\n", "\n  ") + hint)
    print("everything can be used")
