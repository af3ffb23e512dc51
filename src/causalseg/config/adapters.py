"""The options of every adapter."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from causalseg.config.block import Block, Layers, Radius, named
from causalseg.config.initialisation import Init, renamed
from causalseg.config.intervene import InterveneConfig

Tokens = Annotated[int, Field(ge=2)]
Rank = Annotated[int, Field(ge=1)]

_NAMED_BANDS = {
    "both": (0.2, 0.7),
    "low_removed": (0.2, None),
    "high_removed": (None, 0.7),
    "all": (None, None),
}


class NoAdapterConfig(Block):
    """Head only: the backbone's own features."""

    name: Literal["none"] = "none"
    """The method."""


class PlacedConfig(Block):
    """What works on some or all blocks."""

    layers: Layers = None
    """Blocks it works on: a list of numbers from 0, or a number k for the last k; null is all."""


class TokensConfig(PlacedConfig):
    """What has tokens in every block."""

    init: Init = Init()
    """Initialisation: zero, small (the published one), or a block."""

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, options: Any) -> Any:
        return renamed(options)

    def sets_query_std(self) -> bool:
        """Whether the queries start otherwise than by default."""
        return self.init.query_std != Init.model_fields["query_std"].default


class LinkedConfig(TokensConfig):
    """What has tokens that a head can take as its queries."""

    query_link: bool = True
    """Make a Mask2Former head's queries of the tokens; false lets the head learn its own."""


class FullConfig(PlacedConfig):
    """The whole backbone trains, deeper blocks faster."""

    name: Literal["full"] = "full"
    """The method."""
    rate: Annotated[float, Field(gt=0)] = 0.1
    """Factor on the adapter's learning rate for the last block."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Factor on the learning rate from each block to the one before it."""


class ReinConfig(LinkedConfig):
    """Rein: low-rank tokens refine the features of every block."""

    name: Literal["rein"] = "rein"
    """The method."""
    num_tokens: Tokens = 100
    """Tokens per block; through the query link also the number of a Mask2Former head's queries."""
    rank: Rank | None = 16
    """Rank of the tokens; null makes them full."""
    use_softmax: bool = True
    """Weigh the tokens by softmax; false takes the plain products as weights."""


class SetConfig(LinkedConfig):
    """SET: tokens for amplitude and phase of the Fourier spectrum."""

    name: Literal["set"] = "set"
    """The method."""
    num_tokens: Tokens = 100
    """Tokens per block and branch; through the query link also the number of queries."""
    rank: Rank = 16
    """Rank of the tokens."""


class FadaConfig(TokensConfig):
    """FADA: tokens for the content and style bands of a Haar transform."""

    name: Literal["fada"] = "fada"
    """The method."""
    num_tokens: Tokens = 100
    """Tokens per block and band."""
    rank: Rank = 16
    """Rank of the tokens."""


class LoraConfig(PlacedConfig):
    """LoRA: a low-rank update of linear layers."""

    name: Literal["lora"] = "lora"
    """The method."""
    rank: Rank = 8
    """Rank of the update."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """The update is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the input of the update, in training."""
    targets: list[str] | Literal["all"] = ["attn.qkv"]
    """Linear layers of a block by name, such as attn.qkv, attn.proj, mlp.fc1; or all."""
    bias: Literal["none", "adapted"] = "none"
    """adapted also trains the biases of these layers."""


class DoraConfig(LoraConfig):
    """DoRA: LoRA on the direction of the weights, with learnt magnitudes."""

    name: Literal["dora"] = "dora"  # type: ignore[assignment]
    """The method."""


class SomaConfig(PlacedConfig):
    """SoMA: LoRA that starts from the minor singular components of the weights."""

    name: Literal["soma"] = "soma"
    """The method."""
    rank: Rank = 16
    """Number of minor components that train."""
    targets: list[str] | Literal["all"] = "all"
    """Linear layers of a block by name, such as attn.qkv; or all."""
    bias: Literal["none", "adapted"] = "none"
    """adapted also trains the biases of these layers; the published code trains all biases."""


class PeftConfig(PlacedConfig):
    """Any other tuner of the library peft."""

    name: Literal["peft"] = "peft"
    """The method."""
    type: str
    """Its name in peft, such as LOHA, LOKR or OFT."""
    options: dict[str, Any] = {}
    """Its own options, by peft's names, such as r or alpha."""
    targets: list[str] | Literal["all"] = ["attn.qkv"]
    """Linear layers of a block by name, such as attn.qkv; or all."""


class AdaptFormerConfig(PlacedConfig):
    """AdaptFormer: a bottleneck beside every MLP."""

    name: Literal["adaptformer"] = "adaptformer"
    """The method."""
    bottleneck: Annotated[int, Field(ge=1)] = 64
    """Width of the bottleneck."""
    scale: Annotated[float, Field(gt=0)] = 0.1
    """Fixed scale of what it adds."""


class VptConfig(PlacedConfig):
    """VPT-deep: learnt prompt tokens in every block."""

    name: Literal["vpt"] = "vpt"
    """The method."""
    num_prompts: Annotated[int, Field(ge=1)] = 50
    """Prompt tokens per block."""


