"""From the options of an adapter or an intervention to the object."""

from typing import Any

from causalseg.adapters.ablations.literal import CausalTuneFFT, CausalTuneHaar
from causalseg.adapters.ablations.released import ReleasedCausalTune
from causalseg.adapters.adaptformer import AdaptFormer
from causalseg.adapters.base import Adapter, Chain, Stages, check_layers
from causalseg.adapters.causal_lora import CausalLora
from causalseg.adapters.causal_tune import CausalTune
from causalseg.adapters.fada import Fada
from causalseg.adapters.full import FullTune
from causalseg.adapters.intervene import Dsu, Intervention, MixStyle, SpectralIntervention
from causalseg.adapters.peft import PeftAdapter
from causalseg.adapters.rein import Rein
from causalseg.adapters.set import SetAdapter
from causalseg.adapters.soma import Soma
from causalseg.adapters.vpt import Vpt
from causalseg.backbones.timm import FrozenBackbone
from causalseg.config import adapters as blocks
from causalseg.config.adapters import PlacedConfig
from causalseg.config.block import Layers
from causalseg.config.intervene import InterveneConfig
from causalseg.errors import ConfigError

_TRANSFORMS = {"dct": CausalTune, "fft": CausalTuneFFT, "haar": CausalTuneHaar}
_OTHERS = {"rein": Rein, "set": SetAdapter, "fada": Fada, "adaptformer": AdaptFormer, "vpt": Vpt}
_INTERVENTIONS = {"spectral": SpectralIntervention, "mixstyle": MixStyle, "dsu": Dsu}


def build_adapter(
    options: blocks.AdapterConfig, backbone: FrozenBackbone, query_width: int | None
) -> Adapter | None:
    """Build the adapter of a configuration, newly initialised; None without one.

    ``query_width`` is the width of the head's queries, None for a head without; the last linked
    adapter of a chain makes them.
    """
    linked = blocks.linked_part(options)
    adapters = []
    for index, part in enumerate(blocks.parts_of(options)):
        is_linked = index == linked and query_width is not None
        adapters.append(_build_part(part, backbone, query_width if is_linked else None))
    if len(adapters) < 2:
        return adapters[0] if adapters else None
    return Chain(adapters)


def build_intervention(options: InterveneConfig) -> Intervention:
    """Build the intervention of a configuration."""
    return _INTERVENTIONS[options.kind](**dict(options))


def place(layers: Layers, backbone: FrozenBackbone) -> list[int]:
    """Return the blocks of ``layers`` as `check_layers`, among those that reach the head."""
    used = max(backbone.levels) + 1
    try:
        return list(check_layers(layers, used))
    except ConfigError as error:
        raise ConfigError(f"{error}; {used} blocks of the backbone reach the head") from error


def _build_part(part: PlacedConfig, backbone: FrozenBackbone, query_width: int | None) -> Adapter:
    """Build one adapter, or one for each stage if the stages differ in width."""
    layers, vit, widths = place(part.layers, backbone), backbone.vit, backbone.widths
    placed = part.model_copy(update={"layers": layers})
    match placed:
        case blocks.FullConfig():
            return FullTune(vit, has_stem=part.layers is None, **dict(placed))
        case blocks.LoraAdapterConfig() | blocks.PeftAdapterConfig():
            return PeftAdapter(vit, placed)
        case blocks.SomaConfig():
            return Soma(vit, **dict(placed))
        case blocks.CausalLoraConfig():
            return CausalLora(vit, **dict(placed))
    if len(set(widths)) == 1:
        return _build_edit(placed, widths[0], backbone.depth, query_width)
    if isinstance(part, blocks.VptConfig | blocks.AdaptFormerConfig):
        raise ConfigError(
            f"adapter {part.name} needs the blocks of a ViT, not the stages of "
            f"{type(vit).__name__}: choose another adapter, such as causal_tune, rein, set or fada"
        )
    alone = part.model_copy(update={"layers": [0]})
    edits = [
        _build_edit(alone, widths[layer], 1, query_width if layer == layers[-1] else None)
        for layer in layers  # the tokens of the last one become the queries
    ]
    return Stages(edits, widths, layers)


def _build_edit(part: Any, width: int, depth: int, query_width: int | None) -> Adapter:
    """Build an adapter that needs only the sizes of the backbone."""
    options = dict(part)
    if isinstance(part, blocks.LinkedConfig):
        options["query_width"] = query_width
    if part.name != "causal_tune":
        return _OTHERS[part.name](width, depth, **options)
    if part.recipe != "released":
        return _TRANSFORMS[part.transform](width, depth, **options)
    names = ("layers", "num_tokens", "rank", "init", "query_width")
    return ReleasedCausalTune(width, depth, **{name: options[name] for name in names})
