"""The commands that hold methods against each other: compare them, and tune them alike before."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from causalseg.cli.data import at_least_one

if TYPE_CHECKING:
    from causalseg.jobs.tune import Choice
    from causalseg.report.comparison import Comparison, Method

_FILE = "YAML file of names and what each changes in the configuration."
Jobs = Annotated[int, Parameter(validator=lambda _t, v: at_least_one(v))]


@Parameter(name="*")  # options of the commands that take it
@dataclass(frozen=True)
class Chosen:
    """Which methods, and of which size.

    Parameters
    ----------
    adapters
        Methods, such as none,causal_tune,lora+intervene: adapters, several joined by +, or names
        that the methods file defines; left out, all of the methods file.
    budget
        Parameters that every adapter is to train, within 5 %, such as 400k: ranks and other sizes
        are chosen for it; left out, methods keep their sizes.
    """

    adapters: str = ""
    methods: Annotated[Path | None, Parameter(help=_FILE)] = None
    budget: str | None = None


_ALL = Chosen()


def compare(
    config: Path,
    /,
    *overrides: str,
    which: Chosen = _ALL,
    seeds: str = "0,1,2",
    reference: str | None = None,
    jobs: Jobs = 1,
    out: Path | None = None,
) -> None:
    """Train methods with several seeds under one configuration and put them into one table.

    What is finished is kept and what was interrupted goes on, so the same command may be given
    again. Writes OUT/compare.md, OUT/compare.html, OUT/results/ and a run folder for each run.

    Parameters
    ----------
    config
        YAML file of what all methods share.
    overrides
        Options as key=value, for all methods.
    which
        Methods to compare.
    seeds
        Seeds of every method.
    reference
        The method that the others are held against; left out, the first.
    jobs
        Runs at work side by side.
    out
        Folder of everything; left out, runs/compare_NAME.
    """
    from causalseg.errors import RunError
    from causalseg.jobs.compare.study import plan_study, run_study

    chosen = _read_methods(config, overrides, which)
    study = plan_study(config, overrides, chosen, _numbers(seeds), reference, out)
    comparison, failures = run_study(study, jobs)
    if comparison:
        _print_comparison(comparison)
        print(f"everything: {study.out / 'compare.html'}, {study.out / 'compare.md'}")
    if failures:
        raise RunError(
            "\n  ".join([f"{len(failures)} of {len(study.cells)} runs failed:", *failures])
            + "\nthe same command tries them again"
        )


def tune(
    config: Path,
    /,
    *overrides: str,
    grid: Annotated[list[str], Parameter(negative="")],
    metric: str,
    out: Path,
    write: Path,
    which: Chosen = _ALL,
    seeds: str = "0",
    jobs: Jobs = 1,
) -> None:
    """Train methods at every value of a grid and write a methods file with the best of each.

    What is finished is kept, so the same command may be given again, with a wider grid, too.
    Writes FILE, OUT/tune.json, and into OUT what `compare` writes.

    Parameters
    ----------
    config
        YAML file of what all methods share.
    overrides
        Options as key=value, for all methods.
    grid
        An option and its values, such as train.adapter_lr=2.5e-4,5e-4,1e-3; of several options,
        each with a --grid of its own, all combinations. train.adapter_lr leaves methods without an
        adapter as they are.
    metric
        What decides, such as val.miou: the mIoU of a domain that data.mean_over does not name.
    out
        Folder of the runs.
    write
        The methods file to write.
    which
        Methods to tune.
    seeds
        Seeds of every method and value.
    jobs
        Runs at work side by side.
    """
    from causalseg.errors import ConfigError
    from causalseg.jobs import tune as tuning
    from causalseg.jobs.compare.methods import read_entries

    file = which.methods
    if file is not None and file.resolve() == write.resolve():
        raise ConfigError(f"--write {write} would replace the methods file that is read")
    chosen = _read_methods(config, overrides, which)
    plan = tuning.plan_tuning(
        config, overrides, chosen, tuning.parse_grid(grid), metric, _numbers(seeds), out
    )
    choices = tuning.run_tuning(plan, jobs)
    tuning.write_record(plan, choices, out)
    tuning.write_methods(plan, choices, chosen, read_entries(file) if file else {}, write)
    for method in chosen:
        print(_choice_text(method.name, choices.get(method.name), plan.domain))
    print(f"methods: {write}, scores: {out / 'tune.json'}")


def _read_methods(config: Path, overrides: Sequence[str], which: Chosen) -> "list[Method]":
    """The methods asked for; with a budget, of its size, and a line on each."""
    from causalseg.jobs.compare.methods import read_methods

    names = [name.strip() for name in which.adapters.split(",") if name.strip()]
    methods = read_methods(names, which.methods)
    if which.budget is None:
        return methods
    from causalseg.jobs.compare.budget import parse_budget, size_methods

    sized = size_methods(config, overrides, methods, parse_budget(which.budget))
    for each in sized:
        print(each.text)
    return [each.method for each in sized]


def _choice_text(name: str, choice: "Choice | None", domain: str) -> str:
    from causalseg.jobs.tune import value_text

    if choice is None:
        return f"{name}: copied, the grid has no effect on it"
    values = ", ".join(f"{key}={value_text(value)}" for key, value in choice.best.values.items())
    text = f"{name}: {values}, {domain} {choice.best.mean:.1f}"
    if choice.at_edge:
        text += f"; {', '.join(choice.at_edge)} is at the edge of the grid: try a wider one"
    return text


def _numbers(text: str) -> list[int]:
    from causalseg.errors import ConfigError

    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds {text!r}: whole numbers and commas, such as 0,1,2") from None


def _print_comparison(comparison: "Comparison") -> None:
    from rich.console import Console
    from rich.table import Table

    from causalseg.report.comparison_page import ADAPTER, table

    heads, rows = table(comparison)
    over = comparison.first["eval"]["mean"]["over"]
    names = ["method", *(["mean"] if len(over) > 1 else over)]
    names += [f"difference to {comparison.reference}", ADAPTER, "seeds"]
    found = [head for head, _ in heads]
    chosen = [found.index(name) for name in names if name in found]
    shown = Table(title=f"mIoU in percent, mean over {', '.join(over)}")
    for i in chosen:
        shown.add_column("\n".join(heads[i]).strip(), justify="right" if i else "left")
    for row in rows:
        shown.add_row(*(row[i] for i in chosen))
    Console().print(shown)
