"""Scoring: each domain separately, one image at a time, shared by processes.

The counts of every image are stored with the scores (`causalseg.engine.metrics`), so that other
selections of images, and differences of two models, can be scored later.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from causalseg.config.inference import InferenceConfig
from causalseg.data.classes import IGNORE, ClassList
from causalseg.data.dataset import Sample
from causalseg.data.workers import leave_signals, strip_worker_errors
from causalseg.engine import metrics
from causalseg.engine.infer import check_scores, predict
from causalseg.model import Segmenter
from causalseg.runs.log import console, logger

_MAX_WIDTH = 1024  # of an example, in pixels
_SECONDS = 30.0  # between two lines of progress
_THREADS = 4  # counting: an accelerator predicts faster than one thread counts
_ROWS = 256  # of an image whose probabilities are computed together


class Counts(NamedTuple):
    """Counts over the images of a domain, or over those that one process scored."""

    confusion: Int[Tensor, "k k+1"]  # pixels by (true, predicted class); last column: no class
    per_image: Int[Tensor, "b 3 k"]  # TP, FP and FN
    names: list[str]
    sizes: list[tuple[int, int]]  # (H, W) of the labels
    boundary: Int[Tensor, "3 k"]  # TP, FP and FN near contours
    reliability: Float[Tensor, "3 bins"]  # pixels, summed confidence and correct pixels
    unknown: Int[Tensor, "2 bins"]  # known and unknown pixels by confidence


class Domain(NamedTuple):
    """What is scored, and how.

    ``mapping`` maps each model class to a class of the labels (255: none); None if the class lists
    match. A pixel takes the mapped class of its argmax; its confidence is the summed probability of
    all classes mapped there.
    """

    data: Dataset[Sample]
    inference: InferenceConfig
    classes: ClassList  # of the labels
    mapping: Sequence[int] | None = None
    entries: Mapping[str, Any] = MappingProxyType({})  # of eval.json, such as the split
    unknown: Dataset[Sample] | None = None  # the same images; labels: 1 unknown, 0 known

    def predict(
        self, model: Segmenter, image: Float[Tensor, "3 H W"], size: tuple[int, int]
    ) -> tuple[Int[Tensor, "H W"], Float[Tensor, "H W"]]:
        """Return class and confidence in [0, 1] of every pixel, at ``size``, on the CPU.

        A pixel that is mapped to none of the labels' k classes has class k. Raises TrainingError
        if a score is not finite.
        """
        scores = predict(model, image, self.inference, size)
        parts = [self._decide(model, rows) for rows in scores.split(_ROWS, dim=1)]
        prediction, confidence = (torch.cat(x).cpu() for x in zip(*parts, strict=True))
        check_scores(confidence)
        return prediction, confidence

    def _decide(
        self, model: Segmenter, scores: Float[Tensor, "k h W"]
    ) -> tuple[Int[Tensor, "h W"], Float[Tensor, "h W"]]:
        prediction, probabilities = scores.argmax(0), model.probabilities(scores)
        if self.mapping is not None:
            none = len(self.classes.names)
            mapping = torch.tensor(self.mapping, device=scores.device)
            mapping = mapping.where(mapping != IGNORE, none)
            summed = scores.new_zeros(none + 1, *scores.shape[1:])
            probabilities = summed.index_add_(0, mapping, probabilities)
            prediction = mapping[prediction]
        return prediction, probabilities.gather(0, prediction[None])[0]


class ExampleImages(NamedTuple):
    """An image for the report, at most 1024 pixels wide; truth and prediction are train ids."""

    name: str
    image: Image.Image
    truth: Image.Image
    prediction: Image.Image


class Scored(NamedTuple):
    """An image with its prediction and confidence."""

    sample: Sample
    prediction: Int[Tensor, "H W"]
    confidence: Float[Tensor, "H W"]
    unknown: Int[Tensor, "H W"] | None = None


Keep = Callable[[str, Sample, Int[Tensor, "H W"]], None]
"""Called with every scored image: its domain's name, the image and its prediction."""


