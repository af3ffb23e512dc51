"""Which rings of which blocks a trained model uses: scale one of them and score again.

After block l the features become ``x + (g - 1) B_k x``; the blocks after it and the head go on with
them. The first blocks of an image are computed once for all rings and gains of a block.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import Dataset

from causalseg.adapters.base import Attachment, Removable
from causalseg.analysis.rings import scale_ring
from causalseg.backbones.timm import FrozenBackbone
from causalseg.backbones.trunk import PatchGrid, Trunk, find_trunk, watch_grid
from causalseg.data.dataset import Sample
from causalseg.engine.metrics import confusion_matrix, count_pixels, mean_iou
from causalseg.jobs.spectrum.features import to_features
from causalseg.model import Segmenter
from causalseg.runs.log import console
from causalseg.spectral.grid import Features, grid_to_tokens

GAINS = (0.0, 0.5, 1.5)


@torch.inference_mode()
def intervene_on_rings(
    model: Segmenter, domains: Mapping[str, Dataset[Sample]], rings: int, number: int
) -> dict[str, Any]:
    """Return the change of the mIoU of every domain, as spectrum.json has it.

    Up to ``number`` evenly spaced images of each domain, whose size fits the patch, are scored.
    """
    results = {}
    for name, images in domains.items():
        total = len(images)  # type: ignore[arg-type]
        count = min(number, total)
        chosen = [i * total // count for i in range(count)]
        counts = torch.stack(
            [
                _count_variants(model, images[index], rings)
                for index in track(
                    chosen,
                    f"interventions on {name}",
                    console=console,
                    disable=not console.is_terminal,
                )
            ]
        ).sum(0)
        scores = torch.from_numpy(mean_iou(count_pixels(counts).numpy()))
        depth = model.backbone.depth
        change = (scores[1:] - scores[0]).view(depth, rings, len(GAINS)).movedim(2, 0)
        results[name] = {
            "images": count,
            "miou": float(scores[0]),
            "change": dict(zip(map(str, GAINS), change.tolist(), strict=True)),
        }
    return results


def _count_variants(model: Segmenter, sample: Sample, rings: int) -> Tensor:
    """Return the confusion matrices of one image: unchanged, then by block, ring and gain."""
    image = sample.image[None].to(model.backbone.mean.device)
    variants = [(ring, gain) for ring in range(rings) for gain in GAINS]
    edits = _install(model.backbone, rings, variants)
    counts = []
    for target in (None, *range(model.backbone.depth)):
        for edit in edits:
            edit.is_target = edit.block == target
        # What the backbone returns assumes one batch size in all blocks: the hooks have kept it.
        model.backbone(image)
        maps = [edits[level].kept.movedim(-1, 1) for level in model.backbone.levels]
        number = 1 if target is None else len(variants)
        counts.append(_count(model, [each.expand(number, -1, -1, -1) for each in maps], sample))
    Attachment([handle for edit in edits for handle in edit.handles]).detach()
    return torch.cat(counts)


def _count(model: Segmenter, maps: list[Tensor], sample: Sample) -> Tensor:
    k, size = len(model.classes.names), (sample.label.shape[0], sample.label.shape[1])
    predictions = model.head(maps, model.queries(), size).argmax(1).cpu()
    return torch.stack([confusion_matrix(each, sample.label, k) for each in predictions])


def _install(
    backbone: FrozenBackbone, rings: int, variants: Sequence[tuple[int, float]]
) -> "list[_Variants]":
    trunk, grid = find_trunk(backbone.vit), None
    edits = [_Variants(trunk, block, rings, variants) for block in range(backbone.depth)]
    if trunk.layout == "tokens":
        grid, watch = watch_grid(backbone.vit)
        edits[0].handles.append(watch)
    for edit, path in zip(edits, trunk.outputs, strict=True):
        edit.grid = grid
        edit.handles.append(backbone.vit.get_submodule(path).register_forward_hook(edit))
    return edits


class _Variants:
    """Keeps the features after a block; as target, turns one image into one for each variant."""

    def __init__(self, trunk: Trunk, block: int, rings: int, variants: Sequence[tuple[int, float]]):
        self.trunk, self.block, self.rings, self.variants = trunk, block, rings, variants
        self.is_target = False
        self.grid: PatchGrid | None = None
        self.handles: list[Removable] = []
        self.kept: Features = torch.zeros(())

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """Keep the features; return the output with the variants as its batch, if a target."""
        first = output[0] if isinstance(output, tuple) else output
        size = (0, 0) if self.grid is None else self.grid.size
        self.kept = X = to_features(first, self.trunk, size)
        if not self.is_target:
            return output
        edited = [scale_ring(X, ring, self.rings, gain) for ring, gain in self.variants]
        self.kept = X = torch.cat(edited)
        X = X.to(first.dtype)
        if self.trunk.layout == "tokens":
            prefix = first[:, : self.trunk.num_prefix].expand(len(X), -1, -1)
            made = torch.cat([prefix, grid_to_tokens(X)], 1)
        else:
            made = X.movedim(-1, 1) if self.trunk.layout == "maps" else X
        return (made, *output[1:]) if isinstance(output, tuple) else made
