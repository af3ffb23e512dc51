"""The commands that compare methods, tune them alike before, and sweep options of one."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from causalseg.cli.arguments import ConfigFile, Count, Overrides, RunPath
from causalseg.errors import ConfigError

if TYPE_CHECKING:
    from causalseg.jobs.compare.study import Study
    from causalseg.report.comparison import Comparison
    from causalseg.report.result import Method
    from causalseg.report.sweep import Sweep


Slurm = Annotated[
    Path | None,
    Parameter(help="Run nothing; write a batch script that runs this command on a SLURM cluster."),
]


@Parameter(name="*")  # options of the commands that take it
@dataclass(frozen=True)
class MethodOptions:
    """Options that `compare` and `tune` share.

    Args:
        adapters: Methods, such as none,causal_tune,lora+intervene: adapters, several joined by +,
            or names from the methods file; default: all of the methods file.
        budget: Trained parameters of every adapter, within 5 %, such as 400k: ranks and other sizes
            are chosen for it; default: methods keep their sizes.
        jobs: Number of runs side by side; with --slurm, of workers, one run each.
    """

    adapters: str = ""
    methods: Annotated[Path | None, Parameter(help="YAML file that defines methods.")] = None
    budget: str | None = None
    jobs: Count = 1
    slurm: Slurm = None


_ALL = MethodOptions()


def compare(
    config: ConfigFile,
    /,
    *overrides: Overrides,
    options: MethodOptions = _ALL,
    seeds: str = "0,1,2",
    reference: str | None = None,
    out: Path | None = None,
) -> None:
    """Train methods with several seeds under one configuration and put them into one table.

    Options as key=value apply to all methods. The same command again keeps finished runs and
    resumes interrupted ones; at the same time, on any machine, it takes runs that are still free.
    Writes OUT/compare.md, OUT/compare.html, OUT/results/ and a folder for each run.

    Args:
        seeds: Seeds of every method.
        reference: The method that the others are compared with; default: the first.
        out: Folder of everything; default: runs/compare_NAME.
    """
    from causalseg.jobs.compare.study import check_failures, plan_study, run_study

    methods = _read_methods(config, overrides, options)
    study = plan_study(config, overrides, methods, _numbers(seeds), reference, out)
    if options.slurm:
        _write_script(options.slurm, study, options.jobs)
        return
    comparison, failures = run_study(study, options.jobs)
    if comparison:
        _print_comparison(comparison)
        print(f"report: {study.out / 'compare.html'}, {study.out / 'compare.md'}")
    check_failures(study, failures)


def tune(
    config: ConfigFile,
    /,
    *overrides: Overrides,
    grid: Annotated[list[str], Parameter(negative="")],
    metric: str,
    out: Path,
    write: Path,
    options: MethodOptions = _ALL,
    seeds: str = "0",
) -> None:
    """Train methods at every value of a grid and write a methods file with the best values.

    The same command again, also with a wider grid, keeps finished runs. Writes the methods file,
    OUT/tune.json, and into OUT what `compare` writes.

    Args:
        grid: An option and its values, such as train.adapter_lr=2.5e-4,5e-4,1e-3; all combinations
            of several options, each with its own --grid. train.adapter_lr does not apply to methods
            without an adapter.
        metric: Metric of the choice, such as val.miou: the mIoU of a domain that data.mean_over
            does not name.
        out: Folder of the runs.
        write: The methods file to write.
        seeds: Seeds of every method and value.
    """
    from causalseg.jobs import tune as tuning
    from causalseg.jobs.compare.grid import parse_grid

    if options.methods is not None and options.methods.resolve() == write.resolve():
        raise ConfigError(f"--write {write} would replace the methods file that is read")
    methods = _read_methods(config, overrides, options)
    values = parse_grid(grid)
    plan = tuning.plan_tuning(config, overrides, methods, values, metric, _numbers(seeds), out)
    if options.slurm:
        _write_script(options.slurm, plan.study, options.jobs)
        return
    choices = tuning.run_tuning(plan, options.jobs)
    if choices is None:
        print(f"the worker that finishes the last run writes {write}")
        return
    tuning.write_record(plan, choices, out)
    tuning.write_methods(plan, choices, methods, write)
    for method in methods:
        print(tuning.describe_choice(method.name, choices.get(method.name), plan.domain))
    print(f"methods: {write}, scores: {out / 'tune.json'}")


def sweep(
    config: ConfigFile,
    /,
    *overrides: Overrides,
    grid: Annotated[list[str], Parameter(negative="")],
    out: Path,
    seeds: str = "0",
    jobs: Count = 1,
    slurm: Slurm = None,
) -> None:
    """Train one configuration at every combination of values of options, and show the scores.

    Nothing is chosen. The same command again, also with a wider grid, keeps finished runs. Writes
    OUT/sweep.html, OUT/sweep.json, and into OUT what `compare` writes.

    Args:
        grid: An option and its values, such as adapter.band.low=0.1,0.2,0.3; all combinations of
            several options, each with its own --grid.
        out: Folder of the runs.
        seeds: Seeds of every combination.
        jobs: Number of runs side by side; with --slurm, of workers, one run each.
    """
    from causalseg.jobs.compare.grid import parse_grid
    from causalseg.jobs.compare.study import check_failures
    from causalseg.jobs.sweep import plan_sweep, run_sweep

    plan = plan_sweep(config, overrides, parse_grid(grid), _numbers(seeds), out)
    if slurm:
        _write_script(slurm, plan.study, jobs)
        return
    swept, failures = run_sweep(plan, jobs)
    if swept:
        _print_sweep(swept)
        print(f"report: {out / 'sweep.html'}, scores: {out / 'sweep.json'}")
    check_failures(plan.study, failures)


def _write_script(file: Path, study: "Study", jobs: int) -> None:
    from causalseg.jobs.compare.slurm import write_script

    write_script(file, study, jobs, sys.argv[1:])
    print(f"script: {file}; edit its first lines, then run: sbatch {file}")


def _read_methods(config: Path, overrides: Sequence[str], options: MethodOptions) -> "list[Method]":
    """Read the chosen methods; with a budget, size them and print the sizes."""
    from causalseg.jobs.compare.budget import parse_budget, size_methods
    from causalseg.jobs.compare.methods import read_methods

    names = [name.strip() for name in options.adapters.split(",") if name.strip()]
    methods = read_methods(names, options.methods)
    if options.budget is None:
        return methods
    sized = size_methods(config, overrides, methods, parse_budget(options.budget))
    for each in sized:
        print(each.text)
    return [each.method for each in sized]


def _numbers(text: str) -> list[int]:

    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds {text!r}: whole numbers and commas, such as 0,1,2") from None


def _print_comparison(comparison: "Comparison") -> None:
    from rich.console import Console
    from rich.table import Table

    from causalseg.report.comparison_page import ADAPTER, build_table

    heads, rows = build_table(comparison)
    over = comparison.over
    score = "mean" if len(over) > 1 else over[0]
    shown = ("method", score, f"difference to {comparison.reference}", ADAPTER, "seeds")
    columns = [i for i, (name, _) in enumerate(heads) if name in shown]
    printed = Table(title=f"mIoU in percent, mean over {', '.join(over)}")
    for i in columns:
        printed.add_column("\n".join(heads[i]).strip(), justify="right" if i else "left")
    for row in rows:
        printed.add_row(*(row[i] for i in columns))
    Console().print(printed)


def _print_sweep(swept: "Sweep") -> None:
    from rich.console import Console
    from rich.table import Table

    from causalseg.report.sweep_page import build_table
    from causalseg.runs.scores import MEAN

    heads, rows = build_table(swept)
    shown = [heads.index(name) for name in (*swept.options, MEAN, "seeds")]
    printed = Table(title=f"mIoU in percent, mean over {', '.join(swept.over)}")
    for i in shown:
        printed.add_column(heads[i], justify="right")
    for row in rows:
        printed.add_row(*(row[i] for i in shown))
    Console().print(printed)


def soup(
    *runs: RunPath, factors: str = "1", metric: str | None = None, out: Path | None = None
) -> None:
    """Average the weights of runs into a new run, and score it.

    The runs differ in the seed alone and have the same run.init_seed. A factor below 1 moves the
    adapter back towards its initial weights, those of the frozen backbone (WiSE-FT); for that one
    run is enough.

    Args:
        runs: Run folders written by `train`.
        factors: Factors on the adapter's change, from 0 to 1; of several, such as 0.5,0.75,1, the
            best is taken.
        metric: What chooses: DOMAIN.miou of a domain that data.mean_over does not name.
        out: Run folder to write.
    """
    from causalseg.cli.eval import print_table
    from causalseg.engine.devices import is_first_process
    from causalseg.jobs.soup import make_soup
    from causalseg.report import domain_table

    if not runs or out is None:
        raise ConfigError("name run folders and a new one: causalseg soup RUN [RUN ...] --out RUN")
    made = make_soup(runs, out, [_number(text) for text in factors.split(",")], metric)
    if is_first_process():
        print_table(domain_table([made.run]))
        print(f"factor {made.factor:g} on the adapter's change\nreport: {made.run.report}")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"--factors {text!r} is not a number: write 0.5,0.75,1") from error
