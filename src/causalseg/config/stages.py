"""What may change when: a mark on the field of each option.

The innermost marked field on the way to an option counts, so a mark on a block holds for what has
none of its own; an option without a mark belongs to the identity of the run.
"""

from collections.abc import Iterator
from enum import Flag, auto
from functools import cache

from causalseg.config.block import Block
from causalseg.config.mistakes import blocks_in


class Stage(Flag):
    """When an option may differ from what the run was made with."""

    RESUME = auto()
    """When a run goes on."""
    SCORES = auto()
    """When a run goes on, unless `run.best` chooses weights by scores."""
    USE = auto()
    """When a trained run is scored or predicts."""
    TRAINING = auto()
    """Never in use: only training reads it."""
    COMPARE = auto()
    """Between the runs of a comparison: scores do not depend on it."""
    OWN = auto()
    """Set by a comparison for each of its runs."""


WRITING = Stage.RESUME | Stage.COMPARE
COMPUTING = Stage.RESUME | Stage.COMPARE | Stage.USE


@cache
def stage_of(config: type[Block], key: str) -> Stage:
    """Return the mark of an option of ``config``, such as ``data.domains.night.images``."""
    stage, blocks = Stage(0), [config]
    for name in key.split("."):
        fields = [block.model_fields[name] for block in blocks if name in block.model_fields]
        for field in fields:
            stage = next((mark for mark in field.metadata if isinstance(mark, Stage)), stage)
        if fields:  # the name of a domain or an index stays within the blocks
            blocks = [block for field in fields for block in blocks_in(field.annotation)]
    return stage


def keys_of(config: type[Block], stage: Stage, prefix: str = "") -> Iterator[str]:
    """Yield the outermost options that have a mark."""
    for name, field in config.model_fields.items():
        marks = [mark for mark in field.metadata if isinstance(mark, Stage)]
        if any(stage in mark for mark in marks):
            yield prefix + name
        elif not marks:
            for block in blocks_in(field.annotation):
                yield from keys_of(block, stage, f"{prefix}{name}.")
