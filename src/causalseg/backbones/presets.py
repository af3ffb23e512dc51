"""Short names for the backbones of the field: what the papers call them -> what timm calls them."""

from dataclasses import dataclass

import timm

from causalseg.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Preset:
    """A short name's meaning.

    Attributes:
        timm_name: name of the architecture in timm.
        license: under what terms its published weights may be used.
    """

    timm_name: str
    license: str


_DINOV2_LICENSE = "DINOv2 weights by Meta AI, Apache-2.0"
_DINOV2_SIZES = {"s": "small", "b": "base", "l": "large", "g": "giant"}

PRESETS: dict[str, Preset] = {
    f"dinov2_vit{letter}14{suffix}": Preset(
        f"vit_{size}_patch14_{registers}dinov2", _DINOV2_LICENSE
    )
    for suffix, registers in (("", ""), ("_reg", "reg4_"))
    for letter, size in _DINOV2_SIZES.items()
}


def resolve_name(name: str) -> str:
    """Return timm's name for a preset or for a ViT that timm itself knows.

    Args:
        name: a key of `PRESETS`, or a name in timm's ``vision_transformer`` module, with or without
            the tag of its weights (``vit_small_patch14_dinov2.lvd142m``).

    Raises:
        ConfigError: if it is neither.
    """
    if name in PRESETS:
        return PRESETS[name].timm_name
    if timm.models.is_model_in_modules(name, {"vision_transformer"}):
        tagged = timm.list_models(f"{name.split('.')[0]}.*", include_tags=True)
        if "." not in name or name in tagged:
            return name
        raise ConfigError(f"backbone {name!r}: {did_you_mean(name, tagged)}")
    allowed = [*PRESETS, *timm.list_models("vit_*dinov2*", module="vision_transformer")]
    raise ConfigError(
        f"backbone {name!r} is neither a preset nor a plain ViT of timm: "
        f"{did_you_mean(name, allowed)}, and every name in "
        "timm.list_models(module='vision_transformer')"
    )
