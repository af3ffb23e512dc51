"""The options of every adapter."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from causalseg.config.band import NAMED_BANDS, Band
from causalseg.config.block import Block, Layers, Positive, Width, named
from causalseg.config.initialisation import Init
from causalseg.config.intervene import InterveneConfig
from causalseg.config.legacy import move_linear_path, move_to_init

_METHOD = Field(description="The method.")
Subband = Literal["low", "causal", "high", "all"]


class NoAdapterConfig(Block):
    """No adapter: the frozen backbone with a head."""

    name: Annotated[Literal["none"], _METHOD] = "none"


class PlacedConfig(Block):
    """Options of every adapter."""

    layers: Layers = None
    """Blocks to adapt: a list of indices from 0, or a number k for the last k; null is all."""


class TokensConfig(PlacedConfig):
    """Options of adapters with tokens in every block."""

    init: Annotated[Init, named("zero", "kind")] = Init()
    """Initialisation: zero, small (the published one), or a block."""
    num_tokens: Annotated[int, Field(ge=2, le=65_536)] = 100
    """Tokens per block, per branch with set and fada; as many queries with query_link."""
    rank: Width = 16
    """Rank of the tokens."""

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, options: Any) -> Any:
        return move_to_init(options)

    def sets_query_std(self) -> bool:
        """Whether the standard deviation of the queries is not the default one."""
        return self.init.query_std != Init.model_fields["query_std"].default


class LinkedConfig(TokensConfig):
    """Options of adapters whose tokens can be the queries of a head."""

    query_link: bool = True
    """Use the tokens as the queries of a head that has some; false lets the head learn its own."""


class FullConfig(PlacedConfig):
    """Full fine-tuning with a learning rate that falls from the last block to the first."""

    name: Annotated[Literal["full"], _METHOD] = "full"
    rate: Positive = 0.1
    """Factor on the adapter's learning rate for the last block."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Factor on the learning rate from each block to the one before it."""


class ReinConfig(LinkedConfig):
    """Rein: low-rank tokens refine the features of every block."""

    name: Annotated[Literal["rein"], _METHOD] = "rein"
    rank: Width | None = 16  # type: ignore[assignment]
    """Rank of the tokens; null makes them full."""
    use_softmax: bool = True
    """Softmax over the tokens; false uses the plain products as attention weights."""


class SetConfig(LinkedConfig):
    """SET: tokens for amplitude and phase of the Fourier spectrum."""

    name: Annotated[Literal["set"], _METHOD] = "set"


class FadaConfig(TokensConfig):
    """FADA: tokens for the content and style sub-bands of a Haar transform."""

    name: Annotated[Literal["fada"], _METHOD] = "fada"


class TargetsConfig(PlacedConfig):
    """Options of adapters within linear layers."""

    targets: list[str] | Literal["all"] = ["attn.qkv"]
    """Linear layers of a block by name, such as attn.qkv, attn.proj, mlp.fc1; or all."""


class LoraAdapterConfig(TargetsConfig):
    """LoRA: a low-rank update of linear layers."""

    name: Annotated[Literal["lora"], _METHOD] = "lora"
    rank: Width = 8
    """Rank of the update."""
    alpha: Positive = 16.0
    """The update is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the input of the update, in training."""
    bias: Literal["none", "adapted"] = "none"
    """adapted also trains the biases of the targets."""


class DoraAdapterConfig(LoraAdapterConfig):
    """DoRA: LoRA on the direction of the weights, with learnt magnitudes."""

    name: Annotated[Literal["dora"], _METHOD] = "dora"  # type: ignore[assignment]


class SomaConfig(TargetsConfig):
    """SoMA: LoRA initialised with the minor singular components of the weights."""

    name: Annotated[Literal["soma"], _METHOD] = "soma"
    rank: Width = 16
    """Number of minor components that train."""
    targets: list[str] | Literal["all"] = "all"
    """Linear layers of a block by name, such as attn.qkv; or all."""
    bias: Literal["none", "adapted"] = "none"
    """adapted also trains the biases of the targets; the published code trains all biases."""


class PeftAdapterConfig(TargetsConfig):
    """Any other method of the library peft."""

    name: Annotated[Literal["peft"], _METHOD] = "peft"
    type: str
    """Its name in peft, such as LOHA, LOKR or OFT."""
    options: dict[str, Any] = {}
    """Its own options, by peft's names, such as r or alpha."""


