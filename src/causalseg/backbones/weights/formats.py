"""Formats of published backbone weights: what a file holds, and how timm names it.

A file is recognised by its state dict alone, names and shapes, never by its own name. A format is
known by its marks. A mark is a set of names that stand together under one prefix, such as
``module.`` or ``visual.``; the prefix goes, and what is outside of it belongs to other parts of the
file's model (text, decoder, classifier). Under the prefix, the format's table of names
(`backbones.weights.names`) is complete: another name is an error. A further format is a further
table and a line in `FORMATS`.

A ViT's position grid is resampled to the grid of the image, and every format has the rule of the
code that trained or published it:

    antialias   bicubic, antialiased
    plain       bicubic
    offset      bicubic, scale factor (size + 0.1) / grid
"""

import re
from collections import defaultdict
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from causalseg.backbones.weights import names as tables
from causalseg.backbones.weights.names import Names
from causalseg.errors import WeightsError

PositionRule = Literal["antialias", "plain", "offset"]
State = dict[str, Tensor]

_WILD = {"p": "weight|bias", "qkv": "query|key|value|q|k|v", "all": ".*"}  # the rest: numbers
_QKV = {"q": "0", "k": "1", "v": "2"}
_REIN_GRIDS = (32 * 32, 64 * 64)  # cells; what Rein's conversion scripts make, with patch 16
_NUM_LISTED = 8


class Weights(NamedTuple):
    """A state dict in timm's naming.

    Attributes:
        state: names in timm to tensors.
        position: how the code behind these weights resamples the position grid.
        origin: what the weights are, such as "official DINOv2 with registers".
    """

    state: State
    position: PositionRule
    origin: str


class Format(NamedTuple):
    """One naming of backbone weights.

    Attributes:
        origin: what the weights are.
        position: how their code resamples the position grid.
        marks: sets of names, separated by blanks; any one set marks the format.
        names: names in the file to names in timm.
        finish: what renaming cannot do. Takes the renamed state, and the source for errors.
        under: what the prefix must end with.
        fits: a condition on the state under the prefix, such as shapes.
    """

    origin: str
    position: PositionRule
    marks: tuple[str, ...]
    names: Names
    finish: Callable[[State, str], State] = lambda state, source: state
    under: str = ""
    fits: Callable[[State], bool] = lambda state: True


def convert(state: State, source: str) -> Weights:
    """Recognise weights by their names and shapes, and rename them to timm's naming.

    Args:
        state: a state dict; it stays as it is. The result may share its tensors.
        source: what errors call the weights, such as the path.

    Raises:
        WeightsError: if no format is recognised, several backbones are in it, a name does not
            belong to its format, a part of a tensor is missing, or timm's model has no place for
            something that counts.
    """
    for format_ in FORMATS:
        prefixes = _find(format_, state)
        if len(prefixes) > 1:
            raise WeightsError(
                f"{source} holds {len(prefixes)} backbones ({format_.origin}), under the prefixes "
                f"{first_names(prefixes)}: save the state dict of the one that you want"
            )
        if prefixes:
            prefix = prefixes[0]
            origin = f"{format_.origin}, under {prefix!r}" if prefix else format_.origin
            renamed = _rename(_strip(state, prefix), format_.names, f"{source} ({origin})")
            return Weights(format_.finish(renamed, source), format_.position, origin)
    known = ", ".join(format_.origin for format_ in FORMATS)
    raise WeightsError(
        f"{source} holds no backbone in a known naming; it has {len(state)} tensors: "
        f"{first_names(list(state))}.\nKnown are: {known}.\nSave the backbone's state dict in one "
        "of these namings, best in timm's, with safetensors.torch.save_file"
    )


def first_names(names: list[str]) -> str:
    """Return the first few names for a message, and ``...`` where there are more."""
    more = ", ..." if len(names) > _NUM_LISTED else ""
    return ", ".join(names[:_NUM_LISTED]) + more


def _find(format_: Format, state: State) -> list[str]:
    """Return the prefixes under which one of a format's marks stands."""
    found = set()
    for first, *others in map(str.split, format_.marks):
        for key in state:
            prefix = key.removesuffix(first)
            if (
                key.endswith(first)
                and (not prefix or prefix.endswith("."))
                and prefix.endswith(format_.under)
                and all(prefix + name in state for name in others)
                and format_.fits(_strip(state, prefix))
            ):
                found.add(prefix)
    return sorted(found)


def _strip(state: State, prefix: str) -> State:
    return {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }


