"""Checkpoints of Rein's published code, and of Causal-Tune's, which builds on it, as run folders.

Such a checkpoint holds the adapter (``backbone.reins.*``), the head (``decode_head.*``) and, merged
by one of Rein's scripts, the frozen backbone (``backbone.*``). Names and shapes tell what they are.
The rest has the published configurations' values unless given as an option: patches of 16 pixels by
bicubic resampling; blocks 7, 11, 15 and 23 of 24; windows of 512 pixels, or of the size of the
position grid in the file.

Nothing is written unless the tensors of file and model match exactly.
"""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import timm
import torch
from safetensors.torch import save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from causalseg.backbones.presets import resolve_name
from causalseg.backbones.timm import build_backbone
from causalseg.backbones.weights.formats import State, below, first_names, list_problems
from causalseg.backbones.weights.read import sha256_of
from causalseg.build.model import build_segmenter
from causalseg.config import Config
from causalseg.config.load import dump_config, parse_config
from causalseg.errors import ConfigError, RunError, WeightsError
from causalseg.jobs.importing.mask2former import name_in_mmdet, read_size
from causalseg.jobs.importing.mmengine import read_checkpoint
from causalseg.model import Segmenter
from causalseg.runs.folder import RunFolder
from causalseg.writing import replacing, write_json, write_text

Code = Literal["rein", "causal-tune"]

_ADAPTER, _HEAD, _BACKBONE = "backbone.reins.", "decode_head.", "backbone."
_OURS_TO_REINS = {
    "tokens.A": "learnable_tokens_a",
    "tokens.B": "learnable_tokens_b",
    "tokens.T": "learnable_tokens",
    "scale": "scale",
    "token_to_feature": "mlp_token2feat",
    "delta": "mlp_delta_f",
    "link.transform": "transform",
    "link.merge": "merge",
}
_MERGE = "link.merge.weight"
_SECOND = f"{_ADAPTER}learnable_tokens2"  # only the released Causal-Tune code has these
# Created but never used by the published code: in Causal-Tune's adapter, in mmseg's heads.
_IDLE_TOKENS = (_SECOND, f"{_ADAPTER}mlp_token2feat2.", f"{_ADAPTER}mlp_delta_f2.")
_IDLE = (f"{_HEAD}conv_seg.", f"{_HEAD}loss_")

_DINOV2 = {(384, 12): "s", (768, 12): "b", (1024, 24): "l", (1536, 40): "g"}  # width, blocks
_PATCH, _WINDOW = 16, 512  # pixels
_NUM_CITYSCAPES = 19
_OWN_WEIGHTS = "backbone.safetensors"


class Imported(NamedTuple):
    """A run folder, and notes on what the file did not specify."""

    run: RunFolder
    notes: list[str]


def import_checkpoint(path: Path, code: Code, out: Path, overrides: Sequence[str] = ()) -> Imported:
    """Convert a checkpoint, a file of mmengine or a state dict, to a run folder, new or empty.

    Raises WeightsError if the file does not hold such a checkpoint, or does not fit the backbone.
    """
    run = RunFolder(out.resolve())
    if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
        raise RunError(f"{run.path} is in use: choose another folder with --out")
    state = read_checkpoint(path)
    _check_code(state, code, path)
    options = _make_options(state, code, run, overrides)
    config = parse_config(options, overrides, f"the import of {path}")
    _check_kind(config, code)
    with torch.device("meta"):  # names and shapes alone
        model = build_segmenter(config.with_options("backbone", weights="random", sha256=None))
    parts = _place(state, model, path)
    own = str(run.path / _OWN_WEIGHTS)
    if config.backbone.weights == own:
        parts["backbone"] = _backbone_of(state)
    notes = _make_notes(state, config, own)
    config = config.with_options("backbone", levels=model.backbone.levels)
    _write(run, config, parts, {"code": code, "checkpoint": path.name, "sha256": sha256_of(path)})
    return Imported(run, notes)


def _check_code(state: State, code: Code, path: Path) -> None:
    if not any(key.startswith(f"{_ADAPTER}learnable_tokens") for key in state):
        raise WeightsError(
            f"{path} has no adapter of Rein's code ({_ADAPTER}learnable_tokens...); it has "
            f"{len(state)} tensors: {first_names(list(state))}"
        )
    writer, has = ("causal-tune", "has") if _SECOND in state else ("rein", "has no")
    if writer != code:
        raise WeightsError(
            f"{path} is a checkpoint of {writer}: it {has} {_SECOND}; use `causalseg import "
            f"{writer}`"
        )
    if code == "causal-tune" and f"{_ADAPTER}learnable_tokens" in state:
        raise WeightsError(
            f"{path} has tokens of full rank ({_ADAPTER}learnable_tokens): of causal-tune, only "
            "low-rank tokens can be imported"
        )
    if f"{_HEAD}query_feat.weight" in state:
        raise WeightsError(
            f"{path} has a head with queries of its own ({_HEAD}query_feat): only heads that take "
            "their queries from the tokens of the adapter can be imported"
        )


