"""ViTs of timm that compute in milliseconds, and adapters; every part of them has an effect."""

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from causalseg.adapters.tokens import BlockTokens

SIZE = (42, 70)  # pixels of an image: a grid of 3 x 5
_OPTIONS = {
    "img_size": 42,
    "patch_size": 14,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 3,
    "num_classes": 0,
    "global_pool": "",
    "init_values": 0.5,
    "dynamic_img_size": True,
}


def make_vit(**changes: object) -> VisionTransformer:
    """Make a frozen ViT in eval mode, the same each time: 2 blocks, 48 channels, patch 14."""
    return _make(VisionTransformer, changes)


def make_eva(**changes: object) -> Eva:
    """Make such a model with timm's other kind of blocks; rotary positions are an option."""
    return _make(Eva, changes)


def make_small(kind, *sizes, scale=0.5, **options):
    """Make an adapter of a few thousand values, each with a visible effect."""
    torch.manual_seed(0)
    init = {"kind": "small", "scale": scale}
    adapter = kind(*sizes, **{"num_tokens": 8, "rank": 4, "init": init} | options)
    for module in adapter.modules():
        if isinstance(module, BlockTokens):
            for factor in module.parameters():
                nn.init.normal_(factor)
    return adapter


def move(adapter):
    """Change every parameter of an adapter."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def _make(architecture, changes):
    torch.manual_seed(0)
    model = architecture(**_OPTIONS | changes)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    return model.eval().requires_grad_(False)
