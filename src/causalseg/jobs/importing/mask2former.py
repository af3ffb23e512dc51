"""mmdet's Mask2Former head and ours: the same computation with other names.

Ours are those of transformers' modules. Both heads count levels from coarse to fine, have "no
object" after the last class, and decode in the order cross-attention, self-attention, feed-forward,
with the norm after each. So only the names differ; queries, keys and values of the decoder's
self-attention are thirds of one tensor of mmdet's.

mmdet's names are those of mmdet 3 (``MSDeformAttnPixelDecoder``, ``Mask2FormerHead``), mmcv 2 and
Rein's ``ReinMask2FormerHead``, without the prefix of the head.
"""

import re
from typing import Any

from torch import Tensor

from causalseg.errors import WeightsError

_ENCODER = "pixel_decoder.encoder.layers.{n}."
_DECODER = "decoder.layers.{n}."
_THEIR_DECODER = "transformer_decoder.layers.{n}."

# Ours to theirs; {n} is a number. Each has a .weight and may have a .bias.
_MODULES = {
    "pixel_decoder.input_projections.{n}.0": "pixel_decoder.input_convs.{n}.conv",
    "pixel_decoder.input_projections.{n}.1": "pixel_decoder.input_convs.{n}.gn",
    "pixel_decoder.adapter_1.0": "pixel_decoder.lateral_convs.0.conv",
    "pixel_decoder.adapter_1.1": "pixel_decoder.lateral_convs.0.gn",
    "pixel_decoder.layer_1.0": "pixel_decoder.output_convs.0.conv",
    "pixel_decoder.layer_1.1": "pixel_decoder.output_convs.0.gn",
    "pixel_decoder.mask_projection": "pixel_decoder.mask_feature",
    **{
        f"{_ENCODER}self_attn.{name}": f"{_ENCODER}self_attn.{name}"
        for name in ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
    },
    f"{_ENCODER}self_attn_layer_norm": f"{_ENCODER}norms.0",
    f"{_ENCODER}fc1": f"{_ENCODER}ffn.layers.0.0",
    f"{_ENCODER}fc2": f"{_ENCODER}ffn.layers.1",
    f"{_ENCODER}final_layer_norm": f"{_ENCODER}norms.1",
    f"{_DECODER}cross_attn.out_proj": f"{_THEIR_DECODER}cross_attn.attn.out_proj",
    f"{_DECODER}cross_attn_layer_norm": f"{_THEIR_DECODER}norms.0",
    f"{_DECODER}self_attn.out_proj": f"{_THEIR_DECODER}self_attn.attn.out_proj",
    f"{_DECODER}self_attn_layer_norm": f"{_THEIR_DECODER}norms.1",
    f"{_DECODER}fc1": f"{_THEIR_DECODER}ffn.layers.0.0",
    f"{_DECODER}fc2": f"{_THEIR_DECODER}ffn.layers.1",
    f"{_DECODER}final_layer_norm": f"{_THEIR_DECODER}norms.2",
    "decoder.layernorm": "transformer_decoder.post_norm",
    **{f"decoder.mask_predictor.mask_embedder.{n}.0": f"mask_embed.{2 * n}" for n in range(3)},
    "class_predictor": "cls_embed",
    "level_embed": "level_embed",
    "content_from_position": "querys2feat",  # of Rein's head, with the query link
    "query_content": "query_feat",  # without it
    "query_position": "query_embed",
}
_TENSORS = {
    "pixel_decoder.level_embed": "pixel_decoder.level_encoding.weight",
    f"{_DECODER}cross_attn.in_proj_weight": f"{_THEIR_DECODER}cross_attn.attn.in_proj_weight",
    f"{_DECODER}cross_attn.in_proj_bias": f"{_THEIR_DECODER}cross_attn.attn.in_proj_bias",
}
_QKV = re.compile(r"(decoder\.layers\.\d+\.self_attn)\.([qkv])_proj\.(weight|bias)")


def name_in_mmdet(key: str) -> tuple[str, int | None]:
    """Return mmdet's name of a tensor of our head, and which third of mmdet's tensor it is.

    Thirds are 0, 1 and 2 for queries, keys and values, None for the whole tensor. Raises KeyError
    if our head has no tensor ``key``.
    """
    if match := _QKV.fullmatch(key):
        attention, letter, end = match.groups()
        return f"transformer_{attention}.attn.in_proj_{end}", "qkv".index(letter)
    number = re.search(r"(?:layers|input_projections)\.(\d+)", key)
    name = f"{key[: number.start(1)]}{{n}}{key[number.end(1) :]}" if number else key
    module, _, end = name.rpartition(".")
    theirs = _TENSORS.get(name) or f"{_MODULES[module]}.{end}"
    return theirs.format(n=number[1] if number else ""), None


def read_size(state: dict[str, Tensor]) -> tuple[dict[str, Any], int]:
    """Read a head's options, but for the number of queries, and its number of classes k.

    Raises WeightsError if the tensors are not those of mmdet's Mask2Former head.
    """
    feedforward = "transformer_decoder.layers.0.ffn.layers.0.0.weight"
    absent = [name for name in ("cls_embed.weight", feedforward) if name not in state]
    if absent:
        missing = " and no ".join(absent)
        raise WeightsError(f"the head has no {missing}: only mmdet's Mask2Former is imported")
    options = {
        "name": "mask2former",
        "hidden": state["cls_embed.weight"].shape[1],
        "encoder_layers": _count(state, r"pixel_decoder\.encoder\.layers"),
        "decoder_layers": _count(state, r"transformer_decoder\.layers"),
        "feedforward": state[feedforward].shape[0],
    }
    return options, len(state["cls_embed.weight"]) - 1


def _count(state: dict[str, Tensor], layers: str) -> int:
    return len({match[1] for name in state if (match := re.match(rf"{layers}\.(\d+)\.", name))})