def _check_kind(config: Config, code: Code) -> None:
    """Refuse options that change what the tensors of the file compute."""
    wanted = {"name": code.replace("-", "_"), "head": "mask2former"}
    kind = {"name": getattr(config.adapter, "name", "a chain"), "head": config.head.name}
    if code == "causal-tune":
        wanted["recipe"] = "released"
        kind["recipe"] = getattr(config.adapter, "recipe", "none")
    if kind != wanted:
        raise ConfigError(
            f"a checkpoint of {code} is imported as {wanted}, but the options say {kind}: leave "
            "out those that change adapter or head"
        )


def _make_options(
    state: State, code: Code, run: RunFolder, overrides: Sequence[str]
) -> dict[str, Any]:
    """Return the options of the file, without overrides."""
    depth, num_tokens, rank, width = _read_adapter_size(state)
    head, num_classes = read_size(below(state, _HEAD))
    backbone: dict[str, Any] = {"patch": _PATCH, "patch_resize": "bicubic"}
    if letter := _DINOV2.get((width, depth)):
        backbone["name"] = f"dinov2_vit{letter}14"
    elif not any(override.startswith(("backbone.name=", "backbone=")) for override in overrides):
        raise WeightsError(
            f"the adapter is for {width} channels and {depth} blocks, which no DINOv2 has: name "
            "its backbone with backbone.name=..."
        )
    if inside := _backbone_of(state):
        backbone["weights"] = str(run.path / _OWN_WEIGHTS)
    else:
        backbone["position"] = "plain"  # as Rein's scripts resample it
    window = _read_window(inside) or _WINDOW
    init = "small" if f"{_ADAPTER}scale" in state else "zero"  # zero_mlp_delta_f has no scale
    adapter: dict[str, Any] = {"name": "rein", "init": init}
    if code == "causal-tune":
        adapter = {"name": "causal_tune", "recipe": "released"}
    names = [f"class_{k}" for k in range(num_classes)]
    classes = "cityscapes19" if num_classes == _NUM_CITYSCAPES else names
    return {
        "backbone": backbone,
        "adapter": {**adapter, "num_tokens": num_tokens, "rank": rank},
        "head": {**head, "num_queries": num_tokens},
        "data": {"classes": classes, "sources": [], "domains": {}},
        "train": {"crop": [window, window]},
        "eval": {"mode": "slide", "window": [window] * 2, "stride": [round(2 * window / 3)] * 2},
        "run": {"out": str(run.path)},
    }


def _read_adapter_size(state: State) -> tuple[int, int, int | None, int]:
    """Return blocks, tokens per block, rank (None if full) and width."""
    full = state.get(f"{_ADAPTER}learnable_tokens")
    if full is not None and full.ndim == 3:
        return full.shape[0], full.shape[1], None, full.shape[2]
    names = [f"{_ADAPTER}learnable_tokens_{letter}" for letter in "ab"]
    A, B = (state.get(name, torch.empty(0)) for name in names)
    if A.ndim != 3 or B.ndim != 3:
        raise WeightsError(
            f"the adapter's tokens are not low-rank tokens of Rein: {names[0]} {tuple(A.shape)}, "
            f"{names[1]} {tuple(B.shape)}; both must have three dimensions"
        )
    return A.shape[0], A.shape[1], A.shape[2], B.shape[2]


def _read_window(backbone: State) -> int | None:
    """Return the training crop in pixels, to which Rein's scripts resample the position grid."""
    position = backbone.get("pos_embed")
    if position is None or position.ndim != 3:
        return None
    side = math.isqrt(position.shape[1] - 1)
    return side * _PATCH if side > 0 and side * side == position.shape[1] - 1 else None


