"""Tables of names: backbone weights in published files, and in timm.

A name covers its ``.weight`` and ``.bias``, too. In a name

    {n} {i} ...   is a number: of a block, a layer, a stage
    {p}           is "weight" or "bias"
    {qkv}         is q, k, v, or query, key, value; in timm's name it becomes 0, 1, 2
    {all}         is anything
    [0]           after timm's name makes it part 0 of a tensor, joined along the first axis

and None leaves out a tensor that has no effect on the features. The first name that matches counts.
A table may hold more names than any one file, but no file of the format may hold another name.
"""

Names = dict[str, str | None]


def _same(*names: str) -> Names:
    return {name: name for name in names}


def _blocks(block: str, names: Names) -> Names:
    """Prefix the names within a block with the names of the blocks."""
    return {
        f"{block}.{name}": None if target is None else f"blocks.{{n}}.{target}"
        for name, target in names.items()
    }


# What timm calls the parts of a ViT, as do the releases that build upon its code.
_STEM = _same("cls_token", "pos_embed", "patch_embed.proj", "norm")
_BLOCK = _same("norm{i}", "attn.qkv", "attn.proj", "mlp.fc{i}")
_GATED: Names = {"mlp.w1": "mlp.fc1_g", "mlp.w2": "mlp.fc1_x", "mlp.w3": "mlp.fc2"}
_PACKED: Names = {"mlp.w12": "mlp.fc1", "mlp.w3": "mlp.fc2"}
_NO_MASK: Names = {"mask_token": None}

TIMM: Names = {"{all}.relative_position_index": None, "{all}": "{all}"}

# DINOv2
_DINOV2_BLOCK = _BLOCK | _PACKED | _same("ls{i}.gamma")

DINOV2: Names = (
    (_STEM | _NO_MASK | {"register_tokens": "reg_token"})
    | _blocks("blocks.{n}", _DINOV2_BLOCK)
    | _blocks("blocks.{chunk}.{n}", _DINOV2_BLOCK)  # saved in chunks for FSDP
)
HF_DINOV2: Names = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": None,
    "embeddings.register_tokens": "reg_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
} | _blocks(
    "encoder.layer.{n}",
    _same("norm{i}", "mlp.fc{i}")
    | {
        "layer_scale{i}.lambda1": "ls{i}.gamma",
        "attention.{qkv}_proj": "attn.qkv[{qkv}]",
        "attention.o_proj": "attn.proj",
        "mlp.gate_proj": "mlp.fc1[0]",
        "mlp.up_proj": "mlp.fc1[1]",
        "mlp.down_proj": "mlp.fc2",
        # In files, which keep the names of transformers 4:
        "attention.attention.{qkv}": "attn.qkv[{qkv}]",
        "attention.output.dense": "attn.proj",
        "mlp.weights_in": "mlp.fc1",
        "mlp.weights_out": "mlp.fc2",
    },
)

# DINOv3
DINOV3: Names = (
    (_STEM | _NO_MASK | {"storage_tokens": "reg_token", "rope_embed.periods": None})
    | {"local_cls_norm": None}  # of local crops, in training
    | _blocks("blocks.{n}", _BLOCK | _GATED | {"ls{i}.gamma": "gamma_{i}"})
    | _same("blocks.{n}.attn.qkv.bias_mask")
)

_HF_DINOV3_BLOCK: Names = _same("norm{i}") | {
    "layer_scale{i}.lambda1": "gamma_{i}",
    "attention.{qkv}_proj.weight": "attn.qkv.weight[{qkv}]",
    "attention.q_proj.bias": "attn.q_bias",
    "attention.v_proj.bias": "attn.v_bias",
    "attention.o_proj": "attn.proj",
    "mlp.gate_proj": "mlp.fc1_g",
    "mlp.up_proj": "mlp.fc1_x",
    "mlp.down_proj": "mlp.fc2",
}
HF_DINOV3: Names = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": None,
    "embeddings.register_tokens": "reg_token",
    "embeddings.patch_embeddings": "patch_embed.proj",
    "norm": "norm",
    **_blocks("model.layer.{n}", _HF_DINOV3_BLOCK),
    **_blocks("layer.{n}", _HF_DINOV3_BLOCK),  # in files, which keep the names of transformers 4
}

