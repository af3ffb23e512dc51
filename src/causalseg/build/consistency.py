"""From the options of consistency to the loss: its gains measured on the sources."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import ConcatDataset

from causalseg.analysis.shift import ShiftMeter
from causalseg.config.consistency import ConsistencyConfig
from causalseg.config.run import AugmentConfig
from causalseg.corruptions import check_corruption, corrupt
from causalseg.data.augment import Augment, draw_distortion
from causalseg.data.dataset import Sample
from causalseg.data.loader import derive_seed
from causalseg.heads.consistency import Consistency
from causalseg.model import Segmenter
from causalseg.runs.log import logger

_PHOTOMETRIC, _SEVERITY = "photometric", 3
_PLAIN = AugmentConfig(scale=(1, 1), flip=0, photometric=False)


def build_consistency(
    options: ConsistencyConfig,
    model: Segmenter,
    sources: ConcatDataset[Sample],
    crop: tuple[int, int],
) -> Consistency:
    """Build the loss; without ``std`` its gains are measured on crops of the sources.

    Raises ConfigError if a corruption is unknown.
    """
    for name in options.under:
        if name != _PHOTOMETRIC:
            check_corruption(name, _SEVERITY)
    if options.std is not None:
        std = torch.tensor(options.std).expand(options.levels, -1)
    else:
        std = (options.factor * _measure(options, model, sources, crop)).clamp(max=1).sqrt().float()
        rows = ["  ".join(f"{value:.2f}" for value in row) for row in std.tolist()]
        logger.info("consistency: std of the gains, low to high frequencies: %s", "; ".join(rows))
    return Consistency(options, std)


@torch.no_grad()
def _measure(
    options: ConsistencyConfig,
    model: Segmenter,
    sources: ConcatDataset[Sample],
    crop: tuple[int, int],
) -> Float[Tensor, "levels rings"]:
    meter = ShiftMeter(options.rings)
    for clean, changed in _pairs(options, sources, crop):
        maps = [model.backbone(image[None])[-options.levels :] for image in (clean, changed)]
        meter.update(*([z.movedim(1, -1) for z in each] for each in maps))
    return meter.gains()


def _pairs(
    options: ConsistencyConfig,
    sources: ConcatDataset[Sample],
    crop: tuple[int, int],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield crops of the sources, each with all its changes."""
    augment, count = Augment(crop, _PLAIN), min(options.images, len(sources))
    for number in range(count):
        generator = torch.Generator().manual_seed(derive_seed(number))
        image = augment(sources[number * len(sources) // count], generator).image
        for name in options.under:
            if name == _PHOTOMETRIC:
                yield image, draw_distortion(generator)(image)
            else:
                yield image, corrupt(image, name, _SEVERITY, seed=number)
