"""From the options of an adapter or an intervention to the object: one `match` a kind."""

from collections.abc import Sequence

from causalseg.adapters.ablations.released import ReleasedCausalTune
from causalseg.adapters.ablations.variants import CausalTuneFFT, CausalTuneHaar
from causalseg.adapters.adaptformer import AdaptFormer
from causalseg.adapters.band import Band
from causalseg.adapters.base import Adapter, Chain, Stages
from causalseg.adapters.causal_tune import CausalTune
from causalseg.adapters.fada import Fada
from causalseg.adapters.full import FullTune
from causalseg.adapters.intervene import Dsu, Intervention, MixStyle, SpectralIntervention
from causalseg.adapters.peft import PeftAdapter, lora_config, peft_config
from causalseg.adapters.rein import Rein
from causalseg.adapters.set import SetAdapter
from causalseg.adapters.soma import Soma
from causalseg.adapters.vpt import Vpt
from causalseg.backbones.timm import FrozenBackbone
from causalseg.config.adapters import (
    AdapterConfig,
    AdaptFormerConfig,
    CausalTuneConfig,
    DoraConfig,
    FadaConfig,
    FullConfig,
    LoraConfig,
    PeftConfig,
    PlacedConfig,
    ReinConfig,
    SetConfig,
    SomaConfig,
    VptConfig,
    linked_part,
    parts_of,
)
from causalseg.config.block import Layers
from causalseg.config.intervene import InterveneConfig
from causalseg.errors import ConfigError


def build_adapter(
    options: AdapterConfig, backbone: FrozenBackbone, query_width: int | None
) -> Adapter | None:
    """Build the adapter of a configuration, freshly initialised; None for head only.

    Args:
        options: one adapter or a chain.
        backbone: what it is made for; stays as it is.
        query_width: width of the head's queries, None for a head without; the last adapter of a
            chain that has tokens to give makes them.
    """
    linked = linked_part(options)
    adapters = []
    for index, part in enumerate(parts_of(options)):
        is_linked = index == linked and query_width is not None
        adapters.append(_build_part(part, backbone, query_width if is_linked else None))
    if len(adapters) < 2:
        return adapters[0] if adapters else None
    return Chain(adapters)


def build_intervention(options: InterveneConfig) -> Intervention:
    """Build the intervention of a configuration."""
    match options.kind:
        case "spectral":
            return SpectralIntervention(
                options.p, options.high_gain, options.low_gain, options.low, options.high
            )
        case "mixstyle":
            return MixStyle(options.p, options.alpha)
        case "dsu":
            return Dsu(options.p, options.factor)


def place(layers: Layers, backbone: FrozenBackbone) -> list[int]:
    """Return the blocks that ``layers`` means, in order: those listed, the last k, or all.

    Blocks beyond the last level do not reach the head: they do not count.

    Raises:
        ConfigError: if there are fewer than k blocks, or a listed one does not reach the head.
    """
    used = max(backbone.levels) + 1
    if layers is None:
        return list(range(used))
    if isinstance(layers, int):
        if layers > used:
            raise ConfigError(f"layers = {layers}: {used} blocks of the backbone reach the head")
        return list(range(used - layers, used))
    if max(layers) >= used:
        raise ConfigError(
            f"layers = {layers}: the head sees nothing beyond block {used - 1}; allowed are blocks "
            f"from 0 to {used - 1}"
        )
    return sorted(layers)


def _build_part(
    options: PlacedConfig, backbone: FrozenBackbone, query_width: int | None
) -> Adapter:
    """Build one adapter; one a stage, where stages differ in width and so can share nothing."""
    layers, vit = place(options.layers, backbone), backbone.vit
    match options:
        case FullConfig(rate=rate, layer_decay=layer_decay):
            return FullTune(vit, rate, layer_decay, layers, has_stem=options.layers is None)
        case LoraConfig(rank=rank, alpha=alpha, dropout=dropout, targets=targets, bias=bias):
            use_dora = isinstance(options, DoraConfig)
            lora = lora_config(rank, alpha, dropout, targets, use_dora, bias == "adapted")
            return PeftAdapter(vit, lora, layers)
        case SomaConfig(rank=rank, targets=targets, bias=bias):
            return Soma(vit, rank, targets, layers, bias == "adapted")
        case PeftConfig(type=kind, options=given, targets=targets):
            return PeftAdapter(vit, peft_config(kind, given, targets), layers)
    widths = backbone.widths
    if len(set(widths)) == 1:
        return _build_edit(options, widths[0], backbone.depth, query_width, layers)
    if isinstance(options, VptConfig | AdaptFormerConfig):
        raise ConfigError(
            f"adapter {options.name} needs the blocks of a ViT, not the stages of "
            f"{type(vit).__name__}: choose another adapter, such as causal_tune, rein, set or fada"
        )
    last = layers[-1]  # its tokens make the queries
    parts = [
        _build_edit(options, widths[layer], 1, query_width if layer == last else None, [0])
        for layer in layers
    ]
    return Stages(parts, widths, layers)


def _build_edit(
    options: PlacedConfig, width: int, depth: int, query_width: int | None, layers: Sequence[int]
) -> Adapter:
    """Build an adapter that knows the model by its sizes alone."""
    match options:
        case CausalTuneConfig():
            return _build_causal_tune(options, width, depth, query_width, layers)
        case ReinConfig(num_tokens=m, rank=rank, init=init, use_softmax=use_softmax):
            return Rein(width, depth, m, rank, query_width, init, use_softmax, layers)
        case SetConfig(num_tokens=m, rank=rank, init=init):
            return SetAdapter(width, depth, m, rank, query_width, init, layers)
        case FadaConfig(num_tokens=m, rank=rank, init=init):
            return Fada(width, depth, m, rank, init, layers)
        case AdaptFormerConfig(bottleneck=bottleneck, scale=scale):
            return AdaptFormer(width, depth, bottleneck, scale, layers)
        case VptConfig(num_prompts=num_prompts):
            return Vpt(width, depth, num_prompts, layers)
    raise AssertionError(f"no adapter for {type(options).__name__}")


def _build_causal_tune(
    options: CausalTuneConfig,
    width: int,
    depth: int,
    query_width: int | None,
    layers: Sequence[int],
) -> Adapter:
    given = options.band
    m, rank, init = options.num_tokens, options.rank, options.init
    if options.recipe == "released":
        return ReleasedCausalTune(width, depth, m, rank, query_width, init, layers)
    band = Band(
        given.low,
        given.high,
        options.suppress,
        given.learnable,
        given.gains,
        given.peak_normalised,
    )
    kinds: dict[str, type[CausalTune | CausalTuneFFT | CausalTuneHaar]] = {
        "dct": CausalTune,
        "fft": CausalTuneFFT,
        "haar": CausalTuneHaar,
    }
    kind = kinds[options.transform]
    return kind(width, depth, m, rank, query_width, band, options.recipe, init, layers)
