"""The tables of `causalseg compare` for README and docs, from results/compare/NAME/*.json."""

from collections.abc import Iterator
from pathlib import Path

from causalseg.analysis.comparison import Comparison, read_study
from causalseg.comparison_page import markdown_table, table, to_markdown

_MOST = 10  # rows in the README; a study names its main methods first
_COSTS = ("trained parameters", "s/step", "peak memory")


def compare_page(folder: Path, generated: str, empty: str) -> str:
    """Return docs/compare.md: every study with all its methods and how it was made."""
    parts = [
        "# Comparisons of methods",
        generated,
        "How they are made: [compare](compare_howto.md).",
    ]
    for name, study in _studies(folder):
        files = f"Files: [{name}](../results/compare/{name})."
        parts += [f"## {name}", to_markdown(study).strip(), files]
    return "\n\n".join(parts if len(parts) > 3 else [*parts, empty]) + "\n"


def readme_tables(folder: Path) -> list[str]:
    """Return for each study a title and its first methods, without their costs."""
    return [
        f"**Methods compared: [{name}](docs/compare.md#{name})**\n\n{_short_table(study)}"
        for name, study in _studies(folder)
    ]


def _studies(folder: Path) -> Iterator[tuple[str, Comparison]]:
    for study in sorted(path for path in folder.glob("*") if path.is_dir()):
        yield study.name, read_study(study)


def _short_table(study: Comparison) -> str:
    heads, rows = table(study)
    kept = [index for index, (head, _) in enumerate(heads) if head not in _COSTS]
    header = [", ".join(filter(None, heads[index])) for index in kept]
    return markdown_table(header, [[cells[index] for index in kept] for cells in rows[:_MOST]])
