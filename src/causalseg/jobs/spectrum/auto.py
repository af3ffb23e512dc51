"""The band of `band=auto`: measured on the sources and changes of them, before training.

No target domain is looked at, and no corruption that one of them has.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from causalseg.analysis.shift import CommonMeter, ShiftMeter
from causalseg.analysis.verdict import GROUPS, Verdict
from causalseg.backbones.timm import FrozenBackbone
from causalseg.config import Config
from causalseg.config.adapters import with_bands
from causalseg.config.band import Band
from causalseg.corruptions import corrupt
from causalseg.data.augment import draw_distortion
from causalseg.data.dataset import Sample
from causalseg.data.loader import derive_seed
from causalseg.data.wrappers import ResizedData
from causalseg.errors import DataError
from causalseg.jobs.spectrum.features import BlockFeatures
from causalseg.jobs.spectrum.measure import LEAST_IMAGES, ClassMeter, judge
from causalseg.model import Segmenter
from causalseg.runs.log import logger

CHANGES = ("gaussian_blur", "jpeg_compression")  # beside photometric distortion
_RINGS = 8
_IMAGES = 40
_SEVERITY = 3


def with_measured_band(config: Config, model: Segmenter, sources: ConcatDataset[Sample]) -> Config:
    """Return the configuration with the band that the sources suggest.

    ``model`` loses its adapter and its repair. Raises DataError for fewer than ten images, or
    labels that do not tell classes apart.
    """
    if model.attachment is not None:
        model.attachment.detach()
    model.eval()  # no interventions
    model.backbone.repair = "none"  # it is of what leaves the blocks
    scored = {each.corrupt.name for each in config.data.domains.values() if each.corrupt}
    changes = [name for name in CHANGES if name not in scored]
    crop, count = config.train.crop, len(model.classes.names)
    verdict = judge_sources(model.backbone, sources, crop, count, changes)
    logger.info("band=auto: %s", verdict.describe())
    low, high = (None if r is None else round(r, 3) for r in (verdict.low, verdict.high))
    adapter = with_bands(config.adapter, Band(low=low, high=high, auto=True))
    return config.model_copy(update={"adapter": adapter})


def judge_sources(
    backbone: FrozenBackbone,
    sources: ConcatDataset[Sample],
    size: tuple[int, int],
    num_classes: int,
    changes: Sequence[str] = CHANGES,
) -> Verdict:
    """Return the verdict on images of the sources, resized to ``size`` in pixels.

    ``changes`` are corruptions, beside photometric distortion.
    """
    count, blocks = min(_IMAGES, len(sources)), BlockFeatures(backbone)
    if count < LEAST_IMAGES:
        raise DataError(
            f"band=auto needs {LEAST_IMAGES} training images, here are {count}: give a band"
        )
    resized, device = ResizedData(sources, size), backbone.mean.device
    classes, common = ClassMeter(_RINGS, backbone.depth, num_classes), CommonMeter(_RINGS)
    shifts = [ShiftMeter(_RINGS) for _ in range(GROUPS)]
    for number in (*range(0, count, 2), *range(1, count, 2)):
        image, label, _ = resized[number * len(sources) // count]
        clean = blocks(image[None].to(device))
        classes.update(clean, label, number)
        common.update(clean)
        for changed in _change(image, number, changes):
            shifts[number % GROUPS].update(clean, blocks(changed[None].to(device)))
    blocks.remove()
    if not classes.is_known:
        raise DataError("band=auto needs labels of two classes at least: give a band")
    return judge(classes, [shifts], common)


def _change(image: Tensor, number: int, changes: Sequence[str]) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(derive_seed(number))
    yield draw_distortion(generator)(image)
    for name in changes:
        yield corrupt(image, name, _SEVERITY, seed=number)