def evaluate_domain(
    model: Segmenter,
    domain: Domain,
    process: tuple[int, int] = (0, 1),
    workers: int = 0,
    keep: Callable[[Sample, Int[Tensor, "H W"]], None] = lambda *_: None,
    name: str = "",
) -> Counts:
    """Score this process's part of a domain by a model in eval mode; the counts are on the CPU.

    ``process`` is (rank, world size): every ``world size``-th image from ``rank`` on is scored.
    Progress is a bar on a terminal, elsewhere a line every half minute, with the domain's ``name``.
    """
    rank, world_size = process
    indices = range(rank, len(domain.data), world_size)  # type: ignore[arg-type]
    k = len(domain.classes.names)
    counts = Counts(
        confusion=torch.zeros(k, k + 1, dtype=torch.int64),
        per_image=torch.zeros(len(indices), 3, k, dtype=torch.int64),
        names=[],
        sizes=[],
        boundary=torch.zeros(3, k, dtype=torch.int64),
        reliability=torch.zeros(3, metrics.FINE_BINS, dtype=torch.float64),
        unknown=torch.zeros(2, metrics.FINE_BINS, dtype=torch.int64),
    )
    is_on_cpu = next(model.parameters()).device.type == "cpu"
    scored = track(
        _counted(_predict(model, domain, indices, workers), k, 0 if is_on_cpu else _THREADS),
        f"scoring {name}",
        total=len(indices),
        console=console,
        transient=True,
        disable=rank != 0 or not console.is_terminal,
    )
    began = told = time.monotonic()
    for i, (one, (confusion, boundary, reliability)) in enumerate(scored):
        sample = one.sample
        now = time.monotonic()
        if i and rank == 0 and not console.is_terminal and now - told > _SECONDS:
            rate, told = i / (now - began), now
            eta = timedelta(seconds=round((len(indices) - i) / rate))
            logger.info(
                "scoring %s: %d of %d images, %.2g images/s, eta %s",
                *(name, i, len(indices), rate, eta),
            )
        counts.confusion.add_(confusion)
        counts.per_image[i] = metrics.count_pixels(confusion)
        counts.boundary.add_(boundary)
        counts.reliability.add_(reliability)
        if one.unknown is not None:
            counts.unknown.add_(metrics.unknown_counts(one.confidence, one.unknown))
        counts.names.append(sample.name)
        counts.sizes.append((sample.label.shape[0], sample.label.shape[1]))
        keep(sample, one.prediction)
    return counts


def evaluate(
    model: Segmenter,
    domains: Mapping[str, Domain],
    num_examples: int = 0,
    workers: int = 0,
    process: tuple[int, int] = (0, 1),
    gather: Callable[[Counts], list[Counts]] = lambda counts: [counts],
    keep: Keep = lambda *_: None,
) -> tuple[dict[str, dict[str, Any]], dict[str, list[ExampleImages]]]:
    """Score each domain separately, in eval mode; the mode of the model is restored.

    ``num_examples`` evenly spaced images per domain are examples; unless 0, those with the best,
    the median and the lowest mIoU are added. ``process`` is (rank, world size); ``gather`` turns
    this process's counts into those of all by rank. Returns the content of
    `causalseg.runs.scores.DomainScores` but the interval, and this process's examples.
    """
    was_training = model.training
    model.eval()
    results, examples = {}, {}
    for name, domain in domains.items():
        counts = evaluate_domain(model, domain, process, workers, partial(keep, name), name)
        counts = _joined(gather(counts))
        logger.info("scored %s: %d images", name, len(counts.names))
        results[name] = _results(counts, domain)
        rank, world_size = process
        indices = [i for i in _example_indices(counts, num_examples) if i % world_size == rank]
        examples[name] = [
            _example(sample, prediction)
            for sample, prediction, *_ in _predict(model, domain._replace(unknown=None), indices, 0)
        ]
    model.train(was_training)
    return results, examples


def _predict(
    model: Segmenter, domain: Domain, indices: Sequence[int], workers: int
) -> Iterator[Scored]:
    device = next(model.parameters()).device
    images = Subset(_Beside(domain.data, domain.unknown), indices)
    loader = DataLoader(images, None, num_workers=workers, worker_init_fn=leave_signals)
    for sample, unknown in strip_worker_errors(loader):
        size = (sample.label.shape[0], sample.label.shape[1])
        yield Scored(sample, *domain.predict(model, sample.image.to(device), size), unknown)


class _Beside(Dataset[tuple[Sample, Tensor | None]]):
    """Images with labels, and labels of what is unknown beside them."""

    def __init__(self, data: Dataset[Sample], unknown: Dataset[Sample] | None):
        self._data, self._unknown = data, unknown

    def __getitem__(self, index: int) -> tuple[Sample, Tensor | None]:
        return self._data[index], None if self._unknown is None else self._unknown[index].label


