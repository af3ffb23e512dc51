"""Checkpoints as Rein's and Causal-Tune's published code write them: names and shapes of modules.

Written down from the modules of mmdet, mmcv and Rein, without a look at ours.
"""

import torch

POINTS, LEVELS, HEADS = 4, 3, 8  # of mmdet's deformable attention


def linear(name, inner, outer):
    return {f"{name}.weight": (outer, inner), f"{name}.bias": (outer,)}


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def conv(name, inner, outer, side=1, bias=True):
    kernel = {f"{name}.conv.weight": (outer, inner, side, side)}
    return kernel | ({f"{name}.conv.bias": (outer,)} if bias else {}) | norm(f"{name}.gn", outer)


def feed_forward(name, width, inner):
    return linear(f"{name}.layers.0.0", width, inner) | linear(f"{name}.layers.1", inner, width)


def attention(name, width):
    packed = {f"{name}.in_proj_weight": (3 * width, width), f"{name}.in_proj_bias": (3 * width,)}
    return packed | linear(f"{name}.out_proj", width, width)


def head(width, hidden, classes, encoder_layers=6, decoder_layers=9, inner=2048):
    """mmdet's Mask2Former head as Rein has it, with the query link."""
    shapes = {}
    for i in range(LEVELS):
        shapes |= conv(f"pixel_decoder.input_convs.{i}", width, hidden)
    for i in range(encoder_layers):
        layer = f"pixel_decoder.encoder.layers.{i}"
        samples = HEADS * LEVELS * POINTS
        shapes |= linear(f"{layer}.self_attn.sampling_offsets", hidden, 2 * samples)
        shapes |= linear(f"{layer}.self_attn.attention_weights", hidden, samples)
        shapes |= linear(f"{layer}.self_attn.value_proj", hidden, hidden)
        shapes |= linear(f"{layer}.self_attn.output_proj", hidden, hidden)
        shapes |= feed_forward(f"{layer}.ffn", hidden, inner // 2)
        shapes |= norm(f"{layer}.norms.0", hidden) | norm(f"{layer}.norms.1", hidden)
    shapes["pixel_decoder.level_encoding.weight"] = (LEVELS, hidden)
    shapes |= conv("pixel_decoder.lateral_convs.0", width, hidden, bias=False)
    shapes |= conv("pixel_decoder.output_convs.0", hidden, hidden, side=3, bias=False)
    shapes["pixel_decoder.mask_feature.weight"] = (hidden, hidden, 1, 1)
    shapes["pixel_decoder.mask_feature.bias"] = (hidden,)
    for i in range(decoder_layers):
        layer = f"transformer_decoder.layers.{i}"
        shapes |= attention(f"{layer}.self_attn.attn", hidden)
        shapes |= attention(f"{layer}.cross_attn.attn", hidden)
        shapes |= feed_forward(f"{layer}.ffn", hidden, inner)
        for j in range(3):
            shapes |= norm(f"{layer}.norms.{j}", hidden)
    shapes |= norm("transformer_decoder.post_norm", hidden)
    shapes["level_embed.weight"] = (LEVELS, hidden)
    shapes |= linear("cls_embed", hidden, classes + 1)
    for i in (0, 2, 4):
        shapes |= linear(f"mask_embed.{i}", hidden, hidden)
    return shapes | linear("querys2feat", hidden, hidden)


def reins(width, blocks, hidden, tokens=100, rank=16):
    """Rein's adapter; ``rank`` None is the one without low rank."""
    shapes = {"scale": ()}
    if rank is None:
        shapes["learnable_tokens"] = (blocks, tokens, width)
    else:
        shapes["learnable_tokens_a"] = (blocks, tokens, rank)
        shapes["learnable_tokens_b"] = (blocks, rank, width)
    shapes |= linear("mlp_token2feat", width, width) | linear("mlp_delta_f", width, width)
    return shapes | linear("transform", width, hidden) | linear("merge", 3 * hidden, hidden)


def second_reins(width, blocks, tokens=100):
    """What the released Causal-Tune code makes beside Rein's, and never uses."""
    shapes = {"learnable_tokens2": (blocks, tokens, width)}
    return shapes | linear("mlp_token2feat2", width, width) | linear("mlp_delta_f2", width, width)


def dinov2(width, blocks, side, patch=16):
    """The official DINOv2 model after Rein's conversion: a grid of side x side positions."""
    shapes = {
        "cls_token": (1, 1, width),
        "mask_token": (1, width),
        "pos_embed": (1, 1 + side * side, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
    }
    for i in range(blocks):
        block = f"blocks.{i}"
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= linear(f"{block}.attn.qkv", width, 3 * width)
        shapes |= linear(f"{block}.attn.proj", width, width)
        shapes |= linear(f"{block}.mlp.fc1", width, 4 * width)
        shapes |= linear(f"{block}.mlp.fc2", 4 * width, width)
        shapes |= {f"{block}.ls{j}.gamma": (width,) for j in (1, 2)}
    return shapes | norm("norm", width)


def fill(shapes, seed=0):
    """Numbers for shapes: weights keep the size of what they multiply, norms are near 1."""
    generator = torch.Generator().manual_seed(seed)

    def draw(name, shape):
        numbers = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            return numbers / shape[1:].numel() ** 0.5
        return 0.2 * numbers + name.endswith(".weight")

    return {name: draw(name, torch.Size(shape)) for name, shape in shapes.items()}


def checkpoint(width=64, blocks=6, hidden=32, classes=3, second=False, backbone=None, **sizes):
    """The tensors of a whole checkpoint; small, for timm's test_vit, unless sizes say else.

    Args:
        second: as the released Causal-Tune code has it.
        backbone: side of the position grid of a backbone in the file; None for none.
        sizes: tokens and rank of the adapter, all others of the head.
    """
    tokens = {"tokens": sizes.pop("tokens", 5), "rank": sizes.pop("rank", 4)}
    shapes = {f"backbone.reins.{k}": v for k, v in reins(width, blocks, hidden, **tokens).items()}
    if second:
        more = second_reins(width, blocks, tokens["tokens"])
        shapes |= {f"backbone.reins.{name}": shape for name, shape in more.items()}
    if backbone:
        frozen = dinov2(width, blocks, backbone)
        shapes |= {f"backbone.{name}": shape for name, shape in frozen.items()}
    of_head = head(width, hidden, classes, **sizes)
    return fill(shapes | {f"decode_head.{name}": shape for name, shape in of_head.items()})
