"""Formats of published backbone weights: how to recognise them, and their names in timm.

A file is recognised by the names and shapes in its state dict, never by its own name. The marks of
a format are sets of names under a common prefix, such as ``module.``; names outside it belong to
other parts of the model (text, decoder, classifier). Under the prefix, the format's table in
`causalseg.backbones.weights.names` is complete: any other name is an error.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from causalseg.backbones.weights import names as tables
from causalseg.backbones.weights.names import Names
from causalseg.errors import WeightsError

PositionRule = Literal["antialias", "plain", "offset"]  # see `causalseg.backbones.positions`
State = dict[str, Tensor]

_WILDCARDS = {"p": "weight|bias", "qkv": "query|key|value|q|k|v", "all": ".*"}  # others: numbers
_QKV = {"q": "0", "k": "1", "v": "2"}
_REIN_GRIDS = (32 * 32, 64 * 64)  # cells; what Rein's conversion scripts make, with patch 16
_NUM_LISTED = 8


class ConvertedWeights(NamedTuple):
    """A state dict in timm's naming."""

    state: State
    position: PositionRule  # of the code behind these weights
    origin: str  # such as "official DINOv2 with registers"


class WeightFormat(NamedTuple):
    """One naming of backbone weights."""

    origin: str
    position: PositionRule
    marks: tuple[str, ...]  # sets of names, separated by spaces; any one set marks the format
    names: Names
    # What renaming cannot do, from the renamed state and the source for errors.
    finish: Callable[[State, str], State] = lambda state, source: state
    under: str = ""  # end of the prefix
    fits: Callable[[State], bool] = lambda state: True  # a condition on the state under the prefix


def convert(state: State, source: str) -> ConvertedWeights:
    """Recognise weights by their names and shapes, and rename them to timm's naming.

    ``state`` is not changed; the result may share its tensors. Raises WeightsError, which names
    ``source``, if no format fits as a whole, several backbones are in it, or timm's model lacks a
    tensor that has an effect.
    """
    for format_ in FORMATS:
        prefixes = _find_prefixes(format_, state)
        if len(prefixes) > 1:
            raise WeightsError(
                f"{source} holds {len(prefixes)} backbones ({format_.origin}), under the prefixes "
                f"{first_names(prefixes)}: save the state dict of the one that you want"
            )
        if prefixes:
            prefix = prefixes[0]
            origin = f"{format_.origin}, under {prefix!r}" if prefix else format_.origin
            renamed = _rename(below(state, prefix), format_.names, f"{source} ({origin})")
            return ConvertedWeights(format_.finish(renamed, source), format_.position, origin)
    known = ", ".join(format_.origin for format_ in FORMATS)
    raise WeightsError(
        f"{source} holds no backbone in a known naming; it has {len(state)} tensors: "
        f"{first_names(list(state))}.\nKnown are: {known}.\nSave the backbone's state dict in one "
        "of these namings, best in timm's, with safetensors.torch.save_file"
    )


def below(state: State, prefix: str) -> State:
    """Return the tensors under a prefix, without it."""
    return {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }


def first_names(names: Sequence[str]) -> str:
    """Return the first 8 names for a message, and ``...`` if there are more."""
    more = ", ..." if len(names) > _NUM_LISTED else ""
    return ", ".join(names[:_NUM_LISTED]) + more


def list_problems(problems: Mapping[str, Sequence[str]]) -> str:
    """Return a line for every kind of problem that has names, each after a line break."""
    kinds = [(kind, names) for kind, names in problems.items() if names]
    return "".join(f"\n  {len(names)} {kind}: {first_names(names)}" for kind, names in kinds)


def _find_prefixes(format_: WeightFormat, state: State) -> list[str]:
    """Return the prefixes under which one of a format's sets of marks is complete."""
    prefixes = set()
    for first, *others in map(str.split, format_.marks):
        for key in state:
            prefix = key.removesuffix(first)
            if (
                key.endswith(first)
                and (not prefix or prefix.endswith("."))
                and prefix.endswith(format_.under)
                and all(prefix + name in state for name in others)
                and format_.fits(below(state, prefix))
            ):
                prefixes.add(prefix)
    return sorted(prefixes)