def _rename(state: State, names: Names, source: str) -> State:
    """Apply a table of names, and join the parts of tensors."""
    rules = [(_compile(name), target) for name, target in names.items()]
    parts: dict[str, dict[int, Tensor]] = defaultdict(dict)
    unknown = []
    for key, value in state.items():
        found = next(((m, target) for rule, target in rules if (m := rule.fullmatch(key))), None)
        if found is None:
            unknown.append(key)
        elif found[1] is not None:
            name, part = _fill(found[1], found[0].groupdict())
            if part in parts[name]:
                raise WeightsError(
                    f"{source}: {key} is a second tensor for timm's {name}: take the file as it "
                    "was published"
                )
            parts[name][part] = value
    if unknown:
        raise WeightsError(
            f"{source}: {len(unknown)} of {len(state)} names do not belong to this format: "
            f"{first_names(unknown)}. Take the file as it was published, or save the backbone's "
            "state dict in timm's naming with safetensors.torch.save_file"
        )
    for name, pieces in parts.items():
        if sorted(pieces) != list(range(len(pieces))):
            raise WeightsError(
                f"{source}: of timm's {name} only the parts {sorted(pieces)} are there, counted "
                "from 0: take the file as it was published"
            )
    return {name: _join(name, pieces) for name, pieces in parts.items()}


def _compile(name: str) -> re.Pattern[str]:
    def wild(match: re.Match[str]) -> str:
        return f"(?P<{match[1]}>{_WILD.get(match[1], '[0-9]+')})"

    pattern = re.sub(r"\\\{(\w+)\\\}", wild, re.escape(name))
    return re.compile(pattern + r"(?P<end>\.weight|\.bias)?")


def _fill(target: str, found: dict[str, str]) -> tuple[str, int]:
    """Return timm's name, and which part of it this is."""
    if "qkv" in found:
        found = found | {"qkv": _QKV[found["qkv"][0]]}
    name, _, part = target.format(**found).partition("[")
    return name + (found["end"] or ""), int(part.removesuffix("]") or 0)


def _join(name: str, pieces: dict[int, Tensor]) -> Tensor:
    value = torch.cat([pieces[i] for i in sorted(pieces)]) if len(pieces) > 1 else pieces[0]
    if name in ("cls_token", "pos_embed") and value.ndim < 3:
        return value.reshape(*[1] * (3 - value.ndim), *value.shape)  # timm: (1, tokens, c)
    return value


def _is_rein(state: State) -> bool:
    kernel, position = state["patch_embed.proj.weight"].shape, state["pos_embed"].shape
    return kernel[2:] == (16, 16) and position[1:2] in [(1 + cells,) for cells in _REIN_GRIDS]


def _has_kernel(state: State) -> bool:
    """Say whether patches are embedded by a convolution; SigLIP 2 of any resolution has none."""
    return state["embeddings.patch_embedding.weight"].ndim == 4


def _fold_class_position(state: State, source: str) -> State:
    """Add the class position to the class token: timm's models with registers have none."""
    if not {"cls_token", "pos_embed"} <= state.keys():
        return state
    token, position = state["cls_token"], state["pos_embed"]
    return state | {"cls_token": token + position[:, :1], "pos_embed": position[:, 1:]}


def _split_biases(state: State, source: str) -> State:
    """Give timm the biases of q and v. Its DINOv3 has none of k, and the official one masks it."""
    split = {}
    for key, value in state.items():
        block, is_bias, mask = key.partition("qkv.bias")
        if not is_bias:
            split[key] = value
        elif not mask:
            masked = value * state.get(f"{key}_mask", torch.ones_like(value)).to(value.dtype)
            q, k, v = masked.chunk(3)
            if k.any():  # also where it is not a number
                raise WeightsError(
                    f"{source}: {key} adds to k, for which timm's DINOv3 has no place: take the "
                    "file as it was published"
                )
            split |= {f"{block}q_bias": q, f"{block}v_bias": v}
    return split


def _flatten_grn(state: State, source: str) -> State:
    """Give the response normalisation of ConvNeXt V2 timm's shape, (c,)."""
    return {key: x.flatten() if ".grn." in key else x for key, x in state.items()}


def _name_biases(state: State, source: str) -> State:
    """Rename EVA's biases of q and v where their projections stand apart."""
    apart = any(key.endswith("attn.q_proj.weight") for key in state)
    return {
        re.sub(r"attn\.([qv])_bias$", r"attn.\1_proj.bias", key) if apart else key: value
        for key, value in state.items()
    }


