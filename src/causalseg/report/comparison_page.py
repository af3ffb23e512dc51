"""A comparison as Markdown, and as one HTML file that needs nothing but itself.

A row is a method: mIoU in percent of every domain and of their mean (mean and standard deviation
over seeds), the difference to the reference with its interval, costs, and published numbers.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path

from causalseg.engine.bootstrap import LEVEL
from causalseg.report.charts import Chart, draw_methods, draw_progress
from causalseg.report.comparison import Change, Comparison, Row
from causalseg.report.comparison_notes import list_notes
from causalseg.report.format import (
    MISSING,
    Grid,
    describe_domain,
    format_interval,
    format_markdown,
    format_percent,
    format_spread,
    known_values,
)
from causalseg.report.template import load_template
from causalseg.runs.scores import MEAN
from causalseg.writing import write_text

ADAPTER = "adapter parameters"  # head of a column
_FEW = 20  # methods up to which the smaller tables have all of them
_STEPS = 8  # columns of the table of scores over steps
_INTERVALS = f"± over seeds [{LEVEL:.0%} over images]"


def build_table(comparison: Comparison) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Return the main table: head and note of each column, and the cells of each method."""
    domains, methods = comparison.first.eval.domains, comparison.rows
    shown = _list_columns(comparison)
    heads = [("method", ""), *((name, describe_domain(domains[name])) for name in domains)]
    if MEAN in shown:
        heads.append((MEAN, f"of {', '.join(comparison.over)}"))
    heads.append((f"difference to {comparison.reference}", _INTERVALS))
    heads += [(ADAPTER, ""), ("trained parameters", ""), ("s/step", ""), ("peak memory", "MB")]
    named = {name for row in methods for name in row.method.reported}
    reported = [name for name in (*domains, MEAN) if name in named]
    heads += [("seeds", ""), *((f"{name}, reported", "") for name in reported)]
    rows = []
    for row in methods:
        is_reference = row.method.name == comparison.reference
        scores = [format_spread(row.scores(name)) for name in shown]
        change = "reference" if is_reference else _format_change(row.change)
        published = [row.method.reported.get(name) for name in reported]
        texts = ["" if value is None else format_percent(value) for value in published]
        rows.append([row.method.name, *scores, change, *_list_costs(row), *texts])
    index = heads.index((ADAPTER, ""))
    if all(cells[index] == MISSING for cells in rows):  # results of an earlier version
        del heads[index]
        for cells in rows:
            del cells[index]
    return heads, rows


def comparison_to_markdown(comparison: Comparison) -> str:
    """Return the tables, how they are made and what each method is."""
    heads, rows = build_table(comparison)
    header = [f"{head}, {small}" if small else head for head, small in heads]
    parts = [format_markdown(header, rows)]
    for title, head, lines in build_smaller_tables(comparison):
        parts.append(f"{title}:\n\n{format_markdown(head, lines)}")
    parts.append("\n".join(f"- {note}" for note in list_notes(comparison)))
    parts.append("What each method changes in the shared configuration:")
    changes = []
    for row in comparison.rows:
        overrides = ", ".join(f"`{override}`" for override in row.method.overrides)
        changes.append(f"- `{row.method.name}`: {overrides or 'nothing'}")
    return "\n\n".join([*parts, "\n".join(changes)]) + "\n"


def build_smaller_tables(comparison: Comparison) -> list[Grid]:
    """Return differences by domain and scores over steps, if any; of many methods, some."""
    rows = _main_rows(comparison)
    suffix = "" if len(rows) == len(comparison.rows) else ", methods with the most seeds"
    grids = [_build_changes(comparison, rows, suffix), _build_steps(comparison, rows, suffix)]
    return [grid for grid in grids if grid.rows]


