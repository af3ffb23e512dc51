"""A sweep as one HTML file that needs nothing but itself.

One option is drawn as a line, several as a heat map of the first two, averaged over the others:
for the mean over domains and for each domain, with a table of all cells.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from causalseg.report.charts import Axis, Chart, draw_heat, draw_line
from causalseg.report.comparison_notes import describe_sources
from causalseg.report.format import OptionValue, format_spread, value_text
from causalseg.report.sweep import Cell, Sweep, deviation_of
from causalseg.report.template import load_template
from causalseg.runs.scores import MEAN
from causalseg.writing import write_text

_WIDE, _NARROW = 4.6, 3.2  # inches of a chart


class Panel(NamedTuple):
    """The chart of a domain, and its largest standard deviation over seeds, None of one seed."""

    domain: str
    chart: Chart
    deviation: float | None


def build_table(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """Return heads and cells of the table: options, mean, every domain, finished seeds."""
    names = [MEAN, *sweep.domains]
    rows = []
    for cell in sweep.cells:
        scores = [format_spread(sweep.scores(cell, name)) for name in names]
        count, planned = sum(seed in cell.results for seed in sweep.seeds), len(sweep.seeds)
        seeds = str(count) if count == planned else f"{count} of {planned}"
        rows.append([*map(value_text, cell.values.values()), *scores, seeds])
    return [*sweep.options, *names, "seeds"], rows


def write_sweep(sweep: Sweep, out: Path) -> None:
    """Write charts, table and what the scores mean as HTML."""
    heads, rows = build_table(sweep)
    names = sweep.domains if len(sweep.domains) > 1 else []
    panels = [panel for name in names if (panel := _draw_panel(sweep, name, _NARROW))]
    data = sweep.first.config["data"]
    html = load_template("sweep_page.html").render(
        title=sweep.title,
        sweep=sweep,
        options=list(sweep.options),
        mean=_draw_panel(sweep, MEAN, _WIDE),
        panels=panels,
        heads=heads,
        rows=rows,
        missing=[_describe(cell) for cell in sweep.cells if not sweep.is_finished(cell)],
        sources=describe_sources(data),
        unseen=data.get("mean_over") or [],
        mark=sweep.first.eval.mark,
    )
    write_text(out, html)


def _draw_panel(sweep: Sweep, domain: str, width: float) -> Panel | None:
    """Draw a domain, or `MEAN`; None without any number."""
    scores = [sweep.scores(cell, domain) for cell in sweep.cells]
    first, *others = list(sweep.options.items())[:2]
    axis = _make_axis(*first)
    if not others:
        if not any(scores):
            return None
        chart = draw_line(scores, axis, width)
    else:
        (row, heights), (column, widths) = first, *others
        grid = [[sweep.score_at({row: y, column: x}, domain) for x in widths] for y in heights]
        if all(value is None for line in grid for value in line):
            return None
        chart = draw_heat(grid, axis, _make_axis(column, widths), width)
    deviations = [value for each in scores if (value := deviation_of(each)) is not None]
    return Panel(domain, chart, max(deviations, default=None))


def _make_axis(option: str, values: Sequence[OptionValue]) -> Axis:
    return Axis(option, [*map(value_text, values)])


def _describe(cell: Cell) -> str:
    return ", ".join(f"{key}={value_text(value)}" for key, value in cell.values.items())
