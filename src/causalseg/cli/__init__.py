"""The command line. Commands import what they need when they run, so that help is instant."""

import json
import logging
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from causalseg import __version__
from causalseg.cli.compare import compare, tune
from causalseg.cli.data import data_app
from causalseg.cli.eval import evaluate, print_table, report, submit
from causalseg.errors import CausalsegError

# Threads that wait by spinning slow each other down tenfold on a busy machine.
os.environ.setdefault("GOMP_SPINCOUNT", "0")

app = App(
    name="causalseg",
    help="Fine-tune a frozen vision foundation model for segmentation on unseen domains.",
    version=__version__,
    suppress_keyboard_interrupt=False,  # `main` says how to go on
)
config_app = App(name="config", help="Look at configurations.")
app.command(config_app)
app.command(data_app)
app.command(compare)
app.command(tune)
app.command(evaluate, name="eval")
app.command(report)
app.command(submit)


@app.command
def train(config: Path, /, *overrides: str) -> None:
    """Train a configuration into its run folder, score it and write a report.

    Parameters
    ----------
    config
        YAML file; `configs/` has examples.
    overrides
        Options as key=value, such as train.lr=2e-4 or adapter=none.
    """
    from causalseg.config.load import load_config
    from causalseg.engine.devices import is_first_process
    from causalseg.jobs.train import train_run

    run = train_run(load_config(config, overrides))
    if is_first_process():
        print(f"report: {run.report}")


@app.command
def predict(
    run: Path, images: Path, /, *overrides: str, checkpoint: str = "last", out: Path
) -> None:
    """Predict an image or a folder: predictions/ (label PNGs) and overlays/ (colours).

    Parameters
    ----------
    run
        Run folder that `train` made.
    images
        An image, or a folder of images.
    overrides
        Options as key=value, such as eval.mode=whole.
    checkpoint
        Which weights: last, best, or a checkpoint or folder, as `eval` takes it.
    out
        Folder for predictions/ and overlays/.
    """
    from causalseg.jobs.predict import predict_run

    count = predict_run(run, images, out, overrides, checkpoint)
    print(f"{count} images: {out / 'predictions'}, {out / 'overlays'}")


@app.command(name="import")
def import_run(
    code: Literal["rein", "causal-tune"], checkpoint: Path, /, *overrides: str, out: Path
) -> None:
    """Make a run folder of a checkpoint that other code has trained, for eval and predict.

    Parameters
    ----------
    code
        Whose it is: rein, Rein's published code; causal-tune, Causal-Tune's released code.
    checkpoint
        The file: adapter and Mask2Former head, with or without the backbone.
    overrides
        Options as key=value, such as backbone.weights=/weights/dinov2_vitl14_pretrain.pth.
    out
        The run folder to make.
    """
    from causalseg.jobs.importing.rein import import_checkpoint

    imported = import_checkpoint(checkpoint, code, out, overrides)
    for note in imported.notes:
        print(note)
    print(f"run: {imported.run.path}")


@app.command
def quickstart(*, out: Path = Path("quickstart")) -> None:
    """Train head only and Causal-Tune on clear scenes, score both on night, fog, rain and snow.

    Parameters
    ----------
    out
        Folder for the two runs and the report that compares them.
    """
    from causalseg.jobs.quickstart import run_quickstart

    table, report = run_quickstart(out)
    print_table(table)
    print(f"report: {report}")


@app.command
def backbones(
    part: str = "", /, *, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
) -> None:
    """List the backbones that have a short name: size, licence, and whether weights are here.

    Parameters
    ----------
    part
        Only names that hold this, such as dinov3 or vitl.
    as_json
        Print JSON, for scripts.
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import track

    from causalseg.backbones.catalogue import find_presets, list_backbones, make_table

    bar = Console(stderr=True)
    names = find_presets(part)
    rows = list_backbones(
        track(names, "sizes", console=bar, transient=True, disable=not bar.is_terminal)
    )
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        # A pipe has no width of its own.
        Console(width=None if sys.stdout.isatty() else 100).print(make_table(rows))


@config_app.command
def show(config: Path, /, *overrides: str) -> None:
    """Print a configuration with every option, after checking it.

    Parameters
    ----------
    config
        YAML file.
    overrides
        Options as key=value.
    """
    from causalseg.config.load import dump_config, load_config

    print(dump_config(load_config(config, overrides)), end="")


@config_app.command
def keys(prefix: str = "", /) -> None:
    """Print every option: key, type, default and what it does.

    Parameters
    ----------
    prefix
        Only keys that begin so, such as train or adapter.
    """
    from causalseg.config.load import list_options
    from causalseg.errors import ConfigError, did_you_mean

    options = [
        option
        for option in list_options()
        if option.key.startswith(prefix) or re.sub(r"\[.*?\]", "", option.key).startswith(prefix)
    ]
    if not options:
        blocks = {option.key.split(".")[0].split("[")[0] for option in list_options()}
        raise ConfigError(f"no option begins with {prefix!r}; {did_you_mean(prefix, blocks)}")
    for option in options:
        print(f"{option.key} ({option.type}) = {option.default}\n    {option.text}")


@config_app.command
def schema(of: Literal["config", "eval"] = "config", /) -> None:
    """Print the JSON Schema of configurations, for editors, or of eval.json.

    Parameters
    ----------
    of
        config or eval.
    """
    from causalseg.config import Config
    from causalseg.runs.scores import Scores

    model = Config if of == "config" else Scores
    print(json.dumps(model.model_json_schema(), indent=2))


def main() -> None:
    """Run the command line; a user's mistake is one message and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        app(sys.argv[1:], exit_on_error=False)
    except CycloptsError:
        raise SystemExit(2) from None  # it has said what is wrong
    except BrokenPipeError:  # whoever reads the output, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except CausalsegError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:  # a full disk, a folder that cannot be written
        print(f"error: {error}; check the path and the free space", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as stop:
        print(
            str(stop)
            or "stopped; a training run goes on from its last checkpoint with run.resume=true, or "
            "starts anew if it has none yet",
            file=sys.stderr,
        )
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