def _split_pool(state: State, source: str) -> State:
    """Keep q of SigLIP's pooling apart from k and v, as timm does."""
    split = {key: value for key, value in state.items() if "attn_pool.qkv" not in key}
    for key in state.keys() - split.keys():
        q, k, v = state[key].chunk(3)
        split |= {key.replace("qkv", "q"): q, key.replace("qkv", "kv"): torch.cat([k, v])}
    return split


_PATCH = "patch_embed.proj.weight"
_QV = "blocks.0.attn.q_bias blocks.0.attn.v_bias"
_HF_DINOV2 = "embeddings.cls_token encoder.layer.0.layer_scale1.lambda1"
_HF_DINOV3 = "embeddings.patch_embeddings.weight embeddings.register_tokens"
_HF_CLIP = "embeddings.patch_embedding.weight encoder.layers.0.self_attn.q_proj.weight"

# The first that is recognised counts; timm's naming, which others build upon, comes last.
FORMATS = (
    Format(
        "official DINOv3",
        "antialias",
        (f"{_PATCH} storage_tokens",),
        tables.DINOV3,
        finish=_split_biases,
    ),
    Format(
        "official ConvNeXt",
        "antialias",
        ("downsample_layers.0.0.weight stages.0.0.dwconv.weight",),
        tables.CONVNEXT,
        finish=_flatten_grn,
    ),
    Format(
        "official DINOv2 with registers",
        "antialias",
        (f"{_PATCH} register_tokens",),
        tables.DINOV2,
        finish=_fold_class_position,
    ),
    Format(
        "official DINOv2",
        "offset",
        (
            f"{_PATCH} mask_token blocks.0.ls1.gamma",
            f"{_PATCH} blocks.0.0.ls1.gamma",
            f"{_PATCH} blocks.0.ls1.gamma blocks.0.mlp.w12.weight",
        ),
        tables.DINOV2,
    ),
    Format(
        "official DINOv2 converted by Rein",
        "offset",
        (f"{_PATCH} pos_embed blocks.0.ls1.gamma",),
        tables.DINOV2,
        fits=_is_rein,
    ),
    Format(
        "official MAE",
        "plain",
        (f"{_PATCH} mask_token decoder_embed.weight",),
        tables.MAE,
    ),
    Format("official SAM", "antialias", (f"{_PATCH} blocks.0.mlp.lin1.weight",), tables.SAM),
    Format(
        "official EVA-CLIP",
        "plain",
        (f"{_PATCH} {_QV}",),
        tables.EVA,
        finish=_name_biases,
        under="visual.",
    ),
    Format(
        "official EVA pretraining",
        "plain",
        (f"{_PATCH} mask_token {_QV}",),
        tables.EVA_PRETRAINING,
        finish=_name_biases,
    ),
    Format(
        "official EVA",
        "plain",
        (f"{_QV} blocks.0.attn.q_proj.weight", f"{_QV} blocks.0.mlp.w12.weight"),
        tables.EVA,
        finish=_name_biases,
    ),
    Format(
        "CLIP of OpenAI or OpenCLIP",
        "antialias",
        ("class_embedding conv1.weight transformer.resblocks.0.ln_1.weight",),
        tables.CLIP,
    ),
    Format(
        "transformers Dinov2 with registers",
        "antialias",
        (f"{_HF_DINOV2} embeddings.register_tokens",),
        tables.HF_DINOV2,
        finish=_fold_class_position,
    ),
    Format("transformers Dinov2", "plain", (_HF_DINOV2,), tables.HF_DINOV2),
    Format(
        "transformers DINOv3 with gates",
        "antialias",
        (
            f"{_HF_DINOV3} layer.0.mlp.gate_proj.weight",
            f"{_HF_DINOV3} model.layer.0.mlp.gate_proj.weight",
        ),
        tables.HF_DINOV3_GATED,
    ),
    Format("transformers DINOv3", "antialias", (_HF_DINOV3,), tables.HF_DINOV3),
    Format("transformers CLIP", "plain", (f"{_HF_CLIP} pre_layrnorm.weight",), tables.HF_CLIP),
    Format(
        "transformers SigLIP",
        "plain",
        (_HF_CLIP,),
        tables.HF_SIGLIP,
        finish=_split_pool,
        fits=_has_kernel,
    ),
    Format(
        "timm",
        "antialias",
        (
            f"{_PATCH} blocks.0.norm1.weight",
            "stages.0.blocks.0.conv_dw.weight stages.0.blocks.0.norm.weight",
            "bn1.weight layer1.0.conv1.weight layer1.0.bn1.weight",
        ),
        tables.TIMM,
    ),
)
