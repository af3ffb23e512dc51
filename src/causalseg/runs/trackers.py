"""Trackers of a run: TensorBoard, Weights & Biases, MLflow.

All take the same scalars, named EVENT/NAME. The last two are optional extras; their ids of a run
are in trackers.json, so that a resumed run continues there.
"""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Protocol

from torch.utils.tensorboard import SummaryWriter

from causalseg.config.load import flatten
from causalseg.errors import ConfigError
from causalseg.runs.folder import RunFolder
from causalseg.writing import write_json

_EXTRAS = ("wandb", "mlflow")
_PROJECT = "causalseg"
_MAX_PARAMETERS = 100  # in one request to an MLflow server


class Tracker(Protocol):
    """Takes the scalars of a run, which is continued if steps are already done (``first``)."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log values by name."""

    def close(self) -> None:
        """Write buffered values."""


class _TensorBoard:
    """Event files in the run folder; those after ``first`` steps are dropped."""

    def __init__(self, run: RunFolder, first: int):
        folder = run.path / "tensorboard"
        if not first:
            shutil.rmtree(folder, ignore_errors=True)  # of an attempt without a checkpoint
        self._writer = SummaryWriter(str(folder), purge_step=first + 1 if first else None)
        self.close = self._writer.close

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)


class _WandB:
    """A run of Weights & Biases with the configuration; its files are in the run folder."""

    def __init__(self, run: RunFolder, first: int):
        self._run = import_module("wandb").init(
            project=_PROJECT,
            name=run.path.resolve().name,
            config=run.read_config(),
            dir=str(run.path),
            id=_read_ids(run).get("wandb") if first else None,
            resume="allow",
        )
        _write_id(run, "wandb", self._run.id)
        self.close = self._run.finish

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)


class _MLflow:
    """A run of MLflow with the configuration as parameters; MLflow chooses the server."""

    def __init__(self, run: RunFolder, first: int):
        self._mlflow = import_module("mlflow")
        self._mlflow.set_experiment(_PROJECT)
        earlier = _read_ids(run).get("mlflow") if first else None
        started = self._mlflow.start_run(run_id=earlier, run_name=run.path.resolve().name)
        _write_id(run, "mlflow", started.info.run_id)
        parameters = [] if earlier else list(flatten(run.read_config()))
        for index in range(0, len(parameters), _MAX_PARAMETERS):
            self._mlflow.log_params(dict(parameters[index : index + _MAX_PARAMETERS]))
        self.close = self._mlflow.end_run

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        # MLflow refuses other characters.
        named = {re.sub(r"[^\w\-. /]", "_", name): value for name, value in values.items()}
        self._mlflow.log_metrics(named, step=step)


_KINDS: dict[str, Callable[[RunFolder, int], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
    "mlflow": _MLflow,
}


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
