"""Measure the spectrum of features over sets of images, in one pass, without keeping features.

Images of the reference with even numbers fit the class probes and come first; the others score
them.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from rich.progress import track
from torch import Tensor

from causalseg.analysis.artifacts import ArtifactMeter, fill_outliers, find_outliers
from causalseg.analysis.classes import FisherMeter, ProbeMeter, label_patches
from causalseg.analysis.domains import FOLDS, describe_rings, probe_domains
from causalseg.analysis.power import bootstrap_mean, measure_directions, measure_power
from causalseg.analysis.rings import split_rings
from causalseg.analysis.shift import CommonMeter, ShiftMeter
from causalseg.analysis.transfer import TransferMeter
from causalseg.analysis.verdict import GROUPS, Verdict, judge_rings
from causalseg.data.classes import IGNORE
from causalseg.data.dataset import Sample
from causalseg.jobs.spectrum.features import BlockFeatures, UneditedBlocks
from causalseg.jobs.spectrum.sets import Sets
from causalseg.runs.log import console
from causalseg.spectral.grid import Features

Rows = list[list[float | None]]  # by block and ring
LEAST_IMAGES = 2 * GROUPS  # of a verdict: half of them fit the probes
_LEFT_OUT = (None, *range(GROUPS))


class SetMeter:
    """Power, outliers and descriptions of one set of images."""

    def __init__(self, rings: int, depth: int):
        self.rings = rings
        self._power: list[Tensor] = []
        self._directions: list[Tensor] = []
        self._described: list[Tensor] = []
        self._artifacts = [ArtifactMeter() for _ in range(depth)]

    def update(self, blocks: Sequence[Features]) -> None:
        """Add the features of one image."""
        power, directions, described = [], [], []
        for X, artifacts in zip(blocks, self._artifacts, strict=True):
            is_outlier = find_outliers(X)
            artifacts.update(X, is_outlier)
            filled = fill_outliers(X, is_outlier)
            power.append(torch.stack([measure_power(Z, self.rings)[0] for Z in (filled, X)]))
            directions.append(measure_directions(filled, self.rings)[0])
            described.append(describe_rings(filled, self.rings)[0])
        self._power.append(torch.stack(power).cpu())
        self._directions.append(torch.stack(directions).cpu())
        self._described.append(torch.stack(described).float().cpu())

    @property
    def described(self) -> Float[Tensor, "b blocks rings d"]:
        """What tells sets apart (`analysis.domains`)."""
        return torch.stack(self._described)

    def summarise(self) -> dict[str, Any]:
        """Return the numbers of the set, as spectrum.json has them."""
        power = torch.stack(self._power)
        low, high = bootstrap_mean(power[:, :, 0])
        most = max(self._artifacts, key=lambda meter: meter.share)
        return {
            "images": len(power),
            "power": as_rows(power[:, :, 0].mean(0)),
            "power_interval": [as_rows(low), as_rows(high)],
            "power_with_outliers": as_rows(power[:, :, 1].mean(0)),
            "directions": [as_rows(block) for block in torch.stack(self._directions).mean(0)],
            "outliers": {
                "share": [meter.share for meter in self._artifacts],
                "angle": [meter.angle for meter in self._artifacts],
                "norm": [meter.norms[0] for meter in self._artifacts],
                "norm_of_others": [meter.norms[1] for meter in self._artifacts],
                "positions": as_rows(most.positions / len(power)),
                "positions_block": self._artifacts.index(most),
            },
        }


class ClassMeter:
    """Fisher's ratio and probes of every block, on the reference."""

    def __init__(self, rings: int, depth: int, num_classes: int):
        self.rings, self.num_classes = rings, num_classes
        self._fisher = [FisherMeter(rings, num_classes, GROUPS) for _ in range(depth)]
        self._probes = [ProbeMeter(rings, num_classes, GROUPS) for _ in range(depth)]

    def update(self, blocks: Sequence[Features], label: Int[Tensor, "H W"], index: int) -> None:
        """Add an image; those with even numbers fit the probes, and come first."""
        generator = torch.Generator().manual_seed(index)
        for X, fisher, probe in zip(blocks, self._fisher, self._probes, strict=True):
            labels = label_patches(label, (X.shape[1], X.shape[2]), self.num_classes)[None]
            if not (labels != IGNORE).any():
                continue
            parts = list(split_rings(X, self.rings))
            fisher.update(parts, labels, index % GROUPS)
            if index % 2 == 0:
                probe.fit(parts, labels, generator)
            else:
                probe.score(parts, labels, index % GROUPS)

    @property
    def is_known(self) -> bool:
        """Whether there are two classes, and patches of both halves of the images."""
        has_classes = all(meter.present > 1 for meter in self._fisher)
        return has_classes and all(probe.is_scored for probe in self._probes)

    def ratios(self) -> Float[Tensor, "groups1 blocks rings"]:
        """Return J(k) of all images, then without each group."""
        return torch.stack([torch.stack([m.ratios(g) for m in self._fisher]) for g in _LEFT_OUT])

    def losses(self) -> Float[Tensor, "groups1 blocks rings"]:
        """Return the part of its mIoU that a probe loses without ring k, likewise."""
        every = []
        for group in _LEFT_OUT:
            scores = [probe.mious(group) for probe in self._probes]
            every.append(torch.stack([1 - without / max(w, 1e-9) for _, without, w in scores]))
        return torch.stack(every)

    def summarise(self) -> dict[str, Any]:
        """Return the numbers, as spectrum.json has them."""
        alone, without, whole = zip(*(probe.mious() for probe in self._probes), strict=True)
        return {
            "fisher": as_rows(self.ratios()[0]),
            "alone": as_rows(torch.stack(alone)),
            "without": as_rows(torch.stack(without)),
            "all": list(whole),
        }


