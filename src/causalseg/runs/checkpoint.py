"""Checkpoints to resume from: the trainable parts, the optimiser and the step; and, where a run has
them, the average of the weights and the best ones.

Data order, augmentation, learning rate and sampling are functions of seed and step, so nothing
else is needed. A checkpoint replaces the previous one by renaming: killed at any moment, one of
the two is whole.
"""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from causalseg.errors import MissingFileError, RunError
from causalseg.model import Segmenter
from causalseg.runs.average import WeightAverage, list_weights, place_weights
from causalseg.runs.best import BestWeights
from causalseg.runs.folder import RunFolder
from causalseg.writing import replacing


def save_checkpoint(
    run: RunFolder,
    model: Segmenter,
    optimizer: Optimizer,
    average: WeightAverage,
    best: BestWeights,
    step: int,
    keep: int = 1,
) -> None:
    """Write last.ckpt; with ``keep`` above 1 also keep the newest ``keep`` as step-N.ckpt.

    Raises:
        RunError: if it cannot be written; the previous checkpoint stays.
    """
    content = {
        "step": step,
        "model": {name: part.state_dict() for name, part in model.trainable().items()},
        "optimizer": optimizer.state_dict(),
    }
    content |= {"average": average.values} if average.is_on else {}
    content |= {"best": best.state()} if best.is_on else {}
    with replacing(run.checkpoint) as temporary:
        _save(content, temporary)
    if keep > 1:
        with replacing(run.path / f"step-{step:07d}.ckpt") as temporary:
            temporary.hardlink_to(run.checkpoint)
        for old in sorted(run.path.glob("step-*.ckpt"))[:-keep]:
            old.unlink()


def read_checkpoint(run: RunFolder, file: Path | None = None) -> dict[str, Any]:
    """Return the content of last.ckpt, or of another: step, model, optimizer.

    Raises:
        MissingFileError: if there is no checkpoint.
        RunError: if it is broken.
    """
    file = file or run.need(run.checkpoint)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        raise RunError(
            f"{file} is broken ({str(error).splitlines()[0]}): copy an earlier step-*.ckpt of the "
            "run over it, or train again into another folder"
        ) from error


def load_checkpoint(
    run: RunFolder,
    model: Segmenter,
    optimizer: Optimizer,
    average: WeightAverage,
    best: BestWeights,
) -> int:
    """Restore all of this from last.ckpt; return the number of steps done.

    Raises:
        MissingFileError: if there is no checkpoint.
        RunError: if it is broken or belongs to another model.
    """
    content = read_checkpoint(run)
    with _of_another_run(run.checkpoint):
        _place(model, content)
        optimizer.load_state_dict(content["optimizer"])
        if average.is_on:
            average.restore(content["average"], content["step"])
        if best.is_on:
            best.restore(content["best"])
    return int(content["step"])


def load_weights(run: RunFolder, model: Segmenter, which: str = "last") -> dict[str, Any]:
    """Load trained weights for use; return what eval.json says of them.

    Args:
        run: the run folder.
        model: takes the weights.
        which: last, those at the end of training; best, those that run.best chose; or the name or
            path of a checkpoint, or of a folder with the weights of adapter and head. Of a
            checkpoint with an average of the weights the average is taken.

    Raises:
        MissingFileError: if it is not there; names those that are.
        CausalsegError: if it is broken or belongs to another model.
    """
    place = _find(run, which)
    if place.is_dir():
        model.load(place)
        about = place / "best.json"
        known = RunFolder(place).read_json(about) if about.is_file() else {}
        return {"name": "last" if place == run.path else place.name, **known}
    content = read_checkpoint(run, place)
    with _of_another_run(place):
        _place(model, content)
        if "average" in content and content["average"] is not None:
            place_weights(list_weights(model), content["average"])
    return {"name": place.name, "step": content["step"]}


def list_checkpoints(run: RunFolder) -> list[str]:
    """Return the weights that a run has, by the names that `load_weights` takes."""
    whole = {"last": run.head, "best": run.best / "best.json"}
    files = sorted(file.name for file in run.path.glob("*.ckpt"))
    return [*(name for name, file in whole.items() if file.is_file()), *files]


def _find(run: RunFolder, which: str) -> Path:
    known = list_checkpoints(run)
    if which == "last" and ("last" in known or not known):
        return run.path  # of a run without any, loading says what makes the missing file
    is_whole = which in known or which not in ("last", "best")
    found = [path for path in (run.path / which, Path(which)) if path.exists() and is_whole]
    if not found:
        raise MissingFileError(
            f"{run.path} has no weights {which!r}; there are: {', '.join(known) or 'none'}"
        )
    return found[0]


def _place(model: Segmenter, content: dict[str, Any]) -> None:
    for name, part in model.trainable().items():
        part.load_state_dict(content["model"][name])


@contextmanager
def _of_another_run(file: Path) -> Iterator[None]:
    """Say of what does not fit that the checkpoint is of another run."""
    try:
        yield
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise RunError(
            f"{file} belongs to another configuration ({error}): use the run's own config.yaml, or "
            "train into another folder"
        ) from error


def _save(content: dict[str, Any], path: Path) -> None:
    try:
        torch.save(content, path)
    except RuntimeError as error:  # torch reports a full disk so
        raise OSError(str(error)) from error
