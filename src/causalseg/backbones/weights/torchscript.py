"""Read the tensors of a TorchScript archive without running anything in it.

OpenAI publishes CLIP in this form, a zip: ``data.pkl`` pickles the module, ``data/N`` are the bytes
of the storages, ``code/`` is not touched. A pickle can call any function by its name. Here each
name that a TorchScript archive needs has a stand-in, and any other name is refused:

    __torch__.*                          an inert object that keeps the attributes of a module
    torch._utils._rebuild_tensor_v2      a view of a storage, bounds checked
    torch.FloatStorage, ...              a dtype
    collections.OrderedDict, lists       themselves
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from causalseg.errors import WeightsError

_STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_LISTS = {"build_intlist", "build_doublelist", "build_boollist", "build_tensorlist"}


class _Module:
    """Keeps the attributes of a pickled module; stands in for its class."""

    attributes: Mapping[str, Any] = MappingProxyType({})

    def __setstate__(self, state: Any) -> None:
        self.attributes = dict(state)


class _Reader(pickle.Unpickler):
    """Unpickles ``data.pkl``: stand-ins for every name, storages out of the archive."""

    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")))
        self.archive, self.root = archive, root
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        # A pickle can set attributes of the objects it gets, but not of bound methods.
        allowed: dict[str, Any] = {
            "torch._utils._rebuild_tensor_v2": self._view,
            "torch.jit._pickle.restore_type_tag": self._untag,
            "collections.OrderedDict": OrderedDict,
        }
        allowed |= {f"torch.jit._pickle.{builder}": list for builder in _LISTS}
        allowed |= {f"torch.{storage}": dtype for storage, dtype in _STORAGES.items()}
        full_name = f"{module}.{name}"
        if module.partition(".")[0] == "__torch__":
            return _Module
        if full_name in allowed:
            return allowed[full_name]
        raise WeightsError(
            f"{self.archive.filename} would run code when loaded, which is refused: it names "
            f"{full_name}. If you trust it, load it yourself with torch.jit.load and save its "
            "state dict with safetensors.torch.save_file"
        )

    def persistent_load(self, pid: Any) -> Tensor:
        """Return a storage as a flat tensor."""
        _, dtype, name, _, count = pid
        if name not in self.storages:
            content = bytearray(self.archive.read(f"{self.root}data/{name}"))
            empty = torch.empty(0, dtype=dtype)
            self.storages[name] = torch.frombuffer(content, dtype=dtype) if content else empty
        storage = self.storages[name]
        if (storage.dtype, storage.numel()) != (dtype, count):
            raise pickle.UnpicklingError(f"storage {name} does not hold {count} values of {dtype}")
        return storage

    def _view(
        self, storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
    ) -> Tensor:
        return storage.as_strided(size, stride, offset)

    def _untag(self, value: Any, tag: str) -> Any:
        return value


def read_torchscript(path: Path) -> dict[str, Tensor] | None:
    """Read the parameters and buffers of a TorchScript archive by their names in its module.

    Plain attributes and buffers that are not persistent cannot be distinguished and are included.
    None if the zip file is no TorchScript archive. Raises WeightsError if it is big-endian or names
    something other than modules and tensors, and for damage what zipfile, pickle and torch raise.
    """
    with zipfile.ZipFile(path) as archive:
        members = set(archive.namelist())
        ends = ("data.pkl", "constants.pkl")
        folders = {name.rpartition("/")[0] + "/" for name in members}
        root = next((f for f in folders if all(f + end in members for end in ends)), None)
        if root is None:
            return None
        order = f"{root}byteorder"
        if order in members and archive.read(order) != b"little":
            raise WeightsError(
                f"{path} holds big-endian values: save it again on a little-endian machine"
            )
        return _collect(_Reader(archive, root).load())


def _collect(module: Any, prefix: str = "") -> dict[str, Tensor]:
    if not isinstance(module, _Module):
        raise pickle.UnpicklingError("no module")
    state: dict[str, Tensor] = {}
    for name, value in module.attributes.items():
        if isinstance(value, Tensor):
            state[f"{prefix}{name}"] = value
        elif isinstance(value, _Module):
            state |= _collect(value, f"{prefix}{name}.")
    return state