def _place(state: State, model: Segmenter, path: Path) -> dict[str, State]:
    """Return the tensors of adapter and head by our names; the file must have no others."""
    depth, _, _, width = _read_adapter_size(state)
    widths = model.backbone.widths
    if widths != (width,) * depth:
        raise WeightsError(
            f"{path}: the adapter is for {width} channels and {depth} blocks, the backbone has "
            f"{widths[0]} and {len(widths)}: name the one that it was trained on with "
            "backbone.name=..."
        )
    parts: dict[str, State] = {"adapter": {}, "head": {}}
    used = set()
    missing = []
    misshapen = []
    for part, tensors in parts.items():
        for key, like in model.trainable()[part].state_dict().items():
            name, value = find_tensor(state, part, key)
            if value is None:
                missing.append(name)
                continue
            used.add(name)
            if value.shape != like.shape:
                misshapen.append(f"{name} {tuple(value.shape)}, expected {tuple(like.shape)}")
            tensors[key] = value.clone()  # safetensors saves no views of one tensor
    idle = _IDLE + (_IDLE_TOKENS if _SECOND in state else ())
    others = state.keys() - used - {f"{_BACKBONE}{key}" for key in _backbone_of(state)}
    unknown = [key for key in state if key in others and not key.startswith(idle)]
    absent = list(dict.fromkeys(missing))  # once of a packed tensor
    problems = {"missing": absent, "of another shape": misshapen, "unknown": unknown}
    if lines := list_problems(problems):
        raise WeightsError(
            f"{path} does not fit the model of its configuration, nothing was written:{lines}"
        )
    return parts


def find_tensor(state: State, part: str, key: str) -> tuple[str, Tensor | None]:
    """Find a tensor of our ``adapter`` or ``head``: its name in the file, and its value if there.

    Rein's query link concatenates maximum, mean and last block channel by channel; ours all
    channels of the maximum, then of the mean, then of the last block.
    """
    if part == "head":
        theirs, third = name_in_mmdet(key)
        name = _HEAD + theirs
    else:
        module, _, end = key.rpartition(".")
        theirs = _OURS_TO_REINS.get(key) or f"{_OURS_TO_REINS[module]}.{end}"
        name, third = _ADAPTER + theirs, None
    value = state.get(name)
    if value is not None and third is not None:
        value = value.tensor_split(3)[third]
    if value is not None and key == _MERGE:
        value = torch.cat([value[:, i::3] for i in range(3)], dim=1)
    return name, value


def _write(run: RunFolder, config: Config, parts: dict[str, State], origin: dict[str, Any]) -> None:
    """Write a temporary run folder, check its backbone, and move it into place."""
    run.path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import.", dir=run.path.parent) as temporary:
        beside = RunFolder(Path(temporary) / run.path.name)
        for name, tensors in parts.items():
            with replacing(beside.path / f"{name}.safetensors") as file:
                save_file({key: value.contiguous() for key, value in tensors.items()}, file)
        if "backbone" in parts:
            local = config.with_options("backbone", weights=str(beside.path / _OWN_WEIGHTS))
            config = config.with_options("backbone", sha256=build_backbone(local.backbone).sha256)
        write_text(beside.config, dump_config(config))
        write_json(beside.origin, origin)
        if run.path.is_dir():
            run.path.rmdir()
        beside.path.replace(run.path)


def _make_notes(state: State, config: Config, own: str) -> list[str]:
    depth, _, _, _ = _read_adapter_size(state)
    name, weights = config.backbone.name, config.backbone.weights
    notes = [f"backbone: {name}, weights {weights}; choose another with backbone.name=..."]
    if weights != own and _backbone_of(state):
        notes.append("the backbone in the file is left out: backbone.weights names another")
    if depth != 24 and config.backbone.levels is None:
        notes.append(
            f"the file does not say which of its {depth} blocks the head saw: evenly spaced ones "
            "are used; choose others with backbone.levels=..."
        )
    if config.eval.window == (_WINDOW, _WINDOW) and not _read_window(_backbone_of(state)):
        notes.append(
            f"the file does not say its training size: windows of {_WINDOW} pixels are used; "
            "choose others with train.crop, eval.window and eval.stride"
        )
    names = getattr(config.data.classes, "names", [])
    if unnamed := sum(each == f"class_{k}" for k, each in enumerate(names)):
        notes.append(
            f"{unnamed} classes without names: name them with data.classes='[road, ...]' in the "
            "order of training"
        )
    usual = timm.get_pretrained_cfg(resolve_name(name))
    if usual and (usual.mean, usual.std) != (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD):
        notes.append(
            f"images are normalised as in the training of {name} (mean {list(usual.mean)}); Rein's "
            "code uses ImageNet's mean for every backbone, so scores will differ"
        )
    return notes


def _backbone_of(state: State) -> State:
    others = {key: value for key, value in state.items() if not key.startswith(_ADAPTER)}
    return below(others, _BACKBONE)
