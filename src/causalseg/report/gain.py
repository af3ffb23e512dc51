"""What an adapter gained over the head alone, from two run folders beside each other.

    gain = mIoU of the run - mIoU of a run without adapter that is otherwise the same, in points

Otherwise the same: backbone, data, head, training (but for the adapter's learning rate), scoring,
seed.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from causalseg.config import Config
from causalseg.config.load import list_differences, load_config
from causalseg.config.stages import Stage, stage_of
from causalseg.errors import CausalsegError
from causalseg.report.comparison import MEAN, Value
from causalseg.runs.folder import RunFolder
from causalseg.runs.scores import read_scores

_OF_METHOD = ("adapter.", "intervene", "train.adapter_lr")
_OF_MACHINE = ("run.devices", "run.nodes", "run.precision")


class Gain(NamedTuple):
    """Points of mIoU over the run of the head alone.

    Attributes:
        folder: that run's.
        name: its path from the folder that the run is in.
        points: by domain, of several also of their mean.
    """

    folder: Path
    name: str
    points: dict[str, float]

    @property
    def text(self) -> str:
        """The points, for people."""
        return ", ".join(f"{name} {value:+.1f}" for name, value in self.points.items())


def find_gain(run: RunFolder) -> Gain | None:
    """Return what the adapter of a finished run gained, if a run of the head alone is beside it.

    Beside it are the other folders of its parent, and of OUT/METHOD/seedN, OUT/*/seedN.
    """
    config = load_config(run.need(run.config))
    if config.adapter.name == "none":
        return None
    ours = read_scores(run)
    for path in _neighbours(run.path):
        other = RunFolder(path)
        try:
            if not _is_head_only(load_config(other.need(other.config)), config):
                continue
            theirs = read_scores(other)
        except CausalsegError:  # unfinished, or of another version
            continue
        if _images(ours) == _images(theirs) and not (
            ours.get("overrides") or theirs.get("overrides")
        ):
            return Gain(path, os.path.relpath(path, run.path.parent), _points(ours, theirs))
    return None


def _neighbours(path: Path) -> Iterator[Path]:
    here = path.resolve()
    around = [*path.parent.glob("*"), *path.parent.parent.glob(f"*/{path.name}")]
    yield from (other for other in sorted(around) if other.resolve() != here and other.is_dir())


def _is_head_only(config: Config, ours: Config) -> bool:
    """Whether it is the head alone and otherwise the same."""
    if config.adapter.name != "none" or config.intervene is not None:
        return False
    return all(
        key.startswith((*_OF_METHOD, *_OF_MACHINE)) or Stage.COMPARE in stage_of(Config, key)
        for key in list_differences(config, ours)
    )


def _images(scores: dict[str, Any]) -> dict[str, list[str]]:
    return {name: about["per_image"]["names"] for name, about in scores["domains"].items()}


def _points(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    def known(scores: dict[str, Any]) -> dict[str, Value]:
        found = {name: about["miou"] for name, about in scores["domains"].items()}
        return found | ({MEAN: scores["mean"]["miou"]} if len(scores["mean"]["over"]) > 1 else {})

    pairs = [(name, miou, known(theirs)[name]) for name, miou in known(ours).items()]
    return {n: mine - other for n, mine, other in pairs if mine is not None and other is not None}
