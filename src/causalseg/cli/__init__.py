"""The command line. Commands import what they need when they run, so that help is instant."""

import json
import logging
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from causalseg import __version__
from causalseg.cli.arguments import (
    ConfigFile,
    Overrides,
)
from causalseg.cli.compare import compare, soup, sweep, tune
from causalseg.cli.data import data_app
from causalseg.cli.eval import evaluate, print_table, report, submit
from causalseg.cli.predict import adapt, bench, export, pack, predict, serve
from causalseg.cli.spectrum import spectrum
from causalseg.errors import END_SIGNALS, CausalsegError, Terminated

if TYPE_CHECKING:
    from causalseg.config import Config

# Spinning threads slow each other down tenfold on a busy machine.
os.environ.setdefault("GOMP_SPINCOUNT", "0")

app = App(
    name="causalseg",
    help="Fine-tune a frozen vision foundation model for segmentation on unseen domains.",
    version=__version__,
    suppress_keyboard_interrupt=False,  # `main` says how to continue
)
config_app = App(name="config", help="Show configurations and options.")
app.command(config_app)
app.command(data_app)
app.command(compare)
app.command(tune)
app.command(sweep)
app.command(soup)
app.command(evaluate, name="eval")
app.command(report)
app.command(submit)
app.command(predict)
app.command(adapt)
app.command(pack)
app.command(export)
app.command(bench)
app.command(serve)
app.command(spectrum)


@app.command
def train(
    config: ConfigFile,
    /,
    *overrides: Overrides,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Train a configuration, score the result and write a report into the run folder.

    Args:
        dry_run: Write nothing: take a few steps, score an image of each domain, and print what the
            whole training would take.
    """
    from causalseg.config.load import load_config
    from causalseg.engine.devices import is_first_process
    from causalseg.jobs.train import train_run

    if dry_run:
        return _forecast(load_config(config, overrides))
    run = train_run(load_config(config, overrides))
    if is_first_process():
        print(f"report: {run.report}")


def _forecast(config: "Config") -> None:
    from rich.console import Console
    from rich.table import Table

    from causalseg.engine.devices import is_first_process
    from causalseg.errors import RunError
    from causalseg.jobs.forecast import forecast_run

    forecast = forecast_run(config)
    if is_first_process():
        table = Table(show_header=False)
        for line in forecast.lines:
            table.add_row(*line)
        Console().print(table)
    if forecast.problems:
        raise RunError("\n".join(forecast.problems))


@app.command(name="import")
def import_run(
    code: Literal["rein", "causal-tune"], checkpoint: Path, /, *overrides: str, out: Path
) -> None:
    """Convert a checkpoint of other code into a run folder, for eval and predict.

    Args:
        code: The code that trained it: rein, Rein's published code, or causal-tune, Causal-Tune's.
        checkpoint: File with adapter and Mask2Former head, with or without the backbone.
        overrides: Options as key=value, such as
            backbone.weights=/weights/dinov2_vitl14_pretrain.pth.
        out: The run folder to write.
    """
    from causalseg.jobs.importing.rein import import_checkpoint

    imported = import_checkpoint(checkpoint, code, out, overrides)
    for note in imported.notes:
        print(note)
    print(f"run: {imported.run.path}")


@app.command
def quickstart(*, out: Path = Path("quickstart")) -> None:
    """Train a linear probe and Causal-Tune on clear scenes; score both in unseen weather.

    Args:
        out: Folder for both runs and their comparison.
    """
    from causalseg.jobs.quickstart import run_quickstart

    table, report = run_quickstart(out)
    print_table(table)
    print(f"report: {report}")


@app.command
def backbones(
    part: str = "", /, *, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
) -> None:
    """List backbones with a short name: size, licence, and whether their weights are present.

    Args:
        part: List only names that contain this, such as dinov3 or vitl.
        as_json: Print JSON, for scripts.
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import track

    from causalseg.jobs.backbones import find_presets, list_backbones, make_table

    bar = Console(stderr=True)
    names = find_presets(part)
    rows = list_backbones(
        track(names, "sizes", console=bar, transient=True, disable=not bar.is_terminal)
    )
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        # A pipe has no width.
        Console(width=None if sys.stdout.isatty() else 100).print(make_table(rows))


@config_app.command
def show(config: ConfigFile, /, *overrides: Overrides) -> None:
    """Check a configuration and print it with every option."""
    from causalseg.config.load import dump_config, load_config

    print(dump_config(load_config(config, overrides)), end="")


@config_app.command
def keys(prefix: str = "", /) -> None:
    """Print every option: key, type, default and meaning.

    Args:
        prefix: Print only keys that start with this, such as train or adapter.
    """
    from causalseg.config.load import list_options
    from causalseg.errors import ConfigError, did_you_mean

    # As listed, adapter[rein].rank, and as written in a configuration, adapter.rank.
    spellings = [(o, o.key, re.sub(r"\[.*?\]", "", o.key)) for o in list_options()]
    options = [option for option, *keys in spellings if any(k.startswith(prefix) for k in keys)]
    if not options:
        blocks = {key.split(".")[0] for _, _, key in spellings}
        raise ConfigError(f"no option starts with {prefix!r}; {did_you_mean(prefix, blocks)}")
    for option in options:
        print(f"{option.key} ({option.type}) = {option.default}\n    {option.text}")


@config_app.command
def schema(of: Literal["config", "eval"] = "config", /) -> None:
    """Print the JSON Schema of configurations, for editors, or of eval.json.

    Args:
        of: config or eval.
    """
    from causalseg.config import Config
    from causalseg.runs.scores import Scores

    model = Config if of == "config" else Scores
    print(json.dumps(model.model_json_schema(), indent=2))


def main() -> None:
    """Run the command line; a user's mistake gives one message and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # Not what the caller has set, such as nohup, which ignores SIGHUP.
    handled = [number for number in END_SIGNALS if signal.getsignal(number) == signal.SIG_DFL]
    for number in handled:
        signal.signal(number, _terminate)
    try:
        app(sys.argv[1:], exit_on_error=False)
    except CycloptsError:
        raise SystemExit(2) from None  # its message is printed already
    except BrokenPipeError:  # the reader of the output, such as head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except (CausalsegError, OSError) as error:  # such as a full disk
        is_ours = isinstance(error, CausalsegError)
        hint = "" if is_ours else "; check the path and the free space"
        if not getattr(error, "is_repeated", False):
            print(f"error: {error}{hint}", file=sys.stderr)
        raise SystemExit(2) from None
    except RuntimeError as error:
        from causalseg.data.workers import explain_death
        from causalseg.engine.devices import explain_loss, explain_memory

        told = explain_death(error) or explain_memory(error) or explain_loss(error)
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, Terminated) else signal.SIGINT
        by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
        go_on = f"stopped{by}; run.resume=true continues a training run from its last checkpoint"
        print(str(stop) or go_on, file=sys.stderr)
        raise SystemExit(128 + number) from None
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


def _terminate(number: int, frame: object) -> None:
    raise Terminated(number)


if __name__ == "__main__":
    main()
