"""Arguments that several commands have in common."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def _at_least_one(_type: type, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError("must be 1 or more")


ConfigFile = Annotated[Path, Parameter(help="YAML file; configs/ has examples.")]
Overrides = Annotated[
    str, Parameter(help="Options as key=value, such as train.lr=2e-4 or adapter=none.")
]
RunPath = Annotated[Path, Parameter(help="Run folder written by `train`.")]
UseOverrides = Annotated[
    str, Parameter(help="Options as key=value, such as eval.mode=whole or eval.size=[540,960].")
]
Weights = Annotated[
    str,
    Parameter(help="Weights to use: last, best, a checkpoint file, or a folder with weights."),
]
IgnoreChecksums = Annotated[
    bool,
    Parameter(negative="", help="Read files of a run that were changed after they were written."),
]
Count = Annotated[int, Parameter(validator=_at_least_one)]