def _rename(state: State, names: Names, source: str) -> State:
    """Apply a table of names, and join the parts of tensors."""
    rules = [(_compile(name), target) for name, target in names.items()]
    parts: dict[str, dict[int, Tensor]] = defaultdict(dict)
    unknown = []
    for key, value in state.items():
        matches = ((rule.fullmatch(key), target) for rule, target in rules)
        match, target = next((pair for pair in matches if pair[0]), (None, None))
        if match is None:
            unknown.append(key)
        elif target is not None:
            name, part = _fill(target, match.groupdict())
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
    return {name: _join(name, pieces, source) for name, pieces in parts.items()}


def _compile(name: str) -> re.Pattern[str]:
    def wildcard(match: re.Match[str]) -> str:
        return f"(?P<{match[1]}>{_WILDCARDS.get(match[1], '[0-9]+')})"

    pattern = re.sub(r"\\\{(\w+)\\\}", wildcard, re.escape(name))
    return re.compile(pattern + r"(?P<end>\.weight|\.bias)?")


def _fill(target: str, groups: dict[str, str]) -> tuple[str, int]:
    """Return timm's name, and which part of that tensor it is."""
    if "qkv" in groups:
        groups = groups | {"qkv": _QKV[groups["qkv"][0]]}
    name, _, part = target.format(**groups).partition("[")
    return name + (groups["end"] or ""), int(part.removesuffix("]") or 0)


def _join(name: str, pieces: dict[int, Tensor], source: str) -> Tensor:
    numbers = sorted(pieces)
    if numbers != list(range(len(pieces))):
        raise WeightsError(
            f"{source}: of timm's {name} only the parts {numbers} are there, counted from 0: take "
            "the file as it was published"
        )
    value = torch.cat([pieces[i] for i in numbers]) if len(pieces) > 1 else pieces[0]
    if name in ("cls_token", "pos_embed") and value.ndim < 3:
        return value.reshape(*[1] * (3 - value.ndim), *value.shape)  # timm: (1, tokens, c)
    return value


def _is_rein(state: State) -> bool:
    kernel, position = state["patch_embed.proj.weight"].shape, state["pos_embed"].shape
    return kernel[2:] == (16, 16) and position[1:2] in [(1 + cells,) for cells in _REIN_GRIDS]


def _has_kernel(state: State) -> bool:
    """Say whether a convolution embeds patches; SigLIP 2 for any resolution has a linear layer."""
    return state["embeddings.patch_embedding.weight"].ndim == 4


def _fold_position(state: State, source: str) -> State:
    """Add the class position to the class token: timm's models with registers have none."""
    if not {"cls_token", "pos_embed"} <= state.keys():
        return state
    token, position = state["cls_token"], state["pos_embed"]
    return state | {"cls_token": token + position[:, :1], "pos_embed": position[:, 1:]}


def _split_biases(state: State, source: str) -> State:
    """Split the biases of q and v. timm's DINOv3 has none of k, and the official one masks it."""
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
                    f"{source}: {key} adds to k, which has no bias in timm's DINOv3: take the "
                    "file as it was published"
                )
            split |= {f"{block}q_bias": q, f"{block}v_bias": v}
    return split


def _flatten_grn(state: State, source: str) -> State:
    """Give the response normalisation of ConvNeXt V2 timm's shape, (c,)."""
    return {key: x.flatten() if ".grn." in key else x for key, x in state.items()}


def _name_biases(state: State, source: str) -> State:
    """Rename EVA's biases of q and v if their projections are separate."""
    if not any(key.endswith("attn.q_proj.weight") for key in state):
        return state
    pattern = re.compile(r"attn\.([qv])_bias$")
    return {pattern.sub(r"attn.\1_proj.bias", key): value for key, value in state.items()}


