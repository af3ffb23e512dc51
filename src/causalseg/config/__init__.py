"""Every option of a run: this package is the manual.

A configuration is a YAML file and `key=value` overrides on top of it. Models are frozen and know
their keys, so a wrong one is an error with a suggestion. The text under a field is its only
documentation: `causalseg config keys` and the JSON Schema are made from it. A nested block may be
given by its name alone (`adapter: none`, `head: linear`): the block then has its defaults.
`config.load` reads files and overrides.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Self

from causalseg.config.adapters import AdapterConfig, CausalTuneConfig, find_query_mistakes, parts_of
from causalseg.config.backbone import BackboneConfig
from causalseg.config.block import Block, named
from causalseg.config.consistency import ConsistencyConfig
from causalseg.config.data import DataConfig
from causalseg.config.heads import HeadConfig, Mask2FormerHeadConfig
from causalseg.config.inference import EvalConfig, InferenceConfig
from causalseg.config.intervene import InterveneConfig
from causalseg.config.run import RunConfig, TrainConfig
from causalseg.config.stages import Stage
from causalseg.errors import did_you_mean


class Config(Block):
    """One experiment."""

    setting: str | None = None
    """A setting of the field, such as citys2acdc, for sources, domains and sizes; options given
    here override it. docs/data_sets.md lists them. null is none."""
    backbone: Annotated[BackboneConfig, named("dinov2_vits14")] = BackboneConfig()
    """The frozen model."""
    adapter: AdapterConfig = CausalTuneConfig()
    """The method: a name, a block, or a list of them that work one after the other."""
    intervene: Annotated[InterveneConfig | None, named("spectral", "kind")] = None
    """A random change of the features in training: spectral, mixstyle, dsu or a block; null is
    none."""
    consistency: ConsistencyConfig | None = None
    """A loss on predictions that depend on the strength of frequency bands; {} takes the defaults,
    null is none."""
    head: HeadConfig = Mask2FormerHeadConfig()
    """The head: mask2former, queries or linear."""
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

    def with_options(self, block: str, **options: Any) -> Self:
        """Return the configuration with other options in one block, without checking them."""
        changed = getattr(self, block).model_copy(update=options)
        return self.model_copy(update={block: changed})

    def _find_mistakes(self) -> Iterator[str]:
        if mistake := self.eval.stride_mistake(self.eval.window or self.train.crop):
            yield f"eval.{mistake}"
        num_queries = getattr(self.head, "num_queries", None)
        yield from find_query_mistakes(self.adapter, self.head.name, num_queries)
        if self.head.name == "queries" and self.backbone.repair == "shift_average":
            yield (
                "backbone.repair=shift_average runs the backbone on several images, but the "
                "queries of head=queries pass it with one: choose repair=defect or another head"
            )
        yield from self._find_uneven_sizes()
        parts = self.run.devices * self.run.nodes * self.train.accumulate
        images = self.train.batch // parts
        if self.intervene and self.intervene.kind != "spectral" and images < 2:
            yield (
                f"intervene.kind={self.intervene.kind} has no effect on {images} image a process "
                "or part of train.accumulate: it needs two at least"
            )
        if self.adapter.name == "none" and self.train.adapter_lr is not None:
            yield "train.adapter_lr has no effect without an adapter: drop it"
        if self.run.best is not None:
            yield from self._find_choice_mistakes(self.run.best)

    def _find_uneven_sizes(self) -> Iterator[str]:
        """Yield sizes that the released code, which has square grids, does not take."""
        if "released" not in [getattr(part, "recipe", None) for part in parts_of(self.adapter)]:
            return
        sizes = {"train.crop": self.train.crop}
        if self.eval.mode == "whole":
            sizes["eval.size"] = self.eval.size or (0, 1)
        elif self.eval.window:
            sizes["eval.window"] = self.eval.window
        for key, (height, width) in sizes.items():
            if height != width:
                yield f"adapter.recipe=released has square grids: make {key} square"

    def _find_choice_mistakes(self, best: str) -> Iterator[str]:
        """Yield what is wrong with ``run.best``: nothing may be chosen on a target domain."""
        data = self.data
        metrics = {f"{name}.miou": [name] for name in data.only or data.domains}
        metrics["mean.miou"] = data.averaged
        if best not in metrics:
            yield f"run.best = {best!r}: {did_you_mean(best, metrics)}"
            return
        if self.eval.every is None:
            yield (
                f"run.best = {best} has no effect without evaluations during training: give "
                "eval.every"
            )
        targets = [name for name in metrics[best] if name not in data.seen]
        if targets and not self.run.allow_target:
            yield (
                f"run.best = {best} would choose the weights on {', '.join(targets)}, a target: "
                "nothing may be chosen there. Take a domain that data.mean_over, if given, leaves "
                "out, or set run.allow_target=true, which marks the result"
            )
        if self.run.allow_target and not targets:
            yield (
                f"run.allow_target has no effect with run.best = {best}, which is of no target: "
                "drop it"
            )
