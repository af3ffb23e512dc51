"""A trained run as one file to give away, and runs from such a file or from a hub.

It holds what prediction needs and nothing of the machine: configuration without data and paths,
weights, checksums, card. The backbone is not in it: its name and checksum are in config.yaml.
"""

import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import huggingface_hub
from huggingface_hub.errors import HTTPError

from causalseg.config import Config
from causalseg.config.load import dump_config, load_config
from causalseg.errors import MissingFileError, RunError
from causalseg.runs.folder import RunFolder
from causalseg.runs.seal import check_seal, sealing
from causalseg.writing import replacing, write_text

HUB = "hub:"  # before user/name
_FILES = (
    *("config.yaml", "head.safetensors", "adapter.safetensors", "gains.safetensors"),
    *("checksums.json", "README.md"),
)
_MOST_BYTES = 4_000_000_000
_HUB_ERRORS = (HTTPError, OSError, ValueError)  # HTTP, network, a name that is none


def pack_run(run: RunFolder, out: str, checkpoint: str = "last") -> None:
    """Write a run into the zip file ``out``, or push it to the hub's repository hub:USER/NAME.

    ``checkpoint`` is last or best. Raises MissingFileError without the weights, RunError if a file
    of the run was changed, ``out`` is no such place, or the hub refuses.
    """
    is_hub = out.startswith(HUB)
    if not is_hub and not out.endswith(".zip"):
        raise RunError(f"out is {out}: give the name of a zip file, or {HUB}USER/NAME")
    with tempfile.TemporaryDirectory() as name:
        packed = RunFolder(name)
        _copy(run, packed, checkpoint)
        files = [packed.path / each for each in _FILES if (packed.path / each).is_file()]
        if is_hub:
            _push(packed.path, out.removeprefix(HUB))
            return
        with replacing(Path(out)) as temporary, ZipFile(temporary, "w", ZIP_STORED) as archive:
            for file in files:
                archive.write(file, file.name)


@contextmanager
def opened(path: Path | str) -> Iterator[RunFolder]:
    """Yield the run of a folder, of a zip file of `pack_run`, or of hub:USER/NAME.

    Raises MissingFileError if it is not there, RunError if the zip holds no run or the hub cannot
    be reached.
    """
    if str(path).startswith(HUB):
        yield RunFolder(_fetch(str(path).removeprefix(HUB)))
    elif Path(path).is_file() and Path(path).suffix.lower() == ".zip":
        with tempfile.TemporaryDirectory() as name:
            _unpack(Path(path), Path(name))
            yield RunFolder(name)
    else:
        yield RunFolder(path)


def _copy(run: RunFolder, packed: RunFolder, checkpoint: str) -> None:
    config = load_config(run.need(run.config))
    source = {"last": run.path, "best": run.best}.get(checkpoint)
    if source is None or not (source / run.head.name).is_file():
        raise MissingFileError(f"{run.path} has no weights {checkpoint!r} to pack: last or best")
    weights = [source / run.head.name, source / run.adapter.name, run.gains]
    present = [file for file in weights if file.is_file()]
    for file in present:
        check_seal(run, file)
    targets = [packed.path / file.name for file in present]
    with sealing(packed, *targets):
        for file, target in zip(present, targets, strict=True):
            shutil.copyfile(file, target)
    write_text(packed.config, dump_config(_without_places(config, run.path.resolve().name)))
    if run.card.is_file():
        shutil.copyfile(run.card, packed.card)


def _without_places(config: Config, name: str) -> Config:
    """Return a configuration without the data and folders of the machine that trained it."""
    nothing: dict[str, Any] = {
        "root": None,
        "roots": {},
        "sources": [],
        "domains": {},
        "mean_over": None,
    }
    config = config.with_options("data", **nothing, only=None, rare_classes=None)
    config = config.with_options("run", out=name, init=None, resume=False)
    config = config.with_options("run", best=None, patience=None, allow_target=False)
    if (file := Path(config.backbone.weights)).suffix:  # a file: whoever loads it has another path
        config = config.with_options("backbone", weights=file.name)
    return config


def _unpack(file: Path, folder: Path) -> None:
    """Unpack the files of a run that are named as we name them, and no others."""
    try:
        with ZipFile(file) as archive:
            members = {info.filename: info for info in archive.infolist()}
            if "config.yaml" not in members or "head.safetensors" not in members:
                raise RunError(f"{file} holds no run: make one with `causalseg pack`")
            if sum(members[name].file_size for name in _FILES if name in members) > _MOST_BYTES:
                raise RunError(f"{file} is larger than {_MOST_BYTES / 1e9:.0f} GB unpacked")
            for name in _FILES:
                if name in members:
                    (folder / name).write_bytes(archive.read(name))
    except (BadZipFile, zlib.error, OSError, NotImplementedError, RuntimeError, EOFError) as error:
        raise RunError(f"cannot read {file}: {error}; copy it again") from error


def _push(folder: Path, name: str) -> None:
    try:
        huggingface_hub.create_repo(name, private=True, exist_ok=True)
        huggingface_hub.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message="Add a run of causalseg",
            delete_patterns=list(_FILES),
        )
    except _HUB_ERRORS as error:
        raise RunError(
            f"cannot push to {HUB}{name}: {error}. It takes a network, a token (`hf auth login`, "
            "or HF_TOKEN), and a name such as USER/NAME"
        ) from error


def _fetch(name: str) -> str:
    try:
        return huggingface_hub.snapshot_download(name, allow_patterns=list(_FILES))
    except _HUB_ERRORS as error:
        raise RunError(
            f"cannot get {HUB}{name}: {error}. It takes a network, or a copy in the cache from "
            "before, and a name such as USER/NAME"
        ) from error