def _name_ungated(state: State, source: str) -> State:
    """Rename the first layer of DINOv3's MLPs if they have no gates."""
    if any("mlp.fc1_g" in key for key in state):
        return state
    return {key.replace("mlp.fc1_x", "mlp.fc1"): value for key, value in state.items()}


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
_HF_REG = (f"{_HF_DINOV2} embeddings.register_tokens",)
_HF_DINOV3 = ("embeddings.patch_embeddings.weight embeddings.register_tokens",)
_HF_CLIP = "embeddings.patch_embedding.weight encoder.layers.0.self_attn.q_proj.weight"
_DINOV2 = (
    f"{_PATCH} mask_token blocks.0.ls1.gamma",
    f"{_PATCH} blocks.0.0.ls1.gamma",
    f"{_PATCH} blocks.0.ls1.gamma blocks.0.mlp.w12.weight",
)
_DINOV2_REG = (f"{_PATCH} register_tokens",)
_DINOV3 = (f"{_PATCH} storage_tokens",)
_REIN = (f"{_PATCH} pos_embed blocks.0.ls1.gamma",)
_MAE = (f"{_PATCH} mask_token decoder_embed.weight",)
_SAM = (f"{_PATCH} blocks.0.mlp.lin1.weight",)
_CONVNEXT = ("downsample_layers.0.0.weight stages.0.0.dwconv.weight",)
_EVA = (f"{_QV} blocks.0.attn.q_proj.weight", f"{_QV} blocks.0.mlp.w12.weight")
_EVA_CLIP = (f"{_PATCH} {_QV}",)
_EVA_MASKED = (f"{_PATCH} mask_token {_QV}",)
_CLIP = ("class_embedding conv1.weight transformer.resblocks.0.ln_1.weight",)
_TIMM = (
    f"{_PATCH} blocks.0.norm1.weight",
    "stages.0.blocks.0.conv_dw.weight stages.0.blocks.0.norm.weight",
    "bn1.weight layer1.0.conv1.weight layer1.0.bn1.weight",
)

# The first that is recognised counts; timm's naming, which others build upon, comes last.
FORMATS = (
    WeightFormat("official DINOv3", "antialias", _DINOV3, tables.DINOV3, _split_biases),
    WeightFormat("official ConvNeXt", "antialias", _CONVNEXT, tables.CONVNEXT, _flatten_grn),
    WeightFormat(
        "official DINOv2 with registers", "antialias", _DINOV2_REG, tables.DINOV2, _fold_position
    ),
    WeightFormat("official DINOv2", "offset", _DINOV2, tables.DINOV2),
    WeightFormat(
        "official DINOv2 converted by Rein", "offset", _REIN, tables.DINOV2, fits=_is_rein
    ),
    WeightFormat("official MAE", "plain", _MAE, tables.MAE),
    WeightFormat("official SAM", "antialias", _SAM, tables.SAM),
    WeightFormat("official EVA-CLIP", "plain", _EVA_CLIP, tables.EVA, _name_biases, "visual."),
    WeightFormat(
        "official EVA pretraining", "plain", _EVA_MASKED, tables.EVA_PRETRAINING, _name_biases
    ),
    WeightFormat("official EVA", "plain", _EVA, tables.EVA, _name_biases),
    WeightFormat("CLIP of OpenAI or OpenCLIP", "antialias", _CLIP, tables.CLIP),
    WeightFormat(
        "transformers Dinov2 with registers", "antialias", _HF_REG, tables.HF_DINOV2, _fold_position
    ),
    WeightFormat("transformers Dinov2", "plain", (_HF_DINOV2,), tables.HF_DINOV2),
    WeightFormat("transformers DINOv3", "antialias", _HF_DINOV3, tables.HF_DINOV3, _name_ungated),
    WeightFormat(
        "transformers CLIP", "plain", (f"{_HF_CLIP} pre_layrnorm.weight",), tables.HF_CLIP
    ),
    WeightFormat(
        "transformers SigLIP", "plain", (_HF_CLIP,), tables.HF_SIGLIP, _split_pool, fits=_has_kernel
    ),
    WeightFormat("timm", "antialias", _TIMM, tables.TIMM),
)
