"""Where the curves of a run go beside its log: TensorBoard, Weights & Biases, MLflow.

All have the same names of scalars, EVENT/NAME. The last two are optional extras. What they call the
run stands in trackers.json, so that a resumed run goes on there.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

import yaml
from torch.utils.tensorboard import SummaryWriter

from causalseg.errors import ConfigError
from causalseg.runs.folder import RunFolder
from causalseg.writing import write_json

_EXTRAS = ("wandb", "mlflow")
_PROJECT = "causalseg"
_MOST_PARAMETERS = 100  # that an MLflow server takes at once


class Tracker(Protocol):
    """Takes the scalars of a run."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Take values by name."""

    def close(self) -> None:
        """Write what is still held."""


class TensorBoard:
    """Event files in the run folder.

    Args:
        run: the run folder.
        first: steps already done; later values of an earlier attempt are dropped.
    """

    def __init__(self, run: RunFolder, first: int):
        folder = run.path / "tensorboard"
        if not first:
            shutil.rmtree(folder, ignore_errors=True)  # curves of an attempt that left nothing
        self._writer = SummaryWriter(str(folder), purge_step=first + 1 if first else None)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Take values by name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is still held."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases, with the configuration; files in the run folder.

    Args:
        run: the run folder; its name is the run's.
        first: steps already done; above 0 the earlier run goes on.
    """

    def __init__(self, run: RunFolder, first: int):
        self._run = import_module("wandb").init(
            project=_PROJECT,
            name=run.path.resolve().name,
            config=_read_config(run),
            dir=str(run.path),
            id=_read_name(run, "wandb") if first else None,
            resume="allow",
        )
        _write_name(run, "wandb", self._run.id)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Take values by name."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Write what is still held."""
        self._run.finish()


class MLflow:
    """A run of MLflow, with the configuration as parameters; where it goes is MLflow's choice.

    Args:
        run: the run folder; its name is the run's.
        first: steps already done; above 0 the earlier run goes on.
    """

    def __init__(self, run: RunFolder, first: int):
        self._mlflow = import_module("mlflow")
        self._mlflow.set_experiment(_PROJECT)
        earlier = _read_name(run, "mlflow") if first else None
        started = self._mlflow.start_run(run_id=earlier, run_name=run.path.resolve().name)
        _write_name(run, "mlflow", started.info.run_id)
        parameters = [] if earlier else list(_flat(_read_config(run)))
        for place in range(0, len(parameters), _MOST_PARAMETERS):
            self._mlflow.log_params(dict(parameters[place : place + _MOST_PARAMETERS]))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Take values by name, in which letters that MLflow refuses become an underscore."""
        named = {re.sub(r"[^\w\-. /]", "_", name): value for name, value in values.items()}
        self._mlflow.log_metrics(named, step=step)

    def close(self) -> None:
        """Write what is still held."""
        self._mlflow.end_run()


_KINDS: dict[str, Callable[[RunFolder, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
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


def _read_config(run: RunFolder) -> dict[str, Any]:
    return yaml.safe_load(run.need(run.config).read_text(encoding="utf-8"))


def _read_name(run: RunFolder, tracker: str) -> str | None:
    """What a tracker called the run before; None if it did not follow it."""
    return run.read_json(run.trackers).get(tracker) if run.trackers.is_file() else None


def _write_name(run: RunFolder, tracker: str, name: str) -> None:
    others = run.read_json(run.trackers) if run.trackers.is_file() else {}
    write_json(run.trackers, {**others, tracker: name})


def _flat(options: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every option by its path; lists are one."""
    if isinstance(options, dict) and options:
        for name, inner in options.items():
            yield from _flat(inner, f"{key}.{name}" if key else name)
    else:
        yield key, options
