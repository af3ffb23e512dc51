"""The whole model: a frozen backbone, an adapter attached to it, a head.

    images in [0, 1] -> backbone, edited block by block by the adapter -> 4 feature maps
                     -> head (with the adapter's queries, if it makes any) -> logits per pixel

The queries of some heads pass the last blocks of the backbone together with the patch tokens.

Only adapter and head are trained and saved. An intervention, which has no parameters, may change
the features in training; band gains, of test-time adaptation, change them always.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from causalseg.adapters import base
from causalseg.adapters.band_gains import BandGains
from causalseg.adapters.base import Adapter, Attachment, attach
from causalseg.adapters.intervene import Intervention
from causalseg.adapters.saved import load_tensors, read_tensors, save_tensors
from causalseg.adapters.sizes import check_layers
from causalseg.backbones.joined import JoinedTokens
from causalseg.backbones.timm import FrozenBackbone
from causalseg.data.classes import ClassList
from causalseg.errors import DataError, MissingFileError, WeightsError
from causalseg.heads.base import Counts, Head, Queries
from causalseg.heads.consistency import Consistency

_TOLERANCE = 1e-3  # by which resized images may leave [0, 1]
Weights = dict[str, dict[str, Tensor]]
"""Tensors of the trained parts, by part and name."""


class Segmenter(nn.Module):
    """Images to per-pixel class logits.

    Args:
        backbone: the frozen model; gives four feature maps, shallow to deep.
        adapter: attached to the backbone; None for the features of the frozen backbone.
        head: feature maps (and queries) to logits, and its loss.
        classes: names and colours of the classes, in the order of the logits.

    Raises:
        ConfigError: if adapter or head do not fit the backbone.
    """

    def __init__(
        self, backbone: FrozenBackbone, adapter: Adapter | None, head: Head, classes: ClassList
    ):
        super().__init__()
        # The adapter first: its parameters are named as its own, not as those of layers it is in.
        self.adapter, self.backbone, self.head, self.classes = adapter, backbone, head, classes
        self.attachment = None if adapter is None else attach(backbone.vit, adapter)
        self._joined: JoinedTokens | None = None
        if head.blocks:
            layers = backbone.last_layers(head.blocks)
            self._joined = JoinedTokens(backbone.vit, layers, partial(_join, head, adapter))
        self.intervention: Intervention | None = None
        self.consistency: Consistency | None = None
        self.progress = 0.0  # fraction of the steps that are done, in training
        self._intervening = Attachment([])
        self.band_gains: BandGains | None = None
        self._scaling = Attachment([])

    def train(self, mode: bool = True) -> Self:
        """Set the mode of adapter and head; the backbone stays in eval mode."""
        super().train(mode)
        if self.adapter is not None:  # also those of its layers that are in the backbone
            self.adapter.train(mode)
        return self

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b k H W"]:
        """Same as `logits`."""
        return self.logits(images)

    def logits(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b k H W"]:
        """Return one score per class and pixel; the largest is the predicted class.

        Args:
            images: RGB in [0, 1]; height and width divisible by the patch.

        Raises:
            DataError: if the size does not fit the patch, the images are no floating-point numbers
                or, in eval mode, one is outside of [0, 1].
        """
        self._check_range(images)
        size = (images.shape[-2], images.shape[-1])
        return self.head(self.backbone(images), self.queries(), size)

    def probabilities(self, scores: Float[Tensor, "k H W"]) -> Float[Tensor, "k H W"]:
        """Return class probabilities from scores; they sum to 1 at every pixel."""
        return self.head.probabilities(scores)

    def loss(
        self, images: Float[Tensor, "b 3 H W"], labels: Int[Tensor, "b H W"]
    ) -> Float[Tensor, ""]:
        """Return the training loss, a scalar: the sum of `loss_terms`."""
        return torch.stack(list(self.loss_terms(images, labels).values())).sum()

    def loss_terms(
        self,
        images: Float[Tensor, "b 3 H W"],
        labels: Int[Tensor, "b H W"],
        counts: Counts | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the weighted loss terms by name; labels are train ids, 255 ignored.

        ``counts`` are the head's `mean_counts` if this is a part of a batch.
        """
        features, queries = self.backbone(images), self.queries()
        terms = self.head.loss(features, queries, labels, counts)
        if self.consistency is not None:
            terms["consistency"] = self.consistency(self.head, features, queries, self.progress)
        return terms

    def queries(self) -> Queries:
        """Return the queries for the head; call it after the backbone, whose blocks they may pass.

        The adapter's, those that have passed the last blocks in this thread's last pass, or None.
        """
        if self._joined is not None:
            return self._joined.outputs
        return None if self.adapter is None else self.adapter.queries()

    def intervene(self, intervention: Intervention, layers: Sequence[int] | None = None) -> None:
        """Change the features in training, after the adapter has edited them.

        Args:
            intervention: the change; replaces an earlier one.
            layers: the blocks after which it happens; None for all.

        Raises:
            ConfigError: if a layer is not a block of the backbone, or named twice.
        """
        blocks = check_layers(layers, self.backbone.depth)
        self._intervening.detach()
        self.intervention = intervention.train(self.training)
        handles = base.install_after_blocks(self.backbone.vit, intervention, blocks)
        self._intervening = Attachment(handles)

    def scale_bands(self, gains: BandGains) -> None:
        """Apply band gains after every block, after the adapter; they replace earlier ones."""
        self._scaling.detach()
        self.band_gains = gains
        blocks = range(self.backbone.depth)
        self._scaling = Attachment(base.install_after_blocks(self.backbone.vit, gains, blocks))

    def merge(self) -> None:
        """Fold the adapter into the backbone if its method allows it; for inference only."""
        if self.adapter is not None:
            self.adapter.merge()

    def trainable(self) -> dict[str, nn.Module]:
        """Return the parts that are trained and saved, by the name of their file."""
        parts: dict[str, nn.Module] = {"head": self.head}
        if self.adapter is not None:
            parts["adapter"] = self.adapter
        return parts

    def save(self, folder: Path | str, weights: Weights | None = None) -> None:
        """Write adapter.safetensors and head.safetensors, each atomically.

        ``weights`` are others than the present ones.
        """
        for name, part in self.trainable().items():
            tensors = part.state_dict() if weights is None else weights[name]
            about = part.describe() if isinstance(part, Adapter) else None
            save_tensors(Path(folder) / f"{name}.safetensors", tensors, about)

    def load(self, folder: Path | str, only: Sequence[str] = ("adapter", "head")) -> None:
        """Read what `save` wrote, or some of its parts.

        Raises:
            MissingFileError: if a file is not there.
            WeightsError: if a file is broken or belongs to another model; names the keys.
        """
        for name, part in self.trainable().items():
            if name not in only:
                continue
            file = Path(folder) / f"{name}.safetensors"
            if not file.is_file():
                raise MissingFileError(
                    f"{folder} has no {file.name}: `causalseg train` writes it when training ends"
                )
            _load_part(part, file)

    def _check_range(self, images: Tensor) -> None:
        """Raise DataError for images of another range; its values are read in eval mode alone."""
        if not images.is_floating_point():
            raise DataError(
                f"images of {images.dtype}: the model takes RGB in [0, 1], such as images / 255"
            )
        if self.training or torch.compiler.is_compiling():
            return
        low, high = (float(bound) for bound in images.aminmax())
        if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):  # NaN too
            raise DataError(
                f"images from {low:.4g} to {high:.4g}: the model takes RGB in [0, 1] and "
                "normalises it itself; divide 8-bit values by 255"
            )


def _join(head: Head, adapter: Adapter | None) -> Float[Tensor, "q c"]:
    return head.joining(None if adapter is None else adapter.queries())


def _load_part(part: nn.Module, file: Path) -> None:
    tensors, about = read_tensors(file)
    if about is not None and isinstance(part, Adapter):
        try:
            part.check_same(about)
        except WeightsError as error:
            raise WeightsError(f"{file}: {error}; use the config.yaml in the same folder") from None
    load_tensors(part, tensors, file)
