"""Presets: short names of the field's backbones, their names in timm and their weights.

The licence is the one under which the authors publish the weights; timm notes another for some.
CLIP weights trained with QuickGELU need timm's ``quickgelu`` models: all of OpenAI's, and the large
and the huge of DFN. SigLIP comes at its smallest image size.
"""

from dataclasses import dataclass

import timm

from causalseg.errors import ConfigError, did_you_mean, guess

MODULES = ("beit", "convnext", "eva", "resnet", "vision_transformer", "vision_transformer_sam")

_APACHE, _MIT, _NONCOMMERCIAL = "Apache-2.0", "MIT", "CC-BY-NC-4.0"
_DINOV3, _APPLE, _BSD = "DINOv3 License", "Apple AMLR", "BSD-3-Clause"

_SIZES = {"s": "small", "b": "base", "l": "large", "h": "huge", "g": "giant"}
_SIZES |= {"splus": "small_plus", "hplus": "huge_plus"}


@dataclass(frozen=True)
class Preset:
    """The name in timm, with the tag of the weights, and the licence of the weights."""

    timm_name: str
    license: str

    @property
    def repository(self) -> str:
        """The weights' repository on the Hugging Face hub."""
        return timm.get_pretrained_cfg(self.timm_name).hf_hub_id


def _family(name: str, timm_name: str, license: str, sizes: str) -> dict[str, Preset]:
    """Return presets that differ in size: ``l14`` is timm's ``large_patch14``."""
    family = {}
    for size in sizes.split():
        letters = size.rstrip("0123456789")
        patch = f"_patch{size.removeprefix(letters)}" if letters != size else ""
        long = f"{_SIZES.get(letters, letters)}{patch}"
        family[name.format(size)] = Preset(timm_name.format(long), license)
    return family


PRESETS: dict[str, Preset] = {
    **_family("dinov2_vit{}", "vit_{}_dinov2.lvd142m", _APACHE, "s14 b14 l14 g14"),
    **_family("dinov2_vit{}_reg", "vit_{}_reg4_dinov2.lvd142m", _APACHE, "s14 b14 l14 g14"),
    # qkvb: with the biases (all 0) that the official files hold; timm's other variants lack them.
    **_family(
        "dinov3_vit{}", "vit_{}_dinov3_qkvb.lvd1689m", _DINOV3, "s16 splus16 b16 l16 hplus16"
    ),
    **_family(
        "dinov3_convnext_{}", "convnext_{}.dinov3_lvd1689m", _DINOV3, "tiny small base large"
    ),
    "eva02_base14": Preset("eva02_base_patch14_224.mim_in22k", _MIT),
    "eva02_large14": Preset("eva02_large_patch14_224.mim_m38m", _MIT),  # what Rein takes
    "eva02_clip_base16": Preset("eva02_base_patch16_clip_224.merged2b", _MIT),
    "eva02_clip_large14": Preset("eva02_large_patch14_clip_224.merged2b", _MIT),
    "eva02_clip_large14_336": Preset("eva02_large_patch14_clip_336.merged2b", _MIT),
    **_family("clip_vit{}_openai", "vit_{}_clip_quickgelu_224.openai", _MIT, "b16 l14"),
    **_family("clip_vit{}_336_openai", "vit_{}_clip_quickgelu_336.openai", _MIT, "l14"),
    **_family("clip_vit{}_laion2b", "vit_{}_clip_224.laion2b", _MIT, "b16 l14 h14"),
    "clip_vitb16_dfn": Preset("vit_base_patch16_clip_224.dfn2b", _APPLE),
    "clip_vitl14_dfn": Preset("vit_large_patch14_clip_quickgelu_224.dfn2b", _APPLE),
    "clip_vith14_dfn": Preset("vit_huge_patch14_clip_quickgelu_224.dfn5b", _APPLE),
    "siglip_vitb16": Preset("vit_base_patch16_siglip_224.webli", _APACHE),
    "siglip_vitl16": Preset("vit_large_patch16_siglip_256.webli", _APACHE),
    "siglip_vitso400m14": Preset("vit_so400m_patch14_siglip_224.webli", _APACHE),
    "siglip2_vitb16": Preset("vit_base_patch16_siglip_224.v2_webli", _APACHE),
    "siglip2_vitl16": Preset("vit_large_patch16_siglip_256.v2_webli", _APACHE),
    "siglip2_vitso400m14": Preset("vit_so400m_patch14_siglip_224.v2_webli", _APACHE),
    "siglip2_vitso400m16": Preset("vit_so400m_patch16_siglip_256.v2_webli", _APACHE),
    **_family("sam_vit{}", "samvit_{}_patch16.sa1b", _APACHE, "b l h"),
    **_family("supervised_vit{}", "vit_{}_224.augreg_in21k", _APACHE, "s16 b16 l16"),
    **_family("mae_vit{}", "vit_{}_224.mae", _NONCOMMERCIAL, "b16 l16 h14"),
    **_family("beit_vit{}", "beit_{}_224.in22k_ft_in22k", _MIT, "b16 l16"),
    **_family("beitv2_vit{}", "beitv2_{}_224.in1k_ft_in22k", _MIT, "b16 l16"),
    **_family("convnext_{}", "convnext_{}.fb_in22k", _MIT, "tiny small base large"),
    **_family(
        "convnextv2_{}", "convnextv2_{}.fcmae_ft_in22k_in1k", _NONCOMMERCIAL, "tiny base large"
    ),
    # torchvision's first weights: those of the field's ResNet papers.
    "resnet50": Preset("resnet50.tv_in1k", _BSD),
    "resnet101": Preset("resnet101.tv_in1k", _BSD),
}


def resolve_name(name: str) -> str:
    """Return the name in timm of a preset, or of a model in timm's modules `MODULES`.

    A name in timm may have the tag of its weights (``vit_small_patch14_dinov2.lvd142m``); without,
    timm takes its default tag. A name that is both, such as ``resnet50``, is the preset; one that
    is neither raises ConfigError.
    """
    if name in PRESETS:
        return PRESETS[name].timm_name
    if timm.models.is_model_in_modules(name, MODULES):
        tagged = timm.list_models(f"{name.split('.')[0]}.*", include_tags=True)
        if "." not in name or name in tagged:
            return name
        raise ConfigError(f"backbone {name!r}: {did_you_mean(name, tagged)}")
    known = [*PRESETS, *timm.list_models(module=MODULES)]
    raise ConfigError(
        f"backbone {name!r} is neither a preset nor a supported model of timm: "
        f"{guess(name, known)}Allowed: the presets, which `causalseg backbones` lists, and every "
        f"name in timm.list_models(module={list(MODULES)})"
    )
