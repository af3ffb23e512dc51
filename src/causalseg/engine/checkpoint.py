"""Checkpoints to resume from: the trainable parts, the optimiser and the step.

Data order, augmentation, learning rate and sampling are functions of seed and step, so nothing
else is needed. A checkpoint replaces the previous one by renaming: killed at any moment, one of
the two is whole.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from causalseg.errors import RunError
from causalseg.model import Segmenter
from causalseg.runfolder import RunFolder, replacing


def save_checkpoint(
    run: RunFolder, model: Segmenter, optimizer: Optimizer, step: int, keep: int = 1
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
    with replacing(run.checkpoint) as temporary:
        _save(content, temporary)
    if keep > 1:
        with replacing(run.path / f"step-{step:07d}.ckpt") as temporary:
            temporary.hardlink_to(run.checkpoint)
        for old in sorted(run.path.glob("step-*.ckpt"))[:-keep]:
            old.unlink()


def read_checkpoint(run: RunFolder) -> dict[str, Any]:
    """Return the content of last.ckpt: step, model, optimizer.

    Raises:
        MissingFileError: if there is no checkpoint.
        RunError: if it is broken.
    """
    file = run.need(run.checkpoint)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        raise RunError(
            f"{file} is broken ({str(error).splitlines()[0]}): copy an earlier step-*.ckpt of the "
            "run over it, or train again into another folder"
        ) from error


def load_checkpoint(run: RunFolder, model: Segmenter, optimizer: Optimizer) -> int:
    """Restore model and optimiser from last.ckpt; return the number of steps done.

    Raises:
        MissingFileError: if there is no checkpoint.
        RunError: if it is broken or belongs to another model.
    """
    content = read_checkpoint(run)
    try:
        for name, part in model.trainable().items():
            part.load_state_dict(content["model"][name])
        optimizer.load_state_dict(content["optimizer"])
        return int(content["step"])
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise RunError(
            f"{run.checkpoint} belongs to another configuration ({error}): resume with the run's "
            "own config.yaml, or train into another folder"
        ) from error


def _save(content: dict[str, Any], path: Path) -> None:
    try:
        torch.save(content, path)
    except RuntimeError as error:  # torch reports a full disk so
        raise OSError(str(error)) from error
