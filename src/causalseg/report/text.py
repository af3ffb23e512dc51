r"""The numbers of a report as Markdown and as LaTeX.

Both hold the same tables: mIoU by domain, robustness, corruptions and IoU by class. LaTeX needs
\usepackage{booktabs} and nothing else.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from causalseg.report import tables
from causalseg.report.format import (
    MISSING,
    describe_domains,
    format_interval,
    format_percent,
    format_signed,
)
from causalseg.report.read import Run, find_reference, read_runs
from causalseg.report.tables import Loss, Score
from causalseg.runs.folder import RunFolder

_MOST_COLUMNS = 8  # with more domains than these, domains are rows
_LATEX = str.maketrans(
    {letter: f"\\{letter}" for letter in "&%$#_{}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "–": "--",
        "−": "$-$",
        "×": r"$\times$",
    }
)
# An underscore within a word is a letter; at its edge it would be emphasis.
_MARKUP = re.compile(r"[\\`*<|]|\](?=\()|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")


class Best(NamedTuple):
    """A cell that starts with the best value, printed bold."""

    value: str
    rest: str


class ReportGrid(NamedTuple):
    """A table of a report."""

    title: str
    head: list[str]
    rows: list[list[str | Best]]


def to_markdown(runs: Sequence[RunFolder], baseline: RunFolder | None = None) -> str:
    """Return the numbers of the report as Markdown.

    Takes and raises what `causalseg.report.write_report` does.
    """

    def format_grid(grid: ReportGrid) -> str:
        lines = [["---"] + ["--:"] * (len(grid.head) - 1)]
        lines += [[_format_cell(cell, _markdown, "**{}**") for cell in row] for row in grid.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in [map(_markdown, grid.head), *lines])
        return f"## {_markdown(grid.title)}\n\n{table}"

    grids, notes = _read(runs, baseline)
    listed = "\n".join(f"- {_markdown(note)}" for note in notes)
    return "\n\n".join([*map(format_grid, grids), listed]) + "\n"


def to_latex(runs: Sequence[RunFolder], baseline: RunFolder | None = None) -> str:
    r"""Return the numbers of the report as LaTeX tables, which need \usepackage{booktabs}.

    Takes and raises what `causalseg.report.write_report` does.
    """

    def format_grid(grid: ReportGrid) -> str:
        head = " & ".join(map(_latex, grid.head))
        cells = [
            [_format_cell(cell, _latex, r"\textbf{{{}}}") for cell in row] for row in grid.rows
        ]
        body = "\n".join(f"{_guard(' & '.join(row))} \\\\" for row in cells)
        return (
            "\\begin{table}\n\\centering\n"
            f"\\caption{{{_latex(grid.title)}}}\n"
            f"\\begin{{tabular}}{{l{'r' * (len(grid.head) - 1)}}}\n"
            f"\\toprule\n{_guard(head)} \\\\\n\\midrule\n{body}\n\\bottomrule\n"
            "\\end{tabular}\n\\end{table}"
        )

    grids, notes = _read(runs, baseline)
    parts = ["% needs \\usepackage{booktabs}", *map(format_grid, grids)]
    return "\n\n".join([*parts, "\n\n".join(map(_latex, notes))]) + "\n"


def _read(
    folders: Sequence[RunFolder], baseline: RunFolder | None
) -> tuple[list[ReportGrid], list[str]]:
    """Return all tables and the notes."""
    runs = read_runs(folders, baseline)
    reference = find_reference(runs, baseline)
    grids = [_build_headline(runs, reference)]
    if tables.has_robustness(runs):
        grids.append(_build_robustness(runs))
    losses = tables.list_losses(runs, reference)
    if losses:
        grids.append(_build_corruptions(runs, losses, has_reference=reference is not None))
    return grids + [_build_classes(run) for run in runs], _list_notes(runs, reference)


def _build_headline(runs: Sequence[Run], reference: Run | None) -> ReportGrid:
    """Runs as rows, as in papers; domains as rows if there are many."""
    headline = tables.build_headline(runs, reference)
    columns: list[list[str | Best]] = []
    for scores in (headline.mean, *headline.rows.values()):
        best = tables.find_best(scores)
        columns.append([_format_score(score, i in best) for i, score in enumerate(scores)])
    names, labels = ["mean", *headline.rows], [run.label for run in runs]
    if len(headline.rows) <= _MOST_COLUMNS:
        return _fill("mIoU by domain in %", "run", names, labels, list(zip(*columns, strict=True)))
    return _fill("mIoU by domain in %", "domain", labels, names, columns)


def _fill(
    title: str,
    corner: str,
    head: Sequence[str],
    firsts: Sequence[str],
    cells: Sequence[Sequence[str | Best]],
) -> ReportGrid:
    rows = [[first, *row] for first, row in zip(firsts, cells, strict=True)]
    return ReportGrid(title, [corner, *head], rows)


def _format_score(score: Score, is_best: bool) -> str | Best:
    value, rest = format_percent(score.value), ""
    if score.interval:
        rest += f" {format_interval(score.interval)}"
    if score.change is not None:
        rest += f", {format_signed(score.change)}"
    if score.change_interval:
        rest += f" {format_interval(score.change_interval, is_signed=True)}"
    return Best(value, rest) if is_best else value + rest


def _build_robustness(runs: Sequence[Run]) -> ReportGrid:
    rows: list[list[str | Best]] = []
    for run in runs:
        part, worst = run.scores.robustness, MISSING
        if part.worst is not None:
            worst = f"{format_percent(run.domains[part.worst].miou)} ({part.worst})"
        source = format_percent(part.source.miou if part.source else None)
        target, retention = format_percent(part.target.miou), format_percent(part.retention)
        rows.append([run.label, source, target, worst, retention])
    head = ["run", "source", "target", "worst target", "retention"]
    return ReportGrid("Robustness in %", head, rows)


def _build_corruptions(
    runs: Sequence[Run], losses: dict[tuple[str, str], list[Loss]], has_reference: bool
) -> ReportGrid:
    kinds = ["clean", "corrupted", "loss", "CD", "rCD"][: 5 if has_reference else 3]
    groups = {f"{name}, {origin}": row for (name, origin), row in losses.items()}
    groups["mean"] = tables.average_losses(losses.values())
    rows: list[list[str | Best]] = [
        [run.label, name, *map(format_percent, loss[: len(kinds)])]
        for name, row in groups.items()
        for run, loss in zip(runs, row, strict=True)
    ]
    return ReportGrid("Corruptions in %", ["run", "corruption", *kinds], rows)


def _build_classes(run: Run) -> ReportGrid:
    names = [
        name
        for name in dict.fromkeys(n for d in run.domains for n in run.scores.classes_of(d).names)
        if any(domain.pixels.get(name) for domain in run.domains.values())
    ]
    columns = [
        [format_percent(run.by_class("iou", domain, name)) for name in names]
        for domain in run.domains
    ]
    title, domains = f"IoU by class in %, {run.label}", list(run.domains)
    if len(domains) <= _MOST_COLUMNS:
        return _fill(title, "class", domains, names, list(zip(*columns, strict=True)))
    return _fill(title, "domain", names, domains, columns)


def _list_notes(runs: Sequence[Run], reference: Run | None) -> list[str]:
    over, made_of = runs[0].scores.mean.over, runs[0].scores.made_of
    notes = [
        f"{made_of[:1].upper()}{made_of[1:]}.",
        *describe_domains(tables.collect_domains(runs)),
        f"The mean is over {', '.join(over)}. In brackets: 95 % bootstrap intervals over images.",
    ]
    if reference and len(runs) > 1:
        notes.append(
            f"After the comma: difference to {reference.label} in points. CD and rCD: corruption "
            "degradation, and relative to clean, in percent of the reference (Kamann and Rother, "
            "CVPR 2020)."
        )
    for run in runs:
        note = f"{run.label}: predicted from {run.scores.inference.describe()}."
        if overrides := run.scores.overrides:
            note += f" Scored with {', '.join(overrides)} on top of its configuration."
        notes.append(note)
    return notes + tables.list_caveats(runs, over)


def _format_cell(cell: str | Best, escape: Callable[[str], str], bold: str) -> str:
    if isinstance(cell, Best):
        return bold.format(escape(cell.value)) + escape(cell.rest)
    return escape(cell)


def _markdown(text: str) -> str:
    return _MARKUP.sub(lambda match: f"\\{match[0]}", text.replace("\n", " "))


def _latex(text: str) -> str:
    return text.replace("\n", " ").translate(_LATEX)


def _guard(row: str) -> str:
    r"""Keep a row that starts with [ or * from being an option of the \\ or rule before it."""
    return f"{{}}{row}" if row[:1] in ("[", "*") else row
