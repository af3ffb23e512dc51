"""Every family of backbones: models of timm at reduced width and depth."""

import timm
import torch

from causalseg.backbones.timm import FrozenBackbone
from causalseg.backbones.trunk import find_trunk

VIT = {"depth": 4, "embed_dim": 48, "num_heads": 3}
ANY_SIZE = {**VIT, "dynamic_img_size": True}
SAM = {**VIT, "img_size": 96, "window_size": 3, "global_attn_indexes": (1, 3)}
FAMILIES = {  # name in timm, what is smaller, prefix tokens
    "dinov2": ("vit_small_patch14_dinov2", ANY_SIZE, 1),
    "dinov2_registers": ("vit_small_patch14_reg4_dinov2", ANY_SIZE, 5),
    "dinov2_giant": ("vit_giant_patch14_reg4_dinov2", ANY_SIZE, 5),
    "dinov3": ("vit_small_patch16_dinov3_qkvb", ANY_SIZE, 5),
    "dinov3_plus": ("vit_huge_plus_patch16_dinov3_qkvb", ANY_SIZE, 5),
    "eva02": ("eva02_base_patch14_224", ANY_SIZE, 1),
    "eva02_large": ("eva02_large_patch14_448", ANY_SIZE, 1),
    "eva02_clip": ("eva02_base_patch16_clip_224", ANY_SIZE, 1),
    "clip_openai": ("vit_base_patch16_clip_quickgelu_224.openai", ANY_SIZE, 1),
    "clip_openclip": ("vit_large_patch14_clip_224.laion2b", ANY_SIZE, 1),
    "siglip": ("vit_base_patch16_siglip_224.webli", ANY_SIZE, 0),
    "siglip2": ("vit_so400m_patch14_siglip_224.v2_webli", ANY_SIZE, 0),
    "sam": ("samvit_base_patch16", SAM, 0),
    "supervised": ("vit_base_patch16_224.augreg_in21k", ANY_SIZE, 1),
    "mae": ("vit_base_patch16_224.mae", ANY_SIZE, 1),
    "beit": ("beit_base_patch16_224", VIT, 1),
    "beitv2": ("beitv2_base_patch16_224", VIT, 1),
    "convnext": ("convnext_tiny", {"depths": (1, 2, 1, 1), "dims": (8, 16, 24, 32)}, 0),
    "convnextv2": ("convnextv2_tiny", {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}, 0),
    "resnet": ("resnet50", {"layers": (1, 2, 1, 1), "channels": (4, 8, 12, 16)}, 0),
}
HIERARCHICAL = {
    "convnext": (8, 16, 24, 32),
    "convnextv2": (8, 16, 24, 32),
    "resnet": (16, 32, 48, 64),
}


def make_backbone(family, **options):
    name, smaller, _ = FAMILIES[family]
    torch.manual_seed(0)
    return FrozenBackbone(timm.create_model(name, num_classes=0, **smaller), **options)


def make_images(backbone, h=2, w=3, batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, 3, h * backbone.patch, w * backbone.patch, generator=generator)


def outputs_of(backbone, images):
    """Return the features after every block or stage, with adapters."""
    trunk, seen = find_trunk(backbone.vit), []
    handles = [
        backbone.vit.get_submodule(name).register_forward_hook(lambda _m, _i, out: seen.append(out))
        for name in trunk.outputs
    ]
    with torch.no_grad():
        backbone(images)
    for handle in handles:
        handle.remove()
    return seen
