"""Scoring: every domain on its own, an image at a time, shared by processes.

The counts of every image are kept beside the scores (`causalseg.engine.metrics`), so that other
selections of images, and differences of two models, can be scored later.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
from causalseg.data.workers import plain_errors
from causalseg.engine import metrics
from causalseg.engine.infer import predict
from causalseg.errors import TrainingError
from causalseg.model import Segmenter
from causalseg.runs.log import console, logger

_PICTURE_WIDTH = 1024  # pixels, at most
_COUNTERS = 4  # threads that count what an accelerator predicts faster than one thread counts
_ROWS = 256  # of an image whose probabilities are looked at together


class Counts(NamedTuple):
    """What is known of the images of a domain, or of a process's share of them.

    Attributes:
        confusion: pixels of all images by (true class, predicted class); last, predicted as none.
        per_image: TP, FP and FN of each image and class.
        names: one for each image.
        sizes: (H, W) of each image's label.
        boundary: TP, FP and FN near contours, over all images.
        reliability: pixels, confidence and right pixels by bins of confidence, over all images.
    """

    confusion: Int[Tensor, "k k+1"]
    per_image: Int[Tensor, "b 3 k"]
    names: list[str]
    sizes: list[tuple[int, int]]
    boundary: Int[Tensor, "3 k"]
    reliability: Float[Tensor, "3 bins"]


class Domain(NamedTuple):
    """What is scored, and how.

    Attributes:
        data: images with labels.
        inference: how an image is predicted.
        classes: those of its labels.
        fold: for each class of the model the class of the labels that it counts as, 255 for none;
            None if they are the same. A pixel counts as what its highest score does, with the sum
            of the probabilities of all that count so.
        about: what eval.json says of it beside the scores, such as its split.
    """

    data: Dataset[Sample]
    inference: InferenceConfig
    classes: ClassList
    fold: Sequence[int] | None = None
    about: Mapping[str, Any] = MappingProxyType({})

    def predict(
        self, model: Segmenter, image: Float[Tensor, "3 H W"], size: tuple[int, int]
    ) -> tuple[Int[Tensor, "H W"], Float[Tensor, "H W"]]:
        """Return class and confidence in [0, 1] of every pixel, at ``size``, on the CPU.

        A pixel of none of the labels' k classes has class k.
        """
        scores = predict(model, image, self.inference, size)
        parts = [self._decide(model, rows) for rows in scores.split(_ROWS, dim=1)]
        prediction, confidence = (torch.cat(x).cpu() for x in zip(*parts, strict=True))
        if not confidence.isfinite().all():
            raise TrainingError(
                "the model's scores are not finite: its weights are broken, or numbers overflow; "
                "train again with a lower train.lr, or try run.precision=32-true"
            )
        return prediction, confidence

    def _decide(
        self, model: Segmenter, scores: Float[Tensor, "k h W"]
    ) -> tuple[Int[Tensor, "h W"], Float[Tensor, "h W"]]:
        prediction, probabilities = scores.argmax(0), model.probabilities(scores)
        if self.fold is None:
            return prediction, probabilities.gather(0, prediction[None])[0]
        none = len(self.classes.names)
        fold = torch.tensor(self.fold, device=scores.device)
        fold = fold.where(fold != IGNORE, none)
        summed = scores.new_zeros(none + 1, *scores.shape[1:]).index_add_(0, fold, probabilities)
        prediction = fold[prediction]
        return prediction, summed.gather(0, prediction[None])[0]


Gather = Callable[[Counts], list[Counts]]
"""Called with this process's share; returns the shares of all processes in their order."""


class Picture(NamedTuple):
    """An example for the report, at most 1024 pixels wide; truth and prediction are train ids."""

    name: str
    image: Image.Image
    truth: Image.Image
    prediction: Image.Image


class Scored(NamedTuple):
    """An image with what was predicted, and how sure."""

    sample: Sample
    prediction: Int[Tensor, "H W"]
    confidence: Float[Tensor, "H W"]


