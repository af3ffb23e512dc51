"""The numbers of a report as Markdown and LaTeX: mIoU, robustness, corruptions, IoU by class."""

import re
from collections.abc import Callable, Sequence

from causalseg.report import tables
from causalseg.report.format import (
    Grid,
    describe_domains,
    format_interval,
    format_markdown,
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
_NUMBER = re.compile(r"[\d.]+")
# An underscore within a word is a letter; at its edge it would be emphasis.
_MARKUP = re.compile(r"[\\`*<]|\](?=\()|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")


class _Best(str):
    """A cell whose first number is the best, printed bold."""


def to_markdown(runs: Sequence[RunFolder], baseline: RunFolder | None = None) -> str:
    """Return the numbers of the report as Markdown; takes and raises what `write_report` does."""
    grids, notes = _read(runs, baseline)
    parts = []
    for grid in grids:
        rows = [_escape(row, _markdown, r"**\g<0>**") for row in grid.rows]
        table = format_markdown(list(map(_markdown, grid.head)), rows)
        parts.append(f"## {_markdown(grid.title)}\n\n{table}")
    parts.append("\n".join(f"- {_markdown(note)}" for note in notes))
    return "\n\n".join(parts) + "\n"


def to_latex(runs: Sequence[RunFolder], baseline: RunFolder | None = None) -> str:
    r"""Return the numbers as LaTeX, which needs \usepackage{booktabs}; else as `to_markdown`."""
    grids, notes = _read(runs, baseline)
    parts = ["% needs \\usepackage{booktabs}"]
    for grid in grids:
        rows = [_escape(row, _latex, r"\\textbf{\g<0>}") for row in (grid.head, *grid.rows)]
        head, *body = [f"{_guard(' & '.join(row))} \\\\\n" for row in rows]
        parts.append(
            f"\\begin{{table}}\n\\centering\n\\caption{{{_latex(grid.title)}}}\n"
            f"\\begin{{tabular}}{{l{'r' * (len(grid.head) - 1)}}}\n"
            f"\\toprule\n{head}\\midrule\n{''.join(body)}\\bottomrule\n"
            "\\end{tabular}\n\\end{table}"
        )
    return "\n\n".join([*parts, *map(_latex, notes)]) + "\n"


def _read(folders: Sequence[RunFolder], baseline: RunFolder | None) -> tuple[list[Grid], list[str]]:
    runs = read_runs(folders, baseline)
    reference = find_reference(runs, baseline)
    grids = [_build_headline(runs, reference)]
    if tables.has_robustness(runs):
        grids.append(_build_robustness(runs))
    if losses := tables.list_losses(runs, reference):
        grids.append(_build_corruptions(runs, losses, has_reference=reference is not None))
    return grids + [_build_classes(run) for run in runs], _list_notes(runs, reference)


def _build_headline(runs: Sequence[Run], reference: Run | None) -> Grid:
    headline = tables.build_headline(runs, reference)
    columns = {}
    for name, scores in {"mean": headline.mean, **headline.rows}.items():
        best = tables.find_best(scores)
        columns[name] = [_format_score(score, i in best) for i, score in enumerate(scores)]
    labels = [run.label for run in runs]
    return _arrange("mIoU by domain in %", "run", labels, columns, len(headline.rows))


def _arrange(
    title: str, corner: str, labels: list[str], columns: dict[str, list[str]], domains: int
) -> Grid:
    """Return a table with one column for each domain, or with one row if there are many."""
    if domains <= _MOST_COLUMNS:
        lines = zip(labels, *columns.values(), strict=True)
        return Grid(title, [corner, *columns], list(map(list, lines)))
    rows = [[name, *column] for name, column in columns.items()]
    return Grid(title, ["domain", *labels], rows)


def _format_score(score: Score, is_best: bool) -> str:
    text = format_percent(score.value)
    if score.interval:
        text += f" {format_interval(score.interval)}"
    if score.change is not None:
        text += f", {format_signed(score.change)}"
    if score.change_interval:
        text += f" {format_interval(score.change_interval, is_signed=True)}"
    if score.note:
        text += f" ({score.note})"
    return _Best(text) if is_best else text


def _build_robustness(runs: Sequence[Run]) -> Grid:
    rows = tables.list_robustness(runs)
    columns = [
        [f"{format_percent(value)}{f' ({names})' * bool(names)}" for value, names in cells]
        for _, _, cells in rows
    ]
    lines = zip([run.label for run in runs], *columns, strict=True)
    return Grid(
        "Robustness in %", ["run", *(title for title, _, _ in rows)], list(map(list, lines))
    )


def _build_corruptions(
    runs: Sequence[Run], losses: dict[tuple[str, str], list[Loss]], has_reference: bool
) -> Grid:
    kinds = ["clean", "corrupted", "loss", "CD", "rCD"][: 5 if has_reference else 3]
    groups = {f"{name}, {origin}": row for (name, origin), row in losses.items()}
    groups["mean"] = tables.average_losses(losses.values())
    rows = [
        [run.label, name, *map(format_percent, loss[: len(kinds)])]
        for name, row in groups.items()
        for run, loss in zip(runs, row, strict=True)
    ]
    return Grid("Corruptions in %", ["run", "corruption", *kinds], rows)


def _build_classes(run: Run) -> Grid:
    classes = dict.fromkeys(name for d in run.domains for name in run.scores.classes_of(d).names)
    names = [name for name in classes if run.has_class(name)]
    columns = {
        domain: [format_percent(run.by_class("iou", domain, name)) for name in names]
        for domain in run.domains
    }
    return _arrange(f"IoU by class in %, {run.label}", "class", names, columns, len(columns))


def _list_notes(runs: Sequence[Run], reference: Run | None) -> list[str]:
    over = runs[0].scores.mean.over
    notes = [
        tables.describe_metric(runs),
        *describe_domains(tables.collect_domains(runs)),
        f"The mean is over {', '.join(over)}. In brackets: 95 % bootstrap intervals over images.",
    ]
    if reference and len(runs) > 1:
        notes.append(
            f"After the comma: difference to {reference.label} in points. CD and rCD: corruption "
            "degradation, and relative to clean, in percent of the reference (Kamann and Rother, "
            "CVPR 2020)."
        )
    return [*notes, *tables.describe_inference(runs), *tables.list_caveats(runs, over)]


def _escape(row: Sequence[str], escape: Callable[[str], str], bold: str) -> list[str]:
    texts = [escape(cell) for cell in row]
    return [
        _NUMBER.sub(bold, text, count=1) if isinstance(cell, _Best) else text
        for cell, text in zip(row, texts, strict=True)
    ]


def _markdown(text: str) -> str:
    return _MARKUP.sub(lambda match: f"\\{match[0]}", text.replace("\n", " "))


def _latex(text: str) -> str:
    return text.replace("\n", " ").translate(_LATEX)


def _guard(row: str) -> str:
    r"""Keep a row that starts with [ or * from being an option of the \\ or rule before it."""
    return f"{{}}{row}" if row[:1] in ("[", "*") else row
