"""Train band gains on unlabelled images: a student learns from its own average.

    (1)  loss = mean over pixels of [H(q, p) + H(p, q)] + mu * sum of s^2
    (2)  t <- m t + (1 - m) s   after every step

with H(a, b) = -sum over classes of a log b. p are the student's probabilities for a crop under
photometric distortion, q those of the teacher for the plain crop, without gradient. The student has
the gains s of `adapters.band_gains`, the teacher their moving average t; both are 0 at first.

Symmetric cross entropy with a mean teacher: Doebler et al., CVPR 2023, arXiv 2211.13081.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from causalseg.config.adapt import AdaptConfig
from causalseg.config.inference import InferenceConfig
from causalseg.data.augment import draw_distortion
from causalseg.engine.infer import model_size
from causalseg.errors import TrainingError
from causalseg.heads.pyramid import resize
from causalseg.model import Segmenter
from causalseg.runs.log import logger

_EVERY = 10  # steps between two lines of the log
_SMALLEST = 1e-6  # probability whose logarithm is taken: that of 0 is infinite
ReadImage = Callable[[], Float[Tensor, "3 H W"]]


class Views(NamedTuple):
    """Crops, plain and distorted; ``is_image`` is False where a crop is larger than its image."""

    plain: Float[Tensor, "b 3 H W"]
    distorted: Float[Tensor, "b 3 H W"]
    is_image: Bool[Tensor, "b H W"]


def draw_views(
    images: Sequence[ReadImage],
    size: tuple[int, int],
    batch: int,
    how: InferenceConfig,
    generator: Generator,
) -> Iterator[Views]:
    """Yield batches without end: random crops of images in random order, as large as ``how`` says.

    Args:
        images: read an image, RGB in [0, 1].
        size: height and width of the crops.
        batch: crops in a batch.
        how: to which size images are resized before, as for prediction.
        generator: what everything random is drawn from.
    """
    order = _shuffle(len(images), generator)
    while True:
        crops, inside = [], []
        for index in islice(order, batch):
            image = images[index]()
            resized = resize(image[None], model_size(how, *image.shape[1:]), antialias=True)
            crop, is_image = _crop(resized[0], size, generator)
            crops.append(crop)
            inside.append(is_image)
        distorted = [draw_distortion(generator)(crop) for crop in crops]
        yield Views(*map(torch.stack, (crops, distorted, inside)))


def adapt_gains(
    model: Segmenter, gains: nn.Parameter, views: Iterator[Views], options: AdaptConfig
) -> dict[int, float]:
    """Train gains that are installed in a model in eval mode, and nothing else.

    Returns the loss by step, of every tenth and the last. Raises TrainingError if one is not
    finite; the gains are then those of the step before.
    """
    teacher, losses = gains.detach().clone(), {}
    optimizer = torch.optim.Adam([gains], lr=options.lr)
    for step, batch in enumerate(islice(views, options.steps), start=1):
        plain, distorted, is_image = (part.to(gains.device) for part in batch)
        with torch.no_grad(), _holding(gains, teacher):
            q = _probabilities(model, plain)
        p = _probabilities(model, distorted)
        consistency = symmetric_cross_entropy(p, q)[is_image].mean()
        loss = consistency + options.mu * gains.square().sum()  # (1)
        if not math.isfinite(value := loss.item()):
            raise TrainingError(
                f"the loss of step {step} is {value}: the run's weights are broken, or --lr "
                f"{options.lr:g} is too high; lower it"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        teacher.lerp_(gains.detach(), 1 - options.ema)  # (2)
        if step % _EVERY == 0 or step == options.steps:
            losses[step] = value
            logger.info("step %d of %d: loss %.4f", step, options.steps, value)
    return losses


def symmetric_cross_entropy(
    p: Float[Tensor, "b k H W"], q: Float[Tensor, "b k H W"]
) -> Float[Tensor, "b H W"]:
    """Return H(q, p) + H(p, q) at every pixel; no gradient flows through q."""
    q = q.detach()
    log_p, log_q = (x.clamp_min(_SMALLEST).log() for x in (p, q))
    return -(q * log_p + p * log_q).sum(1)


@contextmanager
def _holding(gains: nn.Parameter, others: Tensor) -> Iterator[None]:
    """Give the gains other values for a while."""
    own = gains.detach().clone()
    gains.data.copy_(others)
    yield
    gains.data.copy_(own)


def _probabilities(model: Segmenter, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b k H W"]:
    scores = model.logits(images).float()
    return torch.stack([model.probabilities(each) for each in scores])


def _shuffle(count: int, generator: Generator) -> Iterator[int]:
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


def _crop(
    image: Float[Tensor, "3 _ _"], size: tuple[int, int], generator: Generator
) -> tuple[Float[Tensor, "3 H W"], Bool[Tensor, "H W"]]:
    """Return a random crop, padded by the last row and column, and where it is image."""
    sides = tuple(image.shape[1:])
    missing = [max(0, part - side) for part, side in zip(size, sides, strict=True)]
    padded = F.pad(image[None], (0, missing[1], 0, missing[0]), mode="replicate")[0]
    top, left = (
        int(torch.randint(max(0, side - part) + 1, (), generator=generator))
        for part, side in zip(size, sides, strict=True)
    )
    is_image = torch.zeros(size, dtype=torch.bool)
    is_image[: sides[0] - top, : sides[1] - left] = True
    return padded[:, top : top + size[0], left : left + size[1]], is_image
