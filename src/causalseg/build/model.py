"""From a configuration to a model.

Adapter and head are initialised from separate random states, so runs of one seed share the head's
initialisation whatever the adapter.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from causalseg.adapters.base import attach
from causalseg.adapters.sizes import check_layers
from causalseg.backbones.joined import check_takes_tokens
from causalseg.backbones.timm import FrozenBackbone, build_backbone
from causalseg.build.adapter import build_adapter, build_intervention, place
from causalseg.build.pairs import build_classes
from causalseg.config import Config
from causalseg.config.adapters import linked_part
from causalseg.config.heads import LinearHeadConfig, Mask2FormerHeadConfig, QueriesHeadConfig
from causalseg.config.load import load_config
from causalseg.errors import ConfigError
from causalseg.heads.base import Head
from causalseg.heads.linear import LinearHead
from causalseg.heads.mask2former import Mask2FormerHead
from causalseg.heads.queries import QueriesHead
from causalseg.model import Segmenter
from causalseg.runs.checkpoint import load_weights
from causalseg.runs.folder import RunFolder
from causalseg.runs.packed import opened
from causalseg.runs.seal import check_seal


def build_segmenter(config: Config) -> Segmenter:
    """Build the model of a configuration with initialised adapter and head."""
    backbone = build_backbone(config.backbone, config.run.first_seed)
    check_fits_patch(config, backbone.patch)
    classes = build_classes(config.data)
    width = query_width(config, backbone)
    gives_queries = width is not None and linked_part(config.adapter) is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.first_seed)
        adapter = build_adapter(config.adapter, backbone, width)
        torch.manual_seed(config.run.first_seed)
        head = _build_head(config, backbone, len(classes.names), gives_queries)
    model = Segmenter(backbone, adapter, head, classes)
    if config.intervene is not None:
        layers = place(config.intervene.layers, backbone)
        model.intervene(build_intervention(config.intervene), layers)
    return model


def outline_backbone(config: Config) -> FrozenBackbone:
    """Build the backbone of a configuration without values: shapes on the meta device."""
    options = config.backbone.model_copy(update={"weights": "random", "sha256": None})
    with torch.device("meta"):
        return build_backbone(options)


def query_width(config: Config, backbone: FrozenBackbone) -> int | None:
    """Return the width of the head's queries; None for a head without queries."""
    match config.head:
        case Mask2FormerHeadConfig(hidden=width):
            return width
        case QueriesHeadConfig():
            return backbone.level_widths[-1]
    return None


def check_method(config: Config) -> None:
    """Raise ConfigError if adapter, head or intervention are impossible; needs no weights."""
    options, backbone = config.backbone, outline_backbone(config)
    with torch.device("meta"):  # a model without values
        if options.patch or options.weights in ("hub", "wheel", "random"):  # else the file's patch
            check_fits_patch(config, backbone.patch)
        adapter = build_adapter(config.adapter, backbone, query_width=None)
        if adapter is not None:
            attach(backbone.vit, adapter).detach()
        if isinstance(config.head, QueriesHeadConfig):
            check_takes_tokens(backbone.vit)
            backbone.last_layers(config.head.blocks)
        if config.intervene is not None:
            build_intervention(config.intervene)
            check_layers(place(config.intervene.layers, backbone), backbone.depth)


def start_from(place: str, model: Segmenter, config: Config) -> str:
    """Give a model the weights of another run, `run.init`; return what was taken.

    Raises ConfigError if the other run has another backbone, or nothing that fits, WeightsError if
    its adapter is another one, and what `runs.packed.opened` raises.
    """
    with opened(place) as run:
        other = load_config(run.need(run.config))
        ours, theirs = config.backbone, other.backbone
        if (ours.name, model.backbone.sha256) != (theirs.name, theirs.sha256):
            raise ConfigError(
                f"run.init = {place} has the backbone {theirs.name} with weights {theirs.weights}, "
                f"this run {ours.name} with {ours.weights}: give both the same"
            )
        is_same = other.head == config.head
        is_same &= build_classes(other.data).names == model.classes.names
        taken = ["adapter"] * (model.adapter is not None) + ["head"] * is_same
        if not taken:
            raise ConfigError(
                f"run.init = {place} has another head or other classes, and without an adapter "
                "there is nothing else to take: leave it out"
            )
        for name in taken:
            check_seal(run, run.path / f"{name}.safetensors")
        model.load(run.path, taken)
    return f"{' and '.join(taken)} of {place}" + ("" if is_same else "; the head is new")


def load_run(
    run: Path | str,
    device: str | torch.device = "cpu",
    checkpoint: str = "last",
    overrides: Sequence[str] = (),
) -> Segmenter:
    """Load the trained model of a run folder, in eval mode on ``device``, without gradients.

    ``checkpoint`` is last, best, or a file or folder (see `runs.checkpoint.load_weights`), and
    ``overrides`` as for `causalseg.load`.
    """
    folder = RunFolder(run)
    model = build_segmenter(load_config(folder.need(folder.config), overrides))
    load_weights(folder, model, checkpoint)
    return model.eval().requires_grad_(False).to(device)


def check_fits_patch(config: Config, patch: int) -> None:
    """Raise ConfigError unless crop and window are divisible by the patch."""
    window = config.eval.window if config.eval.mode == "slide" else None
    for key, size in (("train.crop", config.train.crop), ("eval.window", window)):
        if size is not None and any(edge % patch for edge in size):
            near = [max(patch, round(edge / patch) * patch) for edge in size]
            raise ConfigError(
                f"{key} = {list(size)} is not divisible by the patch of {patch} pixels: "
                f"the nearest size is {near}"
            )


def _build_head(
    config: Config, backbone: FrozenBackbone, num_classes: int, has_queries: bool
) -> Head:
    options, widths = config.head, backbone.level_widths
    if isinstance(options, LinearHeadConfig):
        return LinearHead(widths, num_classes, options)
    if isinstance(options, QueriesHeadConfig):
        return QueriesHead(widths[-1], num_classes, options, has_queries)
    return Mask2FormerHead(widths, num_classes, options, has_queries)
