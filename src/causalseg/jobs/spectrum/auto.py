"""The band of `band=auto`: measured on the sources and changes of them, before training.

No target domain is looked at, and no corruption of weather, light or noise, which are targets in
many comparisons.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from causalseg.analysis.shift import ShiftMeter
from causalseg.analysis.verdict import GROUPS, Verdict, judge_rings
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
from causalseg.jobs.spectrum.measure import ClassMeter, join_groups
from causalseg.model import Segmenter
from causalseg.runs.log import logger

CHANGES = ("gaussian_blur", "jpeg_compression")  # beside photometric distortion
_RINGS = 8
_IMAGES = 40
_SEVERITY = 3


def with_measured_band(config: Config, model: Segmenter, sources: ConcatDataset[Sample]) -> Config:
    """Return the configuration with the band that the sources suggest.

    ``model`` loses its adapter. Raises DataError for fewer than five images.
    """
    if model.attachment is not None:
        model.attachment.detach()
    verdict = judge_sources(model.backbone, sources, config.train.crop, len(model.classes.names))
    logger.info("band=auto: %s", verdict.describe())
    low, high = (None if r is None else round(r, 3) for r in (verdict.low, verdict.high))
    adapter = with_bands(config.adapter, Band(low=low, high=high, auto=True))
    return config.model_copy(update={"adapter": adapter})


def judge_sources(
    backbone: FrozenBackbone,
    sources: ConcatDataset[Sample],
    size: tuple[int, int],
    num_classes: int,
) -> Verdict:
    """Return the verdict on images of the sources, resized to ``size`` in pixels."""
    count, blocks = min(_IMAGES, len(sources)), BlockFeatures(backbone)
    if count < GROUPS:
        raise DataError(f"band=auto needs {GROUPS} training images, here are {count}: give a band")
    resized, device = ResizedData(sources, size), backbone.mean.device
    classes = ClassMeter(_RINGS, backbone.depth, num_classes)
    shifts = [ShiftMeter(_RINGS) for _ in range(GROUPS)]
    for number in (*range(0, count, 2), *range(1, count, 2)):
        image, label, _ = resized[number * len(sources) // count]
        clean = blocks(image[None].to(device))
        classes.update(clean, label, number)
        for changed in _change(image, number):
            shifts[number % GROUPS].update(clean, blocks(changed[None].to(device)))
    blocks.remove()
    return judge_rings(classes.ratios(), classes.losses(), *join_groups([shifts]))


def _change(image: Tensor, number: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(derive_seed(number))
    yield draw_distortion(generator)(image)
    for name in CHANGES:
        yield corrupt(image, name, _SEVERITY, seed=number)
