"""Read the tensors of a TorchScript archive, and run nothing of it.

OpenAI publishes CLIP so. The archive is a zip: ``data.pkl`` pickles the module with everything it
holds, ``data/N`` are the bytes of the storages, ``code/`` is a program that is not touched. A
pickle can name any function and have it called. Here it gets a stand-in for each name that a
TorchScript archive needs, and any other name is refused:

    __torch__.*                          an inert object that keeps the attributes of a module
    torch._utils._rebuild_tensor_v2      a view of a storage, bounds checked
    torch.FloatStorage, ...              a dtype
    collections.OrderedDict, lists       themselves
"""

import io
import pickle
import struct
import zipfile
import zlib
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
# What zipfile, pickle and the views raise over bytes that are not what they should be.
_BROKEN = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
    OverflowError,
    RuntimeError,
)


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
        """Return the stand-in for a name."""
        # Methods, as a pickle can set attributes of what it is given, but not of a bound method.
        allowed = {
            "torch._utils._rebuild_tensor_v2": self._view,
            "torch.jit._pickle.restore_type_tag": self._untag,
            "collections.OrderedDict": OrderedDict,
            **{f"torch.jit._pickle.{builder}": list for builder in _LISTS},
            **{f"torch.{storage}": dtype for storage, dtype in _STORAGES.items()},
        }
        full_name = f"{module}.{name}"
        if module.partition(".")[0] == "__torch__":
            return _Module
        if full_name in allowed:
            return allowed[full_name]
        raise WeightsError(
            f"{self.archive.filename} would run code when loaded, which is refused: it names "
            f"{full_name}. Where you trust it, load it yourself with torch.jit.load and save its "
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
            raise pickle.UnpicklingError(f"storage {name} is not {count} numbers of {dtype}")
        return storage

    def _view(
        self, storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
    ) -> Tensor:
        return storage.as_strided(size, stride, offset)

    def _untag(self, value: Any, tag: str) -> Any:
        return value


def is_torchscript(path: Path) -> bool:
    """Say whether a file is a whole TorchScript archive; one that is cut off is not recognised."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _find_root(archive) is not None
    except (zipfile.BadZipFile, OSError):
        return False


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Read the parameters and buffers of a TorchScript archive by their names in its module.

    A tensor that a module holds as a plain attribute, or as a buffer that is not persistent, cannot
    be told apart from these and comes along.

    Raises:
        WeightsError: if it is no TorchScript archive, broken, or names something other than
            modules and tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root = _find_root(archive)
            if root is None:
                raise WeightsError(
                    f"{path} is no TorchScript archive: give a file that torch.jit.save wrote, or "
                    "a state dict"
                )
            if f"{root}byteorder" in archive.namelist():
                order = archive.read(f"{root}byteorder")
                if order != b"little":
                    raise WeightsError(
                        f"{path} holds {order.decode(errors='replace')}-endian numbers: save it "
                        "again on a little-endian machine"
                    )
            return _collect(_Reader(archive, root).load())
    except WeightsError:
        raise
    except _BROKEN as error:
        raise WeightsError(f"{path} is broken or cut off ({error}): get it again") from error


def _find_root(archive: zipfile.ZipFile) -> str | None:
    """Return the folder in the archive; None if it is not TorchScript's."""
    names = archive.namelist()
    roots = [name.removesuffix("constants.pkl") for name in names if name.endswith("constants.pkl")]
    return next((root for root in roots if f"{root}data.pkl" in names), None)


def _collect(module: Any, prefix: str = "") -> dict[str, Tensor]:
    """Return a module's tensors and those of the modules in it."""
    if not isinstance(module, _Module):
        raise pickle.UnpicklingError("no module")
    state: dict[str, Tensor] = {}
    for name, value in module.attributes.items():
        if isinstance(value, Tensor):
            state[f"{prefix}{name}"] = value
        elif isinstance(value, _Module):
            state |= _collect(value, f"{prefix}{name}.")
    return state