def measure_sets(
    blocks: BlockFeatures,
    sets: Sets,
    rings: int,
    num_classes: int,
    unedited: UneditedBlocks | None = None,
) -> tuple[dict[str, Any], Verdict | None]:
    """Measure all sets; return the numbers as spectrum.json has them, and the verdict.

    ``unedited`` gives the blocks without the adapter, for its transfer function. There is a verdict
    where the reference has labels, corruptions and as many images as groups.
    """
    depth, count = blocks.backbone.depth, len(sets.reference)  # type: ignore[arg-type]
    meters = {name: SetMeter(rings, depth) for name in ("source", *sets.paired, *sets.unpaired)}
    shifts = {name: [ShiftMeter(rings) for _ in range(GROUPS)] for name in sets.paired}
    classes, common = ClassMeter(rings, depth, num_classes), CommonMeter(rings)
    transfer = [TransferMeter(rings) for _ in range(depth)] if unedited else None
    for index in _tracked([*range(0, count, 2), *range(1, count, 2)], "source"):
        sample = sets.reference[index]
        clean = _features(blocks, sample)
        meters["source"].update(clean)
        common.update(clean)
        if transfer and unedited:
            batch = sample.image[None].to(blocks.backbone.mean.device)
            pairs = zip(transfer, unedited(clean, batch), clean, strict=True)
            for meter, frozen, adapted in pairs:
                meter.update(frozen, adapted)
        classes.update(clean, sample.label, index)
        for name, changed in sets.paired.items():
            moved = _features(blocks, changed[index])
            meters[name].update(moved)
            shifts[name][index % GROUPS].update(clean, moved)
    for name, images in sets.unpaired.items():
        for index in _tracked(range(len(images)), name):  # type: ignore[arg-type]
            meters[name].update(_features(blocks, images[index]))
    has_verdict = classes.is_known and shifts and count >= LEAST_IMAGES
    found: dict[str, Any] = {
        "sets": {name: meter.summarise() for name, meter in meters.items()},
        "shift": {name: as_rows(_relate(_total(each), common)) for name, each in shifts.items()},
        "unpaired": _compare(meters, list(sets.unpaired)),
        "classes": classes.summarise() if classes.is_known else None,
        "transfer": _summarise_transfer(transfer),
    }
    if not has_verdict:
        return found, None
    return found, judge(classes, list(shifts.values()), common)


def judge(
    classes: ClassMeter, shifts: Sequence[Sequence[ShiftMeter]], common: CommonMeter
) -> Verdict:
    """Return the verdict on what was measured; ``shifts`` are of every change by group."""
    moved, power, images = [], [], []
    for left_out in _LEFT_OUT:
        total = _total(m for each in shifts for g, m in enumerate(each) if g != left_out)
        moved.append(total.moved)
        power.append(total.power)
        images.append(total.images)
    counts = torch.tensor(images, dtype=torch.float64)[:, None, None]
    varied = torch.stack(power) - counts * common.energy()
    return judge_rings(classes.ratios(), classes.losses(), torch.stack(moved), varied, power[0])


def _relate(total: ShiftMeter, common: CommonMeter) -> Float[Tensor, "blocks rings"]:
    """Return S(k); NaN where images do not differ."""
    varied = total.power - total.images * common.energy()
    return total.moved / varied.where(varied > 0, torch.nan)


def _features(blocks: BlockFeatures, sample: Sample) -> list[Features]:
    return blocks(sample.image[None].to(blocks.backbone.mean.device))


def _total(meters: Iterable[ShiftMeter]) -> ShiftMeter:
    total = ShiftMeter(0)
    used = [meter for meter in meters if meter.images]
    total.moved = torch.stack([meter.moved for meter in used]).sum(0)
    total.power = torch.stack([meter.power for meter in used]).sum(0)
    total.images = sum(meter.images for meter in used)
    return total


def _compare(meters: dict[str, SetMeter], names: Sequence[str]) -> dict[str, Any]:
    """Return how well each ring tells each set from the source; without sets of few images."""
    source, results = meters["source"].described, {}
    for name in names:
        other = meters[name].described
        if min(len(source), len(other)) < FOLDS:
            continue
        pairs = [
            probe_domains(source[:, block], other[:, block]) for block in range(source.shape[1])
        ]
        aucs, mixings = zip(*pairs, strict=True)
        results[name] = {
            "auc": as_rows(torch.stack(aucs)),
            "mixing": as_rows(torch.stack(mixings)),
        }
    return results


def _summarise_transfer(meters: Sequence[TransferMeter] | None) -> dict[str, Any] | None:
    if meters is None:
        return None
    return {
        "gain": as_rows(torch.stack([meter.gain for meter in meters])),
        "added": as_rows(torch.stack([meter.added for meter in meters])),
        "spike": [meter.spike for meter in meters],
    }


def as_rows(values: Float[Tensor, "rows columns"]) -> Rows:
    """Return a matrix as lists of five digits; None for what is not finite."""
    return [
        [float(f"{value:.5g}") if math.isfinite(value) else None for value in row]
        for row in values.tolist()
    ]


def _tracked(indices: Sequence[int], name: str) -> Iterable[int]:
    return track(indices, f"spectrum of {name}", console=console, disable=not console.is_terminal)