def write_comparison(comparison: Comparison, title: str, out: Path) -> None:
    """Write tables, charts and notes as one HTML file that needs nothing but itself."""
    heads, rows = build_table(comparison)
    means = {row.method.name: known_values(row.scores(MEAN)) for row in comparison.rows}
    means = {name: values for name, values in means.items() if values}
    html = load_template("comparison_page.html").render(
        title=title,
        comparison=comparison,
        heads=heads,
        rows=list(zip(comparison.rows, rows, strict=True)),
        change=next(i for i, (head, _) in enumerate(heads) if head.startswith("difference")),
        chart=draw_methods(means, comparison.reference) if means else None,
        tables=build_smaller_tables(comparison),
        progress=draw_curves(comparison),
        notes=list_notes(comparison),
    )
    write_text(out, html)


def draw_curves(comparison: Comparison) -> list[Chart]:
    """Draw mean and in-distribution mIoU over steps; nothing if scored only at the end."""
    rows = sorted(_main_rows(comparison), key=lambda r: r.method.name != comparison.reference)
    groups = {f"mean over {', '.join(comparison.over)}": [MEAN]}
    if source := comparison.first.eval.robustness.source:
        groups[f"source validation ({', '.join(source.domains)})"] = source.domains
    charts = []
    for what, domains in groups.items():
        curves = {row.method.name: curve for row in rows if (curve := row.curve(domains))}
        if curves:
            charts.append(draw_progress(curves, what))
    return charts


def _list_columns(comparison: Comparison) -> list[str]:
    """Return the domains, and `MEAN` if it is over several."""
    return [*comparison.first.eval.domains, *([MEAN] if len(comparison.over) > 1 else [])]


def _build_changes(comparison: Comparison, rows: Sequence[Row], suffix: str) -> Grid:
    columns, lines = _list_columns(comparison), []
    for row in rows if len(columns) > 1 else []:
        if row.method.name != comparison.reference:
            changes = comparison.changes(row)
            lines.append([row.method.name, *(_format_change(changes[name]) for name in columns)])
    title = f"Difference to {comparison.reference} by domain, in points: {_INTERVALS}{suffix}"
    return Grid(title, ["method", *columns], lines)


def _build_steps(comparison: Comparison, rows: Sequence[Row], suffix: str) -> Grid:
    curves = {row.method.name: row.curve([MEAN]) for row in rows}
    steps = sorted({step for curve in curves.values() for step in curve})
    if len(steps) > _STEPS:  # evenly spaced, up to the last
        steps = [steps[round(i * (len(steps) - 1) / (_STEPS - 1))] for i in range(_STEPS)]
    scored = [(name, curve) for name, curve in curves.items() if curve]
    lines = [[name, *(format_percent(curve.get(step)) for step in steps)] for name, curve in scored]
    over = ", ".join(comparison.over)
    title = f"mIoU in percent over training steps, mean over {over} and over seeds{suffix}"
    return Grid(title, ["method", *(f"step {step}" for step in steps)], lines)


def _main_rows(comparison: Comparison) -> list[Row]:
    """Return all rows, or of many those with the most seeds."""
    most = max(len(row.results) for row in comparison.rows)
    is_few = len(comparison.rows) <= _FEW
    return [row for row in comparison.rows if is_few or len(row.results) == most]


def _list_costs(row: Row) -> list[str]:
    """Return the cells from the adapter's parameters to the number of seeds."""
    results = list(row.results.values())
    model = results[0].eval.model if results else None
    sizes = [model and model.adapter_parameters, model and model.trainable_parameters]
    seconds = [result.seconds_per_step for result in results]
    peaks = known_values(result.peak_memory_mb for result in results)
    count, planned = len(results), len(row.seeds)
    return [
        *(MISSING if size is None else f"{size:,}" for size in sizes),
        f"{statistics.median(seconds):.2f}" if seconds else MISSING,
        f"{max(peaks):,.0f}" if peaks else MISSING,
        str(count) if count == planned else f"{count} of {planned}",
    ]


def _format_change(change: Change) -> str:
    spread = format_spread(change.differences, is_signed=True)
    return f"{spread} {format_interval(change.interval, is_signed=True)}".rstrip()
