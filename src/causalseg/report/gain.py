"""The gain of an adapter over the frozen backbone, from two neighbouring run folders.

It is the difference of mIoU in points to a run without adapter whose backbone, data, head,
training (but for the adapter's learning rate), scoring and seed are the same.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from causalseg.config import Config
from causalseg.config.load import list_differences, load_config
from causalseg.config.stages import Stage, stage_of
from causalseg.errors import CausalsegError
from causalseg.report.format import format_signed, subtract
from causalseg.runs.folder import RunFolder
from causalseg.runs.scores import MEAN, read_scores

_OF_METHOD = ("adapter.", "intervene", "consistency", "train.adapter_lr")
_OF_MACHINE = ("run.devices", "run.nodes", "run.strategy", "run.precision", "train.accumulate")


class Gain(NamedTuple):
    """Points of mIoU by domain (and of a mean of several) over the run in ``folder``."""

    folder: Path
    name: str  # path of the folder, relative to the parent of the run
    points: dict[str, float]

    @property
    def text(self) -> str:
        """The points as text."""
        return ", ".join(f"{name} {format_signed(value)}" for name, value in self.points.items())


def find_gain(run: RunFolder) -> Gain | None:
    """Return the gain of a finished run over a run without adapter, if there is one.

    It is searched for next to the run and, for OUT/METHOD/seedN, in OUT/*/seedN.
    """
    config = load_config(run.need(run.config))
    if config.adapter.name == "none":
        return None
    ours = read_scores(run)
    for path in _list_neighbours(run.path):
        other = RunFolder(path)
        try:
            if not _is_frozen_twin(load_config(other.need(other.config)), config):
                continue
            theirs = read_scores(other)
        except CausalsegError:  # unfinished, or of another version
            continue
        is_plain = not any(each.overrides or each.is_adapted for each in (ours, theirs))
        images = [{n: d.per_image.names for n, d in s.domains.items()} for s in (ours, theirs)]
        if is_plain and images[0] == images[1]:
            names = [*ours.domains, *([MEAN] if len(ours.mean.over) > 1 else [])]
            points = {name: subtract(ours.miou_of(name), theirs.miou_of(name)) for name in names}
            known = {name: value for name, value in points.items() if value is not None}
            return Gain(path, os.path.relpath(path, run.path.parent), known)
    return None


def _list_neighbours(path: Path) -> Iterator[Path]:
    here = path.resolve()
    around = [*path.parent.glob("*"), *path.parent.parent.glob(f"*/{path.name}")]
    yield from (other for other in sorted(around) if other.resolve() != here and other.is_dir())


def _is_frozen_twin(config: Config, ours: Config) -> bool:
    if config.adapter.name != "none" or config.intervene or config.consistency:
        return False
    return all(
        key.startswith((*_OF_METHOD, *_OF_MACHINE)) or Stage.COMPARE in stage_of(Config, key)
        for key in list_differences(config, ours)
    )