class CausalLoraConfig(TargetsConfig):
    """Causal LoRA: LoRA whose bottleneck is filtered over the patch grid."""

    name: Annotated[Literal["causal_lora"], _METHOD] = "causal_lora"
    targets: list[str] | Literal["all"] = "all"
    """Linear layers of a block by name, such as attn.qkv; or all."""
    rank: Width = 16
    """Channels of the bottleneck."""
    alpha: Positive = 32.0
    """The update is scaled by alpha / rank."""
    init: Literal["zero", "minor"] = "zero"
    """Initialisation: zero is that of LoRA, minor that of SoMA."""
    band: Band = Band()
    """The causal frequencies."""
    split: Annotated[dict[Subband, Positive], Field(min_length=1)] = {"causal": 1.0}
    """Shares of the channels by the frequencies that they keep: causal, low (below the band), high
    (above it) or all, which is LoRA."""
    rates: dict[Subband, Positive] = {}
    """Factors on the learning rate by part of the split; 1 where none is given."""
    gains: tuple[Positive, Positive] | None = None
    """Lowest and highest random gain of the parts low and high in training; afterwards they have
    its mean. null has none."""

    @property
    def ranks(self) -> dict[Subband, int]:
        """The channels of each part: one for each, the others by their shares, rounded to rank."""
        total, free = sum(self.split.values()), self.rank - len(self.split)
        exact = {part: free * share / total for part, share in self.split.items()}
        ranks = {part: 1 + int(share) for part, share in exact.items()}
        by_rest = sorted(exact, key=lambda part: int(exact[part]) - exact[part])
        for part in by_rest[: self.rank - sum(ranks.values())]:
            ranks[part] += 1
        return ranks

    def _find_mistakes(self) -> Iterator[str]:
        parts = list(self.split)
        if self.rank < len(parts):
            yield f"rank = {self.rank} is below the number of parts of split, {len(parts)}"
        if unknown := [part for part in self.rates if part not in self.split]:
            yield f"rates names {unknown[0]}, which split does not have: {', '.join(parts)}"
        if self.band.auto and {"low", "high"} & set(parts):
            yield "band=auto may find nothing below or above it: split has causal and all with it"
        if parts == ["all"]:
            yield from self.find_idle(["band"], "split: {all: ...} alone")
        if not {"low", "high"} & set(parts):
            yield from self.find_idle(["gains"], "neither low nor high in split")
        for part in ("low", "high"):
            if part in parts and getattr(self.band, part) is None and not self.band.auto:
                yield f"split has {part}, but band.{part} = null leaves nothing for it"
        if self.init == "minor":
            yield from self.find_idle(["gains"], "init=minor")
        if self.gains and self.gains[0] > self.gains[1]:
            yield f"gains = {list(self.gains)} must be [lowest, highest]"


class AdaptFormerConfig(PlacedConfig):
    """AdaptFormer: a bottleneck beside every MLP."""

    name: Annotated[Literal["adaptformer"], _METHOD] = "adaptformer"
    bottleneck: Width = 64
    """Width of the bottleneck."""
    scale: Positive = 0.1
    """Fixed factor on its output."""


class VptConfig(PlacedConfig):
    """VPT-deep: learnt prompt tokens in every block."""

    name: Annotated[Literal["vpt"], _METHOD] = "vpt"
    num_prompts: Width = 50
    """Prompt tokens per block."""