Keep = Callable[[str, Sample, Int[Tensor, "H W"]], None]
"""Called with every scored image: its domain's name, the image and its prediction."""


def evaluate_domain(
    model: Segmenter,
    domain: Domain,
    process: tuple[int, int] = (0, 1),
    workers: int = 0,
    keep: Callable[[Sample, Int[Tensor, "H W"]], None] = lambda *_: None,
) -> Counts:
    """Score this process's share of a domain: image i where i modulo their number is its own.

    Args:
        model: in eval mode.
        domain: what is scored.
        process: number of this process and how many share the domain.
        workers: loading processes.
        keep: called with every image and its prediction.

    Returns:
        Counts, on the CPU.
    """
    mine = range(process[0], len(domain.data), process[1])  # type: ignore[arg-type]
    k = len(domain.classes.names)
    counts = Counts(
        torch.zeros(k, k + 1, dtype=torch.int64),
        torch.zeros(len(mine), 3, k, dtype=torch.int64),
        [],
        [],
        torch.zeros(3, k, dtype=torch.int64),
        torch.zeros(3, metrics.BINS, dtype=torch.float64),
    )
    is_shown = process[0] == 0 and console.is_terminal
    is_on_cpu = next(model.parameters()).device.type == "cpu"
    scored = track(
        _counted(_predict(model, domain, mine, workers), k, threads=0 if is_on_cpu else _COUNTERS),
        "scoring",
        total=len(mine),
        console=console,
        transient=True,
        disable=not is_shown,
    )
    for place, ((sample, prediction, _), (confusion, boundary, reliability)) in enumerate(scored):
        counts.confusion.add_(confusion)
        counts.per_image[place] = metrics.count_pixels(confusion)
        counts.boundary.add_(boundary)
        counts.reliability.add_(reliability)
        counts.names.append(sample.name)
        counts.sizes.append((sample.label.shape[0], sample.label.shape[1]))
        keep(sample, prediction)
    return counts


def evaluate(
    model: Segmenter,
    domains: Mapping[str, Domain],
    num_pictures: int = 0,
    workers: int = 0,
    process: tuple[int, int] = (0, 1),
    gather: Gather = lambda share: [share],
    keep: Keep = lambda *_: None,
) -> tuple[dict[str, dict[str, Any]], dict[str, list[Picture]]]:
    """Score every domain on its own; none is pooled with another.

    Args:
        model: put into eval mode for the time and back.
        domains: by name.
        num_pictures: examples to keep of each domain, spread evenly; if any, then also the images
            of the best, the median and the lowest mIoU.
        workers: loading processes.
        process: number of this process and how many share the work.
        gather: returns the shares of all processes.
        keep: called with every image that this process scores.

    Returns:
        Results by domain (see `causalseg.runs.scores.DomainScores`, but for the interval), and this
        process's examples by domain.
    """
    was_training = model.training
    model.eval()
    results, pictures = {}, {}
    for name, domain in domains.items():
        share = evaluate_domain(
            *(model, domain, process, workers),
            lambda *scored, name=name: keep(name, *scored),
        )
        counts = _joined(gather(share))
        logger.info("scored %s: %d images", name, len(counts.names))
        results[name] = _results(counts, domain)
        shown = [i for i in _shown(counts, num_pictures) if i % process[1] == process[0]]
        pictures[name] = [
            _picture(sample, prediction)
            for sample, prediction, _ in _predict(model, domain, shown, 0)
        ]
    model.train(was_training)
    return results, pictures


def _predict(
    model: Segmenter, domain: Domain, indices: Sequence[int], workers: int
) -> Iterator[Scored]:
    """Load and predict images of a domain, in the order of ``indices``."""
    device = next(model.parameters()).device
    loader = DataLoader(Subset(domain.data, indices), batch_size=None, num_workers=workers)
    for sample in plain_errors(loader):
        size = (sample.label.shape[0], sample.label.shape[1])
        yield Scored(sample, *domain.predict(model, sample.image.to(device), size))