# ConvNeXt, also DINOv3's
CONVNEXT: Names = {
    "downsample_layers.0.{i}": "stem.{i}",
    "downsample_layers.{s}.{i}": "stages.{s}.downsample.{i}",
    "stages.{s}.{n}.dwconv": "stages.{s}.blocks.{n}.conv_dw",
    "stages.{s}.{n}.norm": "stages.{s}.blocks.{n}.norm",
    "stages.{s}.{n}.pwconv{i}": "stages.{s}.blocks.{n}.mlp.fc{i}",
    "stages.{s}.{n}.gamma": "stages.{s}.blocks.{n}.gamma",
    "stages.{s}.{n}.grn.gamma": "stages.{s}.blocks.{n}.mlp.grn.weight",
    "stages.{s}.{n}.grn.beta": "stages.{s}.blocks.{n}.mlp.grn.bias",
    "norm": "head.norm",
    "norms.{i}": None,  # the same norm again, in DINOv3
    "head": None,
}

# EVA
_EVA_BLOCK: Names = (
    (_BLOCK | _GATED | _PACKED | _same("gamma_{i}", "attn.q_bias", "attn.v_bias"))
    | _same("attn.q_proj", "attn.k_proj", "attn.v_proj")
    | {"attn.inner_attn_ln": "attn.norm", "mlp.ffn_ln": "mlp.norm"}
    | {"attn.rope.{all}": None}
)

EVA: Names = (
    (_STEM | _NO_MASK | _same("fc_norm") | _blocks("blocks.{n}", _EVA_BLOCK))
    | {"rope.{all}": None, "lm_head": None, "head": None}  # timm computes the rotation itself
)
EVA_PRETRAINING: Names = EVA | {"norm": "fc_norm"}  # timm's has its norm after the pooling

# CLIP and SigLIP
CLIP: Names = {
    "class_embedding": "cls_token",
    "positional_embedding": "pos_embed",
    "conv1": "patch_embed.proj",
    "ln_pre": "norm_pre",
    "ln_post": "norm",
    "proj": None,
    "transformer.resblocks.{n}.ln_{i}": "blocks.{n}.norm{i}",
    "transformer.resblocks.{n}.attn.in_proj_{p}": "blocks.{n}.attn.qkv.{p}",
    "transformer.resblocks.{n}.attn.out_proj": "blocks.{n}.attn.proj",
    "transformer.resblocks.{n}.mlp.c_fc": "blocks.{n}.mlp.fc1",
    "transformer.resblocks.{n}.mlp.c_proj": "blocks.{n}.mlp.fc2",
}
HF_CLIP: Names = {
    "embeddings.class_embedding": "cls_token",
    "embeddings.position_embedding.weight": "pos_embed",
    "embeddings.position_ids": None,
    "embeddings.patch_embedding": "patch_embed.proj",
    "pre_layrnorm": "norm_pre",
    "post_layernorm": "norm",
    "encoder.layers.{n}.layer_norm{i}": "blocks.{n}.norm{i}",
    "encoder.layers.{n}.self_attn.{qkv}_proj": "blocks.{n}.attn.qkv[{qkv}]",
    "encoder.layers.{n}.self_attn.out_proj": "blocks.{n}.attn.proj",
    "encoder.layers.{n}.mlp.fc{i}": "blocks.{n}.mlp.fc{i}",
}
HF_SIGLIP: Names = HF_CLIP | {
    "head.probe": "attn_pool.latent",
    "head.attention.in_proj_{p}": "attn_pool.qkv.{p}",
    "head.attention.out_proj": "attn_pool.proj",
    "head.layernorm": "attn_pool.norm",
    "head.mlp.fc{i}": "attn_pool.mlp.fc{i}",
}

# SAM and MAE
_SAM_BLOCK = _same("attn.rel_pos_h", "attn.rel_pos_w") | {"mlp.lin{i}": "mlp.fc{i}"}

SAM: Names = _STEM | _same("neck.{i}") | _blocks("blocks.{n}", _BLOCK | _SAM_BLOCK)
MAE: Names = _STEM | _NO_MASK | {"decoder_{all}": None} | _blocks("blocks.{n}", _BLOCK)
