"""Checkpoints of mmengine: the tensors, and nothing else in the file.

Such a file is a pickle with ``state_dict``, ``meta`` and, if the run can be resumed, ``optimizer``,
``param_schedulers`` and ``message_hub``. The last holds the log as objects of mmengine and numpy,
which a reader that executes nothing refuses. One class that keeps nothing replaces all of them
while the file is read, so neither library runs or has to be installed.
"""

from pathlib import Path

import torch
from torch import Tensor

from causalseg.backbones.weights.read import read_state
from causalseg.errors import MissingFileError, WeightsError

_OF_THE_LOG = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",  # how a pickle refers to HistoryBuffer.mean
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",  # as of numpy 2
    "numpy._core.multiarray.scalar",
)


class _Ignored:
    """Replaces an object of the log."""

    def __new__(cls, *_: object) -> "_Ignored":
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint or a state dict (.pth, .safetensors), executing nothing.

    Raises WeightsError if the file is broken, holds no state dict, or objects of other kinds.
    """
    if not path.is_file():
        raise MissingFileError(f"no checkpoint {path}: check the path")
    with torch.serialization.safe_globals([(_Ignored, name) for name in _OF_THE_LOG]):
        try:
            return read_state(path)
        except WeightsError as error:
            if path.name == "last.ckpt" or path.match("step-*.ckpt"):
                raise WeightsError(
                    f"{path} is a checkpoint of causalseg itself: nothing to import, use "
                    f"`causalseg eval {path.parent} --checkpoint {path.name}`"
                ) from error
            raise