def _counted(
    scored: Iterable[Scored], k: int, threads: int
) -> Iterator[tuple[Scored, tuple[Tensor, Tensor, Tensor]]]:
    """Count every image, in their order: at once, or in threads while later ones are predicted.

    Yields:
        The image; its confusion matrix and its counts near contours and by confidence.
    """

    def count(
        sample: Sample, prediction: Tensor, confidence: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return (
            metrics.confusion_matrix(prediction, sample.label, k),
            metrics.boundary_counts(prediction, sample.label, k),
            metrics.reliability_counts(confidence, prediction, sample.label),
        )

    if not threads:
        yield from ((one, count(*one)) for one in scored)
        return
    waiting: deque[tuple[Scored, Future]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for one in scored:
            waiting.append((one, pool.submit(count, *one)))
            if len(waiting) > threads:
                first, counting = waiting.popleft()
                yield first, counting.result()
        yield from ((one, counting.result()) for one, counting in waiting)


def _picture(sample: Sample, prediction: Int[Tensor, "H W"]) -> Picture:
    H, W = sample.label.shape
    size = (min(W, _PICTURE_WIDTH), max(1, round(H * min(1, _PICTURE_WIDTH / W))))
    image = Image.fromarray((255 * sample.image.movedim(0, -1)).round().byte().numpy())
    truth, predicted = (
        Image.fromarray(ids.byte().numpy()).resize(size, Image.Resampling.NEAREST)
        for ids in (sample.label, prediction)
    )
    return Picture(sample.name, image.resize(size), truth, predicted)


def _joined(shares: Sequence[Counts]) -> Counts:
    """Put the shares of all processes together, in the order of the data."""
    p, num_images = len(shares), sum(len(share.names) for share in shares)
    per_image = shares[0].per_image.new_empty(num_images, *shares[0].per_image.shape[1:])
    names, sizes = [""] * num_images, [(0, 0)] * num_images
    for rank, share in enumerate(shares):
        per_image[rank::p] = share.per_image
        names[rank::p], sizes[rank::p] = share.names, share.sizes
    boundary = torch.stack([share.boundary for share in shares]).sum(0)
    reliability = torch.stack([share.reliability for share in shares]).sum(0)
    confusion = torch.stack([share.confusion for share in shares]).sum(0)
    return Counts(confusion, per_image, names, sizes, boundary, reliability)


def _results(counts: Counts, domain: Domain) -> dict[str, Any]:
    """Return what eval.json says of a domain."""
    names = domain.classes.names
    return {
        "images": len(counts.names),
        "size": list(Counter(counts.sizes).most_common(1)[0][0]) if counts.sizes else None,
        **domain.about,
        **metrics.score(counts.confusion, names),
        **metrics.score_boundary(counts.boundary, counts.confusion.sum(1) > 0, names),
        "calibration": metrics.calibration(counts.reliability),
        "per_image": {"names": counts.names, "counts": metrics.write_counts(counts.per_image)},
    }


def _shown(counts: Counts, number: int) -> list[int]:
    """The images that are kept as examples, in their order."""
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
    """Return the content of eval.json: per domain, the mean, and what the numbers are made of."""
    names = list(mean_over or results)
    known = [value for name in names if (value := results[name]["miou"]) is not None]
    return {
        "domains": results,
        "mean": {
            "miou": sum(known) / len(known) if len(known) == len(names) else None,
            "over": names,
        },
        "inference": inference.model_dump(mode="json"),
        "made_of": (
            "IoU in percent per class from one confusion matrix over all labelled pixels of a "
            "domain at label size; mIoU is the mean over the classes that occur in the domain's "
            "labels; the mean is the plain mean of the named domains' mIoU"
        ),
    }