def _counted(
    scored: Iterable[Scored], k: int, threads: int
) -> Iterator[tuple[Scored, tuple[Tensor, Tensor, Tensor]]]:
    """Count the images in order; up to ``threads`` of them while later ones are predicted."""

    def count(one: Scored) -> tuple[Tensor, Tensor, Tensor]:
        return (
            metrics.confusion_matrix(one.prediction, one.sample.label, k),
            metrics.boundary_counts(one.prediction, one.sample.label, k),
            metrics.reliability_counts(one.confidence, one.prediction, one.sample.label),
        )

    waiting: deque[tuple[Scored, Future]] = deque()
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for one in scored:
            waiting.append((one, pool.submit(count, one)))
            if len(waiting) > threads:
                first, counting = waiting.popleft()
                yield first, counting.result()
        yield from ((one, counting.result()) for one, counting in waiting)


def _example(sample: Sample, prediction: Int[Tensor, "H W"]) -> ExampleImages:
    H, W = sample.label.shape
    size = (min(W, _MAX_WIDTH), max(1, round(H * min(1, _MAX_WIDTH / W))))
    image = Image.fromarray((255 * sample.image.movedim(0, -1)).round().byte().numpy())
    truth, predicted = (
        Image.fromarray(ids.byte().numpy()).resize(size, Image.Resampling.NEAREST)
        for ids in (sample.label, prediction)
    )
    return ExampleImages(sample.name, image.resize(size), truth, predicted)


def _joined(parts: Sequence[Counts]) -> Counts:
    """Join the counts of all processes, in the order of the data."""
    world_size, num_images = len(parts), sum(len(part.names) for part in parts)
    per_image = parts[0].per_image.new_empty(num_images, *parts[0].per_image.shape[1:])
    names, sizes = [""] * num_images, [(0, 0)] * num_images
    for rank, part in enumerate(parts):
        per_image[rank::world_size] = part.per_image
        names[rank::world_size], sizes[rank::world_size] = part.names, part.sizes
    return Counts(
        confusion=torch.stack([part.confusion for part in parts]).sum(0),
        per_image=per_image,
        names=names,
        sizes=sizes,
        boundary=torch.stack([part.boundary for part in parts]).sum(0),
        reliability=torch.stack([part.reliability for part in parts]).sum(0),
        unknown=torch.stack([part.unknown for part in parts]).sum(0),
    )


def _results(counts: Counts, domain: Domain) -> dict[str, Any]:
    """Return a domain's entry of eval.json."""
    names = domain.classes.names
    return {
        "images": len(counts.names),
        "size": list(Counter(counts.sizes).most_common(1)[0][0]) if counts.sizes else None,
        **domain.entries,
        **metrics.score(counts.confusion, names),
        **metrics.score_boundary(counts.boundary, counts.confusion.sum(1) > 0, names),
        "calibration": metrics.calibration(counts.reliability),
        "fpr95": metrics.false_positives(counts.unknown),
        "per_image": {"names": counts.names, "counts": metrics.write_counts(counts.per_image)},
    }


def _example_indices(counts: Counts, number: int) -> list[int]:
    if not number:
        return []
    n = len(counts.names)
    spread = {n * (2 * i + 1) // (2 * number) for i in range(number)} if n else set()
    by_image = metrics.mean_iou(counts.per_image.numpy())
    ranked = [int(i) for i in np.argsort(by_image, kind="stable") if not np.isnan(by_image[i])]
    extremes = {ranked[0], ranked[len(ranked) // 2], ranked[-1]} if ranked else set()
    return sorted(spread | extremes)


def summarise(
    results: dict[str, dict[str, Any]], inference: InferenceConfig, mean_over: Sequence[str] | None
) -> dict[str, Any]:
    """Return scores by domain, their mean and how they were computed, as eval.json has them."""
    names = list(mean_over or results)
    known = [value for name in names if (value := results[name]["miou"]) is not None]
    mean = sum(known) / len(known) if len(known) == len(names) else None
    return {
        "domains": results,
        "mean": {"miou": mean, "over": names},
        "inference": inference.model_dump(mode="json"),
        "made_of": (
            "IoU in percent per class from one confusion matrix over all labelled pixels of a "
            "domain at label size; mIoU is the mean over the classes that occur in the domain's "
            "labels; the mean is the plain mean of the named domains' mIoU"
        ),
    }