class CausalTuneConfig(LinkedConfig):
    """Causal-Tune: low-rank causal tokens refine the band-passed spectrum of every block."""

    name: Annotated[Literal["causal_tune"], _METHOD] = "causal_tune"
    recipe: Literal["paper", "centered", "full_path", "released"] = "full_path"
    """paper: the published formula; centered: without its spike at patch (0, 0); full_path:
    centered, with all frequencies in the linear path; released: the authors' code, on square
    grids."""
    transform: Literal["dct", "fft", "haar"] = "dct"
    """The transform; dct is the paper's method, the others are its ablations."""
    band: Band = Band()
    """The causal frequencies."""
    suppress: bool = False
    """Subtract the rest of the spectrum from the features, times a learnt factor."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, options: Any) -> Any:
        """Set the defaults that depend on recipe and transform."""
        if not isinstance(options, dict):
            return options
        options = move_linear_path(options)
        if options.get("recipe") == "released":
            return {"init": "small", **options}
        if options.get("transform", "dct") != "dct":
            return {"recipe": "centered", **options}
        return options

    def _find_mistakes(self) -> Iterator[str]:
        transform = f"transform={self.transform}"
        if self.recipe == "released":
            if self.init.kind != "small":
                yield "recipe=released has init.kind=small, as its code does"
            yield from self.find_idle(["band", "suppress", "transform"], "recipe=released")
        elif self.transform != "dct":
            if self.recipe == "full_path":
                yield f"{transform} has the recipes paper and centered: give one of them"
            if self.transform == "haar" and (self.band.auto or self.band.name is None):
                yield f"band with {transform}: allowed are {', '.join(NAMED_BANDS)}"
            yield from self.find_idle(["suppress"], transform)
        elif self.band.name == "all" and not self.band.auto:
            yield from self.find_idle(["suppress"], "a band that passes all")


_Part = (
    CausalTuneConfig
    | FullConfig
    | ReinConfig
    | SetConfig
    | FadaConfig
    | LoraAdapterConfig
    | DoraAdapterConfig
    | SomaConfig
    | PeftAdapterConfig
    | CausalLoraConfig
    | AdaptFormerConfig
    | VptConfig
)
_NamedPart = Annotated[_Part, Field(discriminator="name"), named("causal_tune")]


class ChainConfig(Block):
    """Several adapters in one run; `adapter: [lora, causal_tune]` is short for it."""

    name: Literal["chain"] = "chain"
    """Several methods."""
    parts: Annotated[list[_NamedPart], Field(min_length=1)]
    """The adapters, in the order in which they edit a block's output."""

    def _find_mistakes(self) -> Iterator[str]:
        names = [part.name for part in self.parts]
        has_bias = any(getattr(part, "bias", "none") != "none" for part in self.parts)
        if names.count("full") > 1 or ("full" in names and ("soma" in names or has_bias)):
            yield "full trains all weights: no other full, soma or bias=adapted with it"


def _list_is_a_chain(value: Any) -> Any:
    return {"name": "chain", "parts": value} if isinstance(value, list) else value


AdapterConfig = Annotated[
    _Part | NoAdapterConfig | ChainConfig,
    Field(discriminator="name"),
    named("causal_tune"),
    BeforeValidator(_list_is_a_chain),
]


def parts_of(adapter: Block) -> Sequence[Any]:
    """Return the adapters of a configuration: none, one, or the parts of a chain."""
    if isinstance(adapter, NoAdapterConfig):
        return []
    return adapter.parts if isinstance(adapter, ChainConfig) else [adapter]


def has_open_band(adapter: Block) -> bool:
    """Return whether a band has yet to be measured: `band.auto`."""
    return any(part.band.is_open for part in parts_of(adapter) if hasattr(part, "band"))


def with_bands(adapter: Any, band: Band) -> Any:
    """Return an adapter's options with ``band`` for every band that is measured."""
    if isinstance(adapter, ChainConfig):
        parts = [with_bands(part, band) for part in adapter.parts]
        return adapter.model_copy(update={"parts": parts})
    is_measured = hasattr(adapter, "band") and adapter.band.auto
    return adapter.model_copy(update={"band": band}) if is_measured else adapter


def label(
    adapter: Block,
    intervene: InterveneConfig | None = None,
    is_consistent: bool = False,
    is_adapted: bool = False,
) -> str:
    """Return the name of a method for people, such as `lora + causal_tune + intervene (dsu)`."""
    names = [
        f"peft {part.type}" if isinstance(part, PeftAdapterConfig) else part.name
        for part in parts_of(adapter)
    ] or ["none"]
    names += [] if intervene is None else [f"intervene ({intervene.kind})"]
    names += ["consistency"] * is_consistent + ["test-time adaptation"] * is_adapted
    return " + ".join(names)


def linked_part(adapter: Block) -> int | None:
    """Return the index of the part whose tokens become the queries of a head: the last linked."""
    parts = enumerate(parts_of(adapter))
    linked = [i for i, part in parts if isinstance(part, LinkedConfig) and part.query_link]
    return linked[-1] if linked else None


def find_query_mistakes(adapter: Block, head: str, num_queries: int | None) -> Iterator[str]:
    """Yield what does not fit a head with so many queries; None for one that has none."""
    linked = linked_part(adapter) if num_queries else None
    for index, part in enumerate(parts_of(adapter)):
        if index == linked and part.num_tokens != num_queries:
            yield (
                f"adapter.num_tokens = {part.num_tokens} and head.num_queries = {num_queries}: "
                "the tokens become the queries, so both must be the same number; with "
                "query_link=false the head learns its own"
            )
        if isinstance(part, LinkedConfig) and not part.query_link and not num_queries:
            yield (
                f"adapter.query_link = false has no effect with head = {head}, which has no "
                "queries: leave it out"
            )
        if isinstance(part, TokensConfig) and index != linked and part.sets_query_std():
            yield (
                f"adapter.init.query_std = {part.init.query_std} has no effect: the queries "
                f"are not made of the tokens of {label(part)}; leave it out"
            )
