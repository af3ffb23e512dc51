"""The commands that score trained runs and show the results: eval, report, submit."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from causalseg.cli.arguments import IgnoreChecksums, RunPath, UseOverrides, Weights
from causalseg.errors import ConfigError

if TYPE_CHECKING:
    from causalseg.report import DomainTable


def evaluate(
    *runs: Annotated[str, Parameter(allow_leading_hyphen=False)],
    corrupt: str = "",
    severity: str = "3",
    save_predictions: Annotated[bool, Parameter(negative="")] = False,
    baseline: Path | None = None,
    checkpoint: Weights = "last",
    name: str | None = None,
    out: Path | None = None,
    ignore_checksums: IgnoreChecksums = False,
) -> None:
    """Score trained runs on their domains, beside the scores of training.

    Scores with other options go to RUN/evals/NAME; without options, those of training are made
    again. Several runs are also compared in a report of their own.

    Args:
        runs: Run folders written by `train`, and options as key=value: setting=citys2acdc scores on
            the domains of a setting, data.root=PATH says where data are, eval.flip=true and
            eval.scales=[0.75,1,1.25] average predictions.
        corrupt: Corruptions of all domains, such as fog,snow; the mean is then over the corrupted
            domains.
        severity: Severity of the corruptions, 1 to 5; several, such as 1,3,5, give one domain each.
        save_predictions: Write predictions/DOMAIN/NAME.png beside the scores, one channel of label
            ids.
        baseline: Baseline of the comparison; default: the first run.
        name: Name of the evaluation; default: made of the options.
        out: File of the comparison; default: comparison.html.
    """
    from causalseg.engine.devices import is_first_process
    from causalseg.jobs.eval import check_runs, eval_run
    from causalseg.report import domain_table, write_report
    from causalseg.runs import seal
    from causalseg.runs.folder import open_scored

    seal.ignore_checksums(ignore_checksums)
    overrides = [text for text in runs if "=" in text and not Path(text).is_dir()]
    folders = [Path(text) for text in runs if text not in overrides]
    if not folders:
        raise ConfigError("name at least one run folder: causalseg eval RUN [key=value ...]")
    corruptions, severities = _corruptions(corrupt, severity)
    if len(folders) == 1 and (baseline or out):
        option = "--baseline" if baseline else "--out"
        raise ConfigError(f"{option} belongs to the comparison of several runs: name them all")
    check_runs(folders, overrides, baseline)
    how = (overrides, corruptions, severities, save_predictions, checkpoint, name)
    scored = [eval_run(folder, *how) for folder in folders]
    if is_first_process():
        print_table(domain_table(scored))
        print("\n".join(f"report: {run.report}" for run in scored))
        if len(scored) > 1:
            out = out or Path("comparison.html")
            named = [run for run in scored if baseline and run.path.samefile(baseline)]
            others = [open_scored(baseline)] if baseline else scored
            write_report(scored, out, [*named, *others][0])
            print(f"comparison: {out}")


def report(
    *runs: Path,
    baseline: Path | None = None,
    format: Literal["html", "md", "latex"] = "html",
    out: Path | None = None,
    ignore_checksums: IgnoreChecksums = False,
) -> None:
    """Show scored runs side by side: a page, or a table for a paper or a pull request.

    Args:
        runs: Run folders, and evaluations of them: RUN/evals/NAME.
        baseline: Baseline of the comparison.
        format: html, one self-contained file; md, Markdown; latex, a table for booktabs.
        out: File to write; default: report.html, and the other formats are printed.
    """
    from causalseg.report import to_latex, to_markdown, write_report
    from causalseg.runs import seal
    from causalseg.runs.folder import open_scored
    from causalseg.writing import write_text

    seal.ignore_checksums(ignore_checksums)
    if not runs:
        raise ConfigError("name at least one run folder: causalseg report RUN [RUN ...]")
    folders = [open_scored(run) for run in runs]
    reference = open_scored(baseline) if baseline else None
    if format == "html":
        out = out or Path("report.html")
        write_report(folders, out, reference)
        print(f"report: {out}")
        return
    text = (to_markdown if format == "md" else to_latex)(folders, reference)
    if out:
        write_text(out, text)
    else:
        print(text, end="")


def submit(
    run: RunPath,
    /,
    *overrides: UseOverrides,
    server: Literal["acdc", "bdd", "cityscapes", "wilddash"],
    root: Path,
    checkpoint: Weights = "last",
    out: Path,
    ignore_checksums: IgnoreChecksums = False,
) -> None:
    """Predict a test split without published labels, in the format of its evaluation server.

    Args:
        server: The evaluation server; the run must have the 19 classes of Cityscapes.
        root: Folder or zip file of the data set as published.
        out: The zip file to write.
    """
    from causalseg.jobs.submit import SERVERS, submit_run
    from causalseg.runs import seal

    seal.ignore_checksums(ignore_checksums)
    count = submit_run(run, server, root, out, overrides, checkpoint)
    print(f"{count} images: {out}\nupload: {SERVERS[server].homepage}\n{SERVERS[server].note}")


def print_table(table: "DomainTable") -> None:
    """Print the mIoU of runs by domain, with domains as rows if columns are too wide."""
    from rich.console import Console
    from rich.table import Table

    from causalseg.report.format import format_percent, format_signed, list_domains

    columns = [["", *table.domains, "mean"]]
    columns += [[label, *map(format_percent, values)] for label, values in table.rows.items()]
    if table.difference is not None:
        columns.append(["difference", *map(format_signed, table.difference)])
    console, rows = Console(), list(zip(*columns, strict=True))
    is_transposed = _width(rows) > console.width and _width(columns) < _width(rows)
    heads, *lines = rows if is_transposed else columns
    printed = Table(title="mIoU in percent by domain")
    for i, head in enumerate(heads):
        printed.add_column(head, justify="right" if i else "left", overflow="fold")
    for line in lines:
        printed.add_row(*line)
    console.print(printed)
    print("\n".join([f"mean of {list_domains(table.over)}", *table.made_of]))


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) + 3 for column in columns) + 1


def _corruptions(corrupt: str, severity: str) -> tuple[list[str], list[int]]:
    from causalseg.corruptions import check_corruption

    parts = [part.strip() for part in corrupt.split(",") if part.strip()]
    corruptions = list(dict.fromkeys(parts))
    for corruption in corruptions:
        check_corruption(corruption, severity=1)
    severities = _severities(severity)
    if severity != "3" and not corruptions:
        raise ConfigError("--severity has no effect without --corrupt")
    return corruptions, severities


def _severities(text: str) -> list[int]:
    numbers = [part.strip() for part in text.split(",")]
    if not all(number in ("1", "2", "3", "4", "5") for number in numbers):
        raise ConfigError(f"--severity {text!r}: must be 1 to 5, or several such as 1,3,5")
    return list(dict.fromkeys(map(int, numbers)))