class BandConfig(Block):
    """The causal band; or one of the names both, low_removed, high_removed and all."""

    low: Radius | None = 0.2
    """R_L, as a fraction of the grid's highest frequency: what is below is suppressed; null keeps
    it."""
    high: Radius | None = 0.7
    """R_H, likewise: what is above fades; null keeps it."""
    learnable: bool = False
    """Learn the radii of every block, starting here."""
    gains: bool = False
    """Learn a gain for each block, bin of the radius and channel, starting at 1."""
    peak_normalised: bool = False
    """Divide the band by its largest weight."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(
                f"low = {self.low} must be below high = {self.high}; the paper has 0.2 and 0.7"
            )
        if self.learnable and self.low is None and self.high is None:
            raise ValueError("learnable has no effect without low and high")
        if self.peak_normalised and self.low is None:
            raise ValueError("peak_normalised has no effect without low: the largest weight is 1")
        return self


def _band_by_name(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in _NAMED_BANDS:
        raise ValueError(f"allowed are {', '.join(_NAMED_BANDS)}, or low and high")
    return dict(zip(("low", "high"), _NAMED_BANDS[value], strict=True))


class CausalTuneConfig(LinkedConfig):
    """Causal-Tune: low-rank causal tokens refine the band-passed spectrum of every block."""

    name: Literal["causal_tune"] = "causal_tune"
    """The method."""
    recipe: Literal["paper", "centered", "full_path", "released"] = "full_path"
    """paper: the published formula, literally; centered: without its spike at patch (0, 0);
    full_path: centered, and the linear path takes all frequencies, not the band alone; released:
    what the authors' code computes, on square grids."""
    transform: Literal["dct", "fft", "haar"] = "dct"
    """The transform; the paper's method is dct, the others are its ablation."""
    band: Annotated[BandConfig, BeforeValidator(_band_by_name)] = BandConfig()
    """Which frequencies are causal."""
    suppress: bool = False
    """Take the rest of the spectrum out of the features, as far as learnt."""
    num_tokens: Tokens = 100
    """Tokens per block; through the query link also the number of a Mask2Former head's queries."""
    rank: Rank = 16
    """Rank of the tokens."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, options: Any) -> Any:
        """What goes with another choice, and `linear_path` of 0.2."""
        if not isinstance(options, dict):
            return options
        path, recipe = options.get("linear_path"), options.get("recipe", "centered")
        if path == "band" or (path == "full" and recipe == "centered"):
            named = {"recipe": "full_path" if path == "full" else recipe}
            options = {k: v for k, v in options.items() if k != "linear_path"} | named
        if options.get("recipe") == "released":
            return {"init": "small", **options}
        if options.get("transform", "dct") != "dct":
            return {"recipe": "centered", **options}
        return options

    @model_validator(mode="after")
    def _no_idle_settings(self) -> Self:
        if self.recipe == "released":
            if self.init.kind != "small":
                raise ValueError("recipe=released starts as its code does: it has init.kind=small")
            idle, why = {"transform", "band", "suppress"}, "recipe=released"
        elif self.transform != "dct":
            idle, why = {"suppress"}, f"transform={self.transform}"
            if self.recipe == "full_path":
                raise ValueError(f"{why} has the recipes paper and centered: give one of them")
            learnt = [k for k in ("learnable", "gains", "peak_normalised") if getattr(self.band, k)]
            if learnt:
                raise ValueError(f"band.{learnt[0]} has no effect with {why}")
            radii = (self.band.low, self.band.high)
            if self.transform == "haar" and radii not in _NAMED_BANDS.values():
                raise ValueError("band with transform=haar: allowed are " + ", ".join(_NAMED_BANDS))
        else:
            if self.band.low is None and self.band.high is None and self.suppress:
                raise ValueError("suppress has no effect with a band that passes all")
            return self
        defaults = type(self).model_fields
        used = [key for key in sorted(idle) if getattr(self, key) != defaults[key].default]
        if used:
            raise ValueError(f"{used[0]} has no effect with {why}: leave it out")
        return self


_Part = (
    CausalTuneConfig
    | FullConfig
    | ReinConfig
    | SetConfig
    | FadaConfig
    | LoraConfig
    | DoraConfig
    | SomaConfig
    | PeftConfig
    | AdaptFormerConfig
    | VptConfig
)


class ChainConfig(Block):
    """Several adapters in one run; `adapter: [lora, causal_tune]` is short for it."""

    name: Literal["chain"] = "chain"
    """Several methods."""
    parts: Annotated[
        list[Annotated[_Part, Field(discriminator="name"), named("causal_tune")]],
        Field(min_length=1),
    ]
    """The adapters, in the order in which they work on a block."""

    @model_validator(mode="after")
    def _weights_train_once(self) -> Self:
        names = [part.name for part in self.parts]
        has_bias = any(getattr(part, "bias", "none") != "none" for part in self.parts)
        if names.count("full") > 1 or ("full" in names and ("soma" in names or has_bias)):
            raise ValueError("full trains all weights: no other full, soma or bias=adapted with it")
        return self


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


def label(adapter: Block, intervene: InterveneConfig | None = None) -> str:
    """Return the name of a method for people, such as `lora + causal_tune + intervene (dsu)`."""
    names = [
        f"peft {part.type}" if isinstance(part, PeftConfig) else part.name
        for part in parts_of(adapter)
    ] or ["none"]
    return " + ".join(names if intervene is None else [*names, f"intervene ({intervene.kind})"])


def linked_part(adapter: Block) -> int | None:
    """Return the index of the part whose tokens become the queries of a head: the last linked."""
    found = [
        index
        for index, part in enumerate(parts_of(adapter))
        if isinstance(part, LinkedConfig) and part.query_link
    ]
    return found[-1] if found else None
