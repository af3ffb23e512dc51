"""Read the tensors of a weight file: safetensors, PyTorch or TorchScript.

What a file is follows from its content, never from its name, and nothing in it is executed.
"""

import hashlib
import json
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from causalseg.backbones.weights.torchscript import read_torchscript
from causalseg.errors import WeightsError

_WRAPPERS = ("model", "state_dict", "model_ema", "module", "teacher")
# What the readers raise for damaged bytes.
_BROKEN: tuple[type[Exception], ...] = (OSError, EOFError, LookupError, AttributeError, TypeError)
_BROKEN += (ValueError, OverflowError, RuntimeError, safetensors.SafetensorError)
_BROKEN += (pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error)


SHARD_INDEX = ".index.json"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 checksum of a file, or of all shards of an index, in hexadecimal."""
    digest = hashlib.sha256()
    for part in _find_shards(path) or [path]:
        with part.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file by their names in it.

    A state dict under ``model``, ``state_dict``, ``model_ema``, ``module`` or ``teacher`` is found.
    Raises WeightsError if it is missing, broken, needs code to load, or holds no state dict.
    """
    if not path.is_file():
        raise WeightsError(
            f"weights: no file {str(path)!r}; allowed are hub, wheel, random, or the path of a "
            "weight file (.safetensors, .pth, .pt, .bin)"
        )
    try:
        if shards := _find_shards(path):
            return {key: value for shard in shards for key, value in read_state(shard).items()}
        return _read_by_content(path)
    except WeightsError:
        raise
    except _BROKEN as error:
        if "Unsupported global" in str(error):
            raise WeightsError(
                f"{path} would run code when loaded, which is refused: it holds more than tensors. "
                "If you trust it, load it yourself and save its state dict with "
                "safetensors.torch.save_file"
            ) from error
        raise WeightsError(f"{path} is broken or cut off ({error}): get it again") from error


def _find_shards(path: Path) -> list[Path]:
    """Return the files that an index of transformers names; none for another file."""
    if not path.name.endswith(SHARD_INDEX):
        return []
    try:
        names = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is no index of shards: get the folder again") from error
    return [path.parent / Path(name).name for name in names]


def _read_by_content(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":
        return load_file(path)
    is_zip = start[:2] == b"PK"
    if is_zip and (state := read_torchscript(path)) is not None:
        return state
    if is_zip or start[:1] == b"\x80":
        return _unwrap(torch.load(path, map_location="cpu", weights_only=True), path)
    raise WeightsError(
        f"{path} is neither a safetensors nor a PyTorch file (is it a download page or cut "
        "off?): download it again"
    )


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise WeightsError(
            f"{path} holds a {type(content).__name__} that is not a state dict (names to tensors, "
            "possibly under 'model' or 'state_dict')"
        )
    return content
