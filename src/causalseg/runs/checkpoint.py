"""Checkpoints: trainable parts, optimiser, step, and the average and the best weights, if any.

Data order, augmentation, learning rate and sampling are functions of seed and step, so nothing
else is needed to resume. Renaming replaces the previous checkpoint, so one is always complete.
"""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from causalseg.adapters.band_gains import BandGains
from causalseg.errors import MissingFileError, RunError
from causalseg.model import Segmenter
from causalseg.runs.average import WeightAverage, list_weights, place_weights
from causalseg.runs.best import BestWeights
from causalseg.runs.folder import RunFolder
from causalseg.runs.seal import check_seal, sum_of
from causalseg.writing import replacing

# What torch.load raises for bytes of any other kind.
_BROKEN = (
    *(RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, TypeError, KeyError),
    *(IndexError, AttributeError, AssertionError, OverflowError, MemoryError, ImportError),
)


def save_checkpoint(
    run: RunFolder,
    model: Segmenter,
    optimizer: Optimizer,
    average: WeightAverage,
    best: BestWeights,
    step: int,
    keep: int = 1,
) -> None:
    """Write last.ckpt whole or not at all; ``keep`` above 1 keeps that many as step-N.ckpt."""
    parts = {name: part.state_dict() for name, part in model.trainable().items()}
    content = {"step": step, "model": parts, "optimizer": optimizer.state_dict()}
    if average.is_on:
        content["average"] = average.values
    if best.is_on:
        content["best"] = best.state()
    with replacing(run.checkpoint, is_durable=True) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # "unexpected pos" and others: a write that failed
            raise OSError("the disk is full, or writing to it failed") from error
    if keep > 1:
        with replacing(run.path / f"step-{step:07d}.ckpt") as temporary:
            temporary.hardlink_to(run.checkpoint)
        for old in sorted(run.path.glob("step-*.ckpt"))[:-keep]:
            old.unlink()


def read_checkpoint(run: RunFolder, file: Path | None = None) -> dict[str, Any]:
    """Read last.ckpt or another. Raises MissingFileError, or RunError if it is broken."""
    file = file or run.need(run.checkpoint)
    problem, cause = "it has no step and no weights", None
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        if isinstance(content, dict) and isinstance(content.get("model"), dict):
            step = content.get("step")
            if type(step) is int and step >= 0:
                return content
    except _BROKEN as error:
        text, cause = str(error), error
        problem = (text.splitlines() or [type(error).__name__])[0]
        if "weights_only" in text or "Unsupported" in text:
            problem = "reading it would run code that it contains"
    raise RunError(
        f"{file} is broken ({problem}): copy an earlier step-*.ckpt of the run over it, or train "
        "again into another folder"
    ) from cause


def load_checkpoint(
    run: RunFolder,
    model: Segmenter,
    optimizer: Optimizer,
    average: WeightAverage,
    best: BestWeights,
) -> int:
    """Restore last.ckpt; return the steps done. Raises RunError if it is of another model."""
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
    """Load trained weights for use; return their description for eval.json.

    ``which`` is last, at the end of training; best, chosen by run.best; or the name or path of a
    checkpoint (of which the average is used, if any) or of a folder with adapter and head. The band
    gains of an adapted run are applied to any of them. Raises CausalsegError if they are broken or
    of another model, MissingFileError if they do not exist.
    """
    about = _load_parts(run, model, _find(run, which))
    if run.gains.exists() or sum_of(run, run.gains):  # noted, but gone: an error
        check_seal(run, run.need(run.gains))
        model.scale_bands(BandGains.load(run.gains, model.backbone.depth))
        about["adapted"] = True
    return about


def _load_parts(run: RunFolder, model: Segmenter, path: Path) -> dict[str, Any]:
    if path.is_dir():
        for name in model.trainable():
            check_seal(run, path / f"{name}.safetensors")
        model.load(path)
        file = path / "best.json"
        choice = RunFolder(path).read_json(file) if file.is_file() else {}
        return {"name": "last" if path == run.path else path.name, **choice}
    content = read_checkpoint(run, path)
    with _of_another_run(path):
        _place(model, content)
        if content.get("average") is not None:
            place_weights(list_weights(model), content["average"])
    return {"name": path.name, "step": content["step"]}


def _find(run: RunFolder, which: str) -> Path:
    folders = {"last": run.head, "best": run.best / "best.json"}
    known = [name for name, file in folders.items() if file.is_file()]
    known += sorted(file.name for file in run.path.glob("*.ckpt"))
    if which == "last" and ("last" in known or not known):
        return run.path  # if there are no weights, loading says how to make them
    if which in known or which not in ("last", "best"):
        for path in (run.path / which, Path(which)):
            if path.exists():
                return path
    raise MissingFileError(
        f"{run.path} has no weights {which!r}; there are: {', '.join(known) or 'none'}"
    )


def _place(model: Segmenter, content: dict[str, Any]) -> None:
    for name, part in model.trainable().items():
        part.load_state_dict(content["model"][name])


@contextmanager
def _of_another_run(file: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise RunError(
            f"{file} belongs to another configuration ({error}): use the run's own config.yaml, or "
            "train into another folder"
        ) from error
