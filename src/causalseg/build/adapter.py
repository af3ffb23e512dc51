"""From the options of an adapter or an intervention to the object."""

from pathlib import Path
from typing import Any

from torch import nn

from causalseg.adapters.ablations.literal import CausalTuneFFT, CausalTuneHaar
from causalseg.adapters.ablations.released import ReleasedCausalTune
from causalseg.adapters.adaptformer import AdaptFormer
from causalseg.adapters.base import Adapter, Chain, Stages
from causalseg.adapters.causal_lora import CausalLora
from causalseg.adapters.causal_tune import CausalTune
from causalseg.adapters.fada import Fada
from causalseg.adapters.full import FullTune
from causalseg.adapters.intervene import Dsu, Intervention, MixStyle, SpectralIntervention
from causalseg.adapters.peft import PeftAdapter
from causalseg.adapters.rein import Rein
from causalseg.adapters.saved import load_tensors, read_tensors
from causalseg.adapters.set import SetAdapter
from causalseg.adapters.sizes import check_layers
from causalseg.adapters.soma import Soma
from causalseg.adapters.vpt import Vpt
from causalseg.backbones.timm import FrozenBackbone
from causalseg.backbones.trunk import find_trunk
from causalseg.config import adapters as blocks
from causalseg.config.adapters import PlacedConfig
from causalseg.config.block import Layers
from causalseg.config.intervene import InterveneConfig
from causalseg.config.mistakes import blocks_in, check, tag
from causalseg.errors import ConfigError, MissingFileError, WeightsError

_TRANSFORMS = {"dct": CausalTune, "fft": CausalTuneFFT, "haar": CausalTuneHaar}
_METHODS: dict[str, type[Adapter]] = {
    "rein": Rein,
    "set": SetAdapter,
    "fada": Fada,
    "adaptformer": AdaptFormer,
    "vpt": Vpt,
    "full": FullTune,
    "soma": Soma,
    "causal_lora": CausalLora,
    **dict.fromkeys(("lora", "dora", "peft"), PeftAdapter),
}
_NAMED = {tag(block): block for block in blocks_in(blocks.AdapterConfig)}
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


def load_adapter(folder: Path | str, vit: nn.Module) -> Adapter:
    """Return the adapter that ``adapter.save(folder)`` wrote, or that of a run, made for a model.

    Args:
        folder: holds adapter.safetensors.
        vit: a model like the one it was trained on, with the same weights; it is not changed:
            `attach` the adapter.

    Raises:
        MissingFileError: if there is no such file.
        WeightsError: if the file is broken, or the model has other sizes.
    """
    file = Path(folder) / "adapter.safetensors"
    if not file.is_file():
        raise MissingFileError(f"{folder} has no {file.name}: `adapter.save(folder)` writes it")
    tensors, about = read_tensors(file)
    if about is None:
        raise WeightsError(
            f"{file} does not say which adapter it is: make the adapter and load the tensors with "
            "its load_state_dict"
        )
    widths = list(find_trunk(vit).widths)
    if about["widths"] != widths:
        raise WeightsError(f"{file} is for blocks of widths {about['widths']}, not {widths}")
    adapter = _restore(about, vit)
    load_tensors(adapter, tensors, file)
    return adapter


def _restore(about: dict[str, Any], vit: nn.Module | None) -> Adapter:
    """Make the adapter that `Adapter.describe` described; without a model, from its sizes."""
    about = dict(about)
    name, widths = about["name"], about.pop("widths")
    if name == "Chain":
        return Chain([_restore(part, vit) for part in about["parts"]])
    if name == "Stages":
        return Stages([_restore(part, None) for part in about["parts"]], widths, about["layers"])
    made = about.pop("class")
    further = {key: about.pop(key) for key in ("query_width", "has_stem") if key in about}
    part = check(_NAMED[name], about) if name in _NAMED else None
    if part is None or _method(part).__name__ != made:
        raise WeightsError(
            f"the adapter {made} is a class of your own: make it, and load the tensors with its "
            "load_state_dict"
        )
    if vit is None:
        return _method(part)(widths[0], 1, **_keywords(part), **further)
    return _method(part).for_model(vit, **_keywords(part), **further)


def _build_part(part: PlacedConfig, backbone: FrozenBackbone, query_width: int | None) -> Adapter:
    """Build one adapter, or one for each stage if the stages differ in width."""
    layers = place(part.layers, backbone)
    options = _keywords(part.model_copy(update={"layers": layers}))
    if isinstance(part, blocks.LinkedConfig):
        options["query_width"] = query_width
    if isinstance(part, blocks.FullConfig):
        options["has_stem"] = part.layers is None
    return _method(part).for_model(backbone.vit, **options)


def _method(part: Any) -> type[Adapter]:
    """Return the class of a method."""
    if part.name != "causal_tune":
        return _METHODS[part.name]
    return ReleasedCausalTune if part.recipe == "released" else _TRANSFORMS[part.transform]


def _keywords(part: Any) -> dict[str, Any]:
    """Return the options of a method as keywords of its class."""
    options = dict(part)
    if _method(part) is ReleasedCausalTune:
        return {key: options[key] for key in ("layers", "num_tokens", "rank", "init")}
    return options
