"""The commands about data. They import on execution, so that help is instant."""

from pathlib import Path
from typing import Literal

from cyclopts import App

from causalseg.cli.arguments import Count

data_app = App(name="data", help="Generate data, and check data before a run.")


@data_app.command
def scenes(
    *,
    out: Path,
    domain: Literal["clear", "night", "fog", "rain", "snow"] = "clear",
    count: Count = 10,
    first: int = 0,
    size: tuple[int, int] = (240, 320),
) -> None:
    """Write procedural street scenes: images/, labels/ and depth/ (16-bit PNG, centimetres).

    Args:
        out: Folder to write into.
        domain: Weather and light.
        count: Number of scenes.
        first: Seed of the first scene.
        size: Height and width in pixels.
    """
    from causalseg.data.export import write_scenes

    write_scenes(out, domain, range(first, first + count), size)
    print(f"{count} scenes: {out}")


@data_app.command(name="list")
def list_layouts(layout: str = "", /, *, short: bool = False) -> None:
    """Print the known published data sets: where to get them, their splits and files.

    Args:
        layout: One of them; all if omitted.
        short: Print one line each: name, splits and homepage.
    """
    from causalseg.data.catalogue import LAYOUTS, find_layout
    from causalseg.data.layouts import Layout

    layouts = {layout: find_layout(layout)} if layout else LAYOUTS
    describe = Layout.describe_short if short else Layout.describe
    texts = [describe(each, name) for name, each in layouts.items()]
    print(("\n" if short else "\n\n").join(texts))


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

    Args:
        what: A data set such as cityscapes, a setting such as citys2acdc, or a configuration file.
        overrides: Options of a setting or configuration as key=value, such as
            data.roots.acdc=/data/acdc.
        root: Folder of the data set; for a setting, the folder that contains all of its data sets.
        split: Split of a data set; all if omitted.
        sheet: PNG to write with some images and their labels.
        workers: Processes that read; 0 reads in this one.
    """
    from rich.console import Console

    from causalseg.errors import DataError
    from causalseg.jobs import check

    findings = check.check_data(what, overrides, root, split, sheet, workers)
    Console().print(check.make_table(findings))
    if classes := check.list_classes(findings):
        print("\n  ".join(["labelled pixels in percent:", *classes]))
    remarks = check.list_remarks(findings)
    if remarks:
        print("\n  ".join(["please check:", *remarks]))
    if problems := check.list_problems(findings):
        usable = [each.name for each in findings if not (each.absent or each.problems)]
        lines = "\n".join(["incomplete or unusable:", *problems]).replace("\n", "\n  ")
        raise DataError(lines + (f"\nusable: {'; '.join(usable)}" if usable else ""))
    print("all files can be read" if remarks else "all data can be used")
