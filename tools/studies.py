"""The tables of `causalseg compare` for README and docs, from results/compare/NAME/*.json."""

from collections.abc import Iterator
from pathlib import Path

from causalseg.report.comparison import Comparison, read_study
from causalseg.report.comparison_page import ADAPTER, build_table, comparison_to_markdown
from causalseg.report.format import describe_domains, format_markdown, known_values
from causalseg.runs.scores import MEAN

_IN_README = "race_camvid"
_MOST = 9  # rows in the README
_COSTS = (ADAPTER, "trained parameters", "s/step", "peak memory")


def compare_page(folder: Path, version: str, generated: str, empty: str) -> str:
    """Return a page of all studies in a folder, with all methods and how each was made.

    Args:
        folder: holds a folder of results for each study.
        version: of the package that made them, where it is an earlier one; else empty.
        generated: note on where the page comes from.
        empty: what the page says without any study.
    """
    title = (
        f"# Comparisons of methods, version {version}" if version else "# Comparisons of methods"
    )
    parts = [title, generated, "How they are made: [compare](compare_howto.md)."]
    for name, study in _studies(folder):
        files = f"Files: [{name}](../results/{f'{version}/' * bool(version)}compare/{name})."
        parts += [f"## {name}", comparison_to_markdown(study).strip(), files]
    return "\n\n".join(parts if len(parts) > 3 else [*parts, empty]) + "\n"


def readme_tables(folder: Path) -> list[str]:
    """Return for each study a title, a short table without costs, and what was scored.

    One study alone, if it is there; all are on the page of comparisons.
    """
    return [
        f"**Methods compared: [{name}](docs/compare.md#{name})**\n\n{_short_table(study)}"
        for name, study in _studies(folder)
        if name == _IN_README
    ]


def _studies(folder: Path) -> Iterator[tuple[str, Comparison]]:
    for study in sorted(path for path in folder.glob("*") if path.is_dir()):
        yield study.name, read_study(study)


def _short_table(study: Comparison) -> str:
    heads, rows = build_table(study)
    scored = study.first.eval.domains
    kept = [index for index, (head, _) in enumerate(heads) if head not in _COSTS]
    header = [_head(*heads[index], is_domain=heads[index][0] in scored) for index in kept]
    main, others = _ranked(study)
    shown = [[rows[i][index] for index in kept] for i in [*main, *others][:_MOST]]
    about = "; ".join(describe_domains(scored))
    left = len(main) + len(others) - _MOST
    note = f" {left} more in the full table."
    return f"{format_markdown(header, shown)}\n\n{about}.{note if left > 0 else ''}"


def _head(head: str, small: str, is_domain: bool) -> str:
    return head if is_domain or not small else f"{head}, {small}"


def _ranked(study: Comparison) -> tuple[list[int], list[int]]:
    """The rows with the most seeds in their order, and the others, the best first."""
    counts = [len(row.results) for row in study.rows]
    main = [i for i, count in enumerate(counts) if count == max(counts)]
    others = [i for i in range(len(counts)) if i not in main]
    others.sort(key=lambda i: -sum(known_values(study.rows[i].scores(MEAN))) / max(counts[i], 1))
    return main, others
