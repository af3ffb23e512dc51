r"""The numbers of a report as Markdown and as LaTeX.

Both hold the same tables: mIoU by domain, robustness, corruptions and IoU by class. LaTeX needs
\usepackage{booktabs}; everything else is of its core.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from causalseg.report import tables
from causalseg.report.read import Run, Value, read_runs, reference_of
from causalseg.report.tables import Cell, percent, signed
from causalseg.runs.folder import RunFolder
from causalseg.runs.scores import describe_domains, describe_inference

_MOST_COLUMNS = 8  # domains: with more they are rows
_LATEX = str.maketrans(
    {
        **{letter: f"\\{letter}" for letter in "&%$#_{}"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
        **{"–": "--", "−": "$-$", "×": r"$\times$"},
    }
)
# An underscore within a word is a letter; at its edge it would be emphasis.
_MARKUP = re.compile(r"[\\`*<|]|\](?=\()|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")


class Text(NamedTuple):
    """The content of a cell: what is printed bold, then what is not."""

    bold: str
    plain: str


class Grid(NamedTuple):
    """A table of texts."""

    title: str
    head: list[str]
    rows: list[list[Text]]


def to_markdown(runs: Sequence[RunFolder], baseline: RunFolder | None = None) -> str:
    """Return the numbers of the report as Markdown.

    Args:
        runs: folders with config.yaml and eval.json.
        baseline: as `write_report` takes it.

    Raises:
        MissingFileError: if config.yaml or eval.json is missing.
        RunError: if a file is broken, or the runs have different classes.
    """
    read = read_runs(runs, baseline)
    reference = reference_of(read, baseline)
    parts = []
    for grid in _grids(read, reference):
        lines = [[_markdown(head) for head in grid.head], ["---"] + ["--:"] * (len(grid.head) - 1)]
        lines += [[_cell(text, _markdown, "**{}**") for text in row] for row in grid.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"## {_markdown(grid.title)}\n\n{table}")
    notes = "\n".join(f"- {_markdown(note)}" for note in _notes(read, reference))
    return "\n\n".join([*parts, notes]) + "\n"


def to_latex(runs: Sequence[RunFolder], baseline: RunFolder | None = None) -> str:
    r"""Return the numbers of the report as LaTeX tables, which need \usepackage{booktabs}.

    Args:
        runs: folders with config.yaml and eval.json.
        baseline: as `write_report` takes it.

    Raises:
        MissingFileError: if config.yaml or eval.json is missing.
        RunError: if a file is broken, or the runs have different classes.
    """
    read = read_runs(runs, baseline)
    reference = reference_of(read, baseline)
    parts = ["% needs \\usepackage{booktabs}"]
    for grid in _grids(read, reference):
        head = " & ".join(map(_latex, grid.head))
        rows = [" & ".join(_cell(t, _latex, r"\textbf{{{}}}") for t in row) for row in grid.rows]
        body = "\n".join(f"{_guarded(row)} \\\\" for row in rows)
        parts.append(
            "\\begin{table}\n\\centering\n"
            f"\\caption{{{_latex(grid.title)}}}\n"
            f"\\begin{{tabular}}{{l{'r' * (len(grid.head) - 1)}}}\n"
            f"\\toprule\n{_guarded(head)} \\\\\n\\midrule\n{body}\n\\bottomrule\n"
            "\\end{tabular}\n\\end{table}"
        )
    notes = "\n\n".join(_latex(note) for note in _notes(read, reference))
    return "\n\n".join([*parts, notes]) + "\n"


def _grids(runs: Sequence[Run], reference: Run | None) -> list[Grid]:
    grids = [_headline(runs, reference)]
    if tables.has_robustness(runs):
        grids.append(_robustness(runs))
    losses = tables.losses(runs, reference)
    if losses:
        grids.append(_corruptions(runs, reference, losses))
    return grids + [_classes(run) for run in runs]


def _headline(runs: Sequence[Run], reference: Run | None) -> Grid:
    """Runs as rows, as papers have it; domains as rows if there are many."""
    headline = tables.headline(runs, reference)
    columns = {"mean": headline.mean, **headline.rows}
    bold = {name: tables.best_of(cells) for name, cells in columns.items()}
    names, labels = list(columns), [run.label for run in runs]
    texts = [
        [_score_text(columns[name][i], i in bold[name]) for name in names] for i in range(len(runs))
    ]
    title = "mIoU by domain in %"
    if len(headline.rows) <= _MOST_COLUMNS:
        rows = [[Text("", label), *row] for label, row in zip(labels, texts, strict=True)]
        return Grid(title, ["run", *names], rows)
    rows = [[Text("", name), *column] for name, *column in zip(names, *texts, strict=True)]
    return Grid(title, ["domain", *labels], rows)


def _score_text(cell: Cell, is_best: bool) -> Text:
    value, rest = percent(cell.value), ""
    if cell.interval:
        rest += f" [{percent(cell.interval[0])}, {percent(cell.interval[1])}]"
    if cell.change is not None:
        rest += f", {signed(cell.change)}"
    if cell.change_interval:
        rest += f" [{signed(cell.change_interval[0])}, {signed(cell.change_interval[1])}]"
    return Text(value, rest) if is_best else Text("", value + rest)


def _robustness(runs: Sequence[Run]) -> Grid:
    rows = []
    for run in runs:
        held = run.scores["robustness"]
        worst = held["worst"]
        rows.append(
            [
                run.label,
                percent(held["source"] and held["source"]["miou"]),
                percent(held["target"]["miou"]),
                "–" if worst is None else f"{percent(run.domains[worst]['miou'])} ({worst})",
                percent(held["retention"]),
            ]
        )
    head = ["run", "source", "target", "worst target", "retention"]
    return Grid("Robustness in %", head, [[Text("", text) for text in row] for row in rows])


def _corruptions(
    runs: Sequence[Run],
    reference: Run | None,
    losses: dict[tuple[str, str], list[tables.Loss | None]],
) -> Grid:
    def cells(loss: tables.Loss | None) -> list[str]:
        values: list[Value] = list(loss) if loss else [None] * len(tables.Loss._fields)
        return [percent(value) for value in (values if reference else values[:3])]

    kinds = (
        ["clean", "corrupted", "loss", "CD", "rCD"] if reference else ["clean", "corrupted", "loss"]
    )
    rows = [
        [run.label, f"{name}, {origin}", *cells(row[i])]
        for (name, origin), row in losses.items()
        for i, run in enumerate(runs)
    ]
    means = tables.mean_losses(losses.values())
    rows += [[run.label, "mean", *cells(mean)] for run, mean in zip(runs, means, strict=True)]
    head = ["run", "corruption", *kinds]
    return Grid("Corruptions in %", head, [[Text("", text) for text in row] for row in rows])


def _classes(run: Run) -> Grid:
    names = [
        name
        for name in dict.fromkeys(n for domain in run.domains for n in run.classes(domain)["names"])
        if any(run.domains[domain]["pixels"].get(name) for domain in run.domains)
    ]
    grid = [
        [percent(run.by_class("iou", domain, name)) for name in names] for domain in run.domains
    ]
    title = f"IoU by class in %, {run.label}"
    if len(run.domains) <= _MOST_COLUMNS:
        head, firsts = ["class", *run.domains], names
        grid = [list(row) for row in zip(*grid, strict=True)]
    else:
        head, firsts = ["domain", *names], list(run.domains)
    rows = [[first, *texts] for first, texts in zip(firsts, grid, strict=True)]
    return Grid(title, head, [[Text("", text) for text in row] for row in rows])


def _notes(runs: Sequence[Run], reference: Run | None) -> list[str]:
    over, made_of = runs[0].scores["mean"]["over"], runs[0].scores["made_of"]
    notes = [
        f"{made_of[:1].upper()}{made_of[1:]}.",
        *describe_domains(tables.all_about(runs)),
        f"The mean is over {', '.join(over)}. In brackets: 95 % bootstrap intervals over images.",
    ]
    if reference and len(runs) > 1:
        notes.append(
            f"After the comma: difference to {reference.label} in points. CD and rCD: corruption "
            "degradation, and relative to clean, in percent of the reference (Kamann and Rother, "
            "CVPR 2020)."
        )
    for run in runs:
        given = run.scores.get("overrides")
        also = f" Scored with {', '.join(given)} on top of its configuration." if given else ""
        how = describe_inference(run.scores["inference"])
        notes.append(f"{run.label}: predicted from {how}.{also}")
    return notes + tables.caveats(runs, over)


def _cell(text: Text, escape: Callable[[str], str], bold: str) -> str:
    return (bold.format(escape(text.bold)) if text.bold else "") + escape(text.plain)


def _markdown(text: str) -> str:
    return _MARKUP.sub(lambda found: f"\\{found[0]}", text.replace("\n", " "))


def _latex(text: str) -> str:
    return text.replace("\n", " ").translate(_LATEX)


def _guarded(row: str) -> str:
    r"""A row that starts with [ or * would be taken for an option of the \\ or rule before it."""
    return f"{{}}{row}" if row[:1] in ("[", "*") else row
