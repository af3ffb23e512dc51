"""Trackers of a run: TensorBoard, Weights & Biases, MLflow.

All take the same scalars, named EVENT/NAME. The last two are optional extras; their ids of a run
are in trackers.json, so that a resumed run continues there.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

from torch.utils.tensorboard import SummaryWriter

from causalseg.config.load import flatten
from causalseg.errors import ConfigError
from causalseg.runs.folder import RunFolder
from causalseg.writing import write_json

_EXTRAS = ("wandb", "mlflow")
_PROJECT = "causalseg"
_MAX_PARAMETERS = 100  # in one request to an MLflow server


class Tracker(NamedTuple):
    """Takes scalars by name, and their step; ``close`` writes buffered ones."""

    log: Callable[[dict[str, float], int], None]
    close: Callable[[], None]


def _open_tensorboard(run: RunFolder, first: int) -> Tracker:
    """Write event files in the run folder; those after ``first`` steps are dropped."""
    folder = run.path / "tensorboard"
    if not first:
        shutil.rmtree(folder, ignore_errors=True)  # of an attempt without a checkpoint
    writer = SummaryWriter(str(folder), purge_step=first + 1 if first else None)

    def log(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return Tracker(log, writer.close)


def _open_wandb(run: RunFolder, first: int) -> Tracker:
    """Start a run of Weights & Biases with the configuration; its files are in the run folder."""
    started = import_module("wandb").init(
        project=_PROJECT,
        name=run.path.resolve().name,
        config=run.read_config(),
        dir=str(run.path),
        id=_read_ids(run).get("wandb") if first else None,
        resume="allow",
    )
    _write_id(run, "wandb", started.id)
    return Tracker(lambda values, step: started.log(values, step=step), started.finish)


def _open_mlflow(run: RunFolder, first: int) -> Tracker:
    """Start a run of MLflow with the configuration as parameters; MLflow chooses the server."""
    mlflow = import_module("mlflow")
    mlflow.set_experiment(_PROJECT)
    earlier = _read_ids(run).get("mlflow") if first else None
    started = mlflow.start_run(run_id=earlier, run_name=run.path.resolve().name)
    _write_id(run, "mlflow", started.info.run_id)
    parameters = [] if earlier else list(flatten(run.read_config()))
    for index in range(0, len(parameters), _MAX_PARAMETERS):
        mlflow.log_params(dict(parameters[index : index + _MAX_PARAMETERS]))

    def log(values: dict[str, float], step: int) -> None:
        # MLflow refuses other characters.
        named = {re.sub(r"[^\w\-. /]", "_", name): value for name, value in values.items()}
        mlflow.log_metrics(named, step=step)

    return Tracker(log, mlflow.end_run)


_KINDS = {"tensorboard": _open_tensorboard, "wandb": _open_wandb, "mlflow": _open_mlflow}


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError if one of them needs a package that is not installed."""
    for name in names:
        if name in _EXTRAS:
            try:
                import_module(name)
            except ImportError as error:
                raise ConfigError(
                    f"run.trackers names {name}, which cannot be imported ({error}): install the "
                    f"extra, pip install 'causalseg[{name}]', or drop it"
                ) from error


def open_trackers(names: Sequence[str], run: RunFolder, first: int) -> list[Tracker]:
    """Start trackers for a run whose config.yaml is written; ``first`` steps are done."""
    return [_KINDS[name](run, first) for name in names]


def _read_ids(run: RunFolder) -> dict[str, str]:
    return run.read_json(run.trackers) if run.trackers.is_file() else {}


def _write_id(run: RunFolder, tracker: str, run_id: str) -> None:
    write_json(run.trackers, {**_read_ids(run), tracker: run_id})
