"""Scoring: one confusion matrix a domain, IoU per class, mIoU, and what each number is made of.

``IoU_k = TP_k / (TP_k + FP_k + FN_k)`` over all labelled pixels of a domain. A class that neither
occurs nor is predicted has no IoU and is left out of the mean; one that is predicted where it never
occurs counts with 0.

The counts of every image are kept beside the score, so that differences of two models can be
resampled over images (`causalseg.analysis.bootstrap`).
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from causalseg.data.classes import IGNORE, ClassList
from causalseg.data.dataset import Sample
from causalseg.data.loader import plain_errors
from causalseg.engine.infer import Inference
from causalseg.engine.log import console, logger
from causalseg.model import Segmenter


class Counts(NamedTuple):
    """What is known of the images of a domain, or of a process's share of them, in their order.

    Attributes:
        confusions: pixels of each image by (true class, predicted class).
        names: one for each image.
        sizes: (H, W) of each image's label.
    """

    confusions: Int[Tensor, "b k k"]
    names: list[str]
    sizes: list[tuple[int, int]]


class Domain(NamedTuple):
    """What is scored, and how.

    Attributes:
        data: images with labels.
        inference: how an image is predicted.
        classes: those of its labels.
        fold: for each class of the model the class of the labels that it counts as, 255 for none;
            None if they are the same. A class of the labels has the highest score of those folded
            into it.
        about: what eval.json says of it beside the scores, such as its split.
    """

    data: Dataset[Sample]
    inference: Inference
    classes: ClassList
    fold: Sequence[int] | None = None
    about: Mapping[str, Any] = MappingProxyType({})

    def predict(
        self, model: Segmenter, image: Float[Tensor, "3 H W"], size: tuple[int, int]
    ) -> Int[Tensor, "H W"]:
        """Return the predicted class of every pixel, at ``size``, on the CPU."""
        scores = self.inference(model, image, size)
        if self.fold is not None:
            fold = torch.tensor(self.fold, device=scores.device)
            none = torch.full_like(scores[0], -math.inf)
            members = [scores[fold == index] for index in range(len(self.classes.names))]
            scores = torch.stack([x.amax(0) if len(x) else none for x in members])
        return scores.argmax(0).cpu()


Gather = Callable[[Counts], list[Counts]]
"""Called with this process's share; returns the shares of all processes in their order."""


class Picture(NamedTuple):
    """An example for the report; label and prediction are train ids."""

    sample: Sample
    prediction: Int[Tensor, "H W"]


def confusion_matrix(
    prediction: Int[Tensor, "H W"], label: Int[Tensor, "H W"], num_classes: int
) -> Int[Tensor, "k k"]:
    """Count pixels by (true class, predicted class); pixels labelled 255 are left out."""
    kept = label != IGNORE
    pairs = label[kept].long() * num_classes + prediction[kept].long()
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def iou_per_class(confusion: Int[Tensor, "k k"]) -> Float[Tensor, " k"]:
    """Return the IoU of every class in [0, 1]; NaN where it neither occurs nor is predicted."""
    confusion = confusion.double()
    hits = confusion.diagonal()
    return hits / (confusion.sum(0) + confusion.sum(1) - hits)


def score(confusion: Int[Tensor, "k k"], names: Sequence[str]) -> dict[str, Any]:
    """Return mIoU and IoU in percent (null where there is none) and the pixels behind them."""
    iou = iou_per_class(confusion)
    present = iou[~iou.isnan()]
    accuracy = confusion.diagonal().sum() / confusion.sum().clamp_min(1)
    return {
        "miou": 100 * float(present.mean()) if len(present) else None,
        "accuracy": 100 * float(accuracy),
        "classes_scored": len(present),
        "iou": {
            name: None if math.isnan(value) else 100 * value
            for name, value in zip(names, iou.tolist(), strict=True)
        },
        "pixels": dict(zip(names, confusion.sum(1).tolist(), strict=True)),
    }


def write_counts(confusions: Int[Tensor, "b k k"]) -> list[str]:
    """Return a line of text for each image: its pixels TP_1 .. TP_k FP_1 .. FP_k FN_1 .. FN_k."""
    hits = confusions.diagonal(dim1=1, dim2=2)
    counts = torch.cat([hits, confusions.sum(1) - hits, confusions.sum(2) - hits], dim=1)
    return [" ".join(map(str, image)) for image in counts.tolist()]


def read_counts(lines: Sequence[str]) -> Int[np.ndarray, "b 3 k"]:
    """Return TP, FP and FN by class that `write_counts` made text of."""
    return np.array([line.split() for line in lines], dtype=np.int64).reshape(len(lines), 3, -1)


def evaluate_domain(
    model: Segmenter,
    domain: Domain,
    num_pictures: int = 0,
    process: tuple[int, int] = (0, 1),
    workers: int = 0,
) -> tuple[Counts, list[Picture]]:
    """Predict this process's share of a domain: image i where i modulo their number is its own.

    Args:
        model: in eval mode.
        domain: what is scored.
        num_pictures: examples to keep, spread evenly over the domain.
        process: number of this process and how many share the domain.
        workers: loading processes.

    Returns:
        Counts (on the CPU) and examples.
    """
    device = next(model.parameters()).device
    num_images = len(domain.data)  # type: ignore[arg-type]
    shown = {num_images * (2 * i + 1) // (2 * num_pictures) for i in range(num_pictures)}
    mine = range(process[0], num_images, process[1])
    loader = DataLoader(Subset(domain.data, mine), batch_size=None, num_workers=workers)
    k = len(domain.classes.names)
    confusions = torch.zeros(len(mine), k, k, dtype=torch.int64)
    names, sizes, pictures = [], [], []
    is_shown = process[0] == 0 and console.is_terminal
    samples = track(
        plain_errors(loader),
        "scoring",
        total=len(mine),
        console=console,
        transient=True,
        disable=not is_shown,
    )
    for place, (index, sample) in enumerate(zip(mine, samples, strict=True)):
        size = (sample.label.shape[0], sample.label.shape[1])
        prediction = domain.predict(model, sample.image.to(device), size)
        confusions[place] = confusion_matrix(prediction, sample.label, k)
        names.append(sample.name)
        sizes.append(size)
        if index in shown:
            pictures.append(Picture(Sample(*sample), prediction))
    return Counts(confusions, names, sizes), pictures


def evaluate(
    model: Segmenter,
    domains: Mapping[str, Domain],
    num_pictures: int = 0,
    workers: int = 0,
    process: tuple[int, int] = (0, 1),
    gather: Gather = lambda share: [share],
) -> tuple[dict[str, dict[str, Any]], dict[str, list[Picture]]]:
    """Score every domain on its own; none is pooled with another.

    Args:
        model: put into eval mode for the time and back.
        domains: by name.
        num_pictures: examples to keep of each domain.
        workers: loading processes.
        process: number of this process and how many share the work.
        gather: returns the shares of all processes.

    Returns:
        Results by domain (see `score`; beside it the counts of every image), and this process's
        examples by domain.
    """
    was_training = model.training
    model.eval()
    results, pictures = {}, {}
    for name, domain in domains.items():
        share, pictures[name] = evaluate_domain(model, domain, num_pictures, process, workers)
        counts = _joined(gather(share))
        logger.info("scored %s: %d images", name, len(counts.names))
        results[name] = {
            "images": len(counts.names),
            "size": list(Counter(counts.sizes).most_common(1)[0][0]) if counts.sizes else None,
            **domain.about,
            **score(counts.confusions.sum(0), domain.classes.names),
            "per_image": {"names": counts.names, "counts": write_counts(counts.confusions)},
        }
    model.train(was_training)
    return results, pictures


def _joined(shares: Sequence[Counts]) -> Counts:
    """Put the shares of all processes together, in the order of the data."""
    p, num_images = len(shares), sum(len(share.names) for share in shares)
    confusions = shares[0].confusions.new_empty(num_images, *shares[0].confusions.shape[1:])
    names, sizes = [""] * num_images, [(0, 0)] * num_images
    for rank, share in enumerate(shares):
        confusions[rank::p] = share.confusions
        names[rank::p], sizes[rank::p] = share.names, share.sizes
    return Counts(confusions, names, sizes)


def summarise(
    results: dict[str, dict[str, Any]], inference: Inference, mean_over: Sequence[str] | None
) -> dict[str, Any]:
    """Return the content of eval.json: per domain, the mean, and what the numbers are made of."""
    names = list(mean_over or results)
    values = [results[name]["miou"] for name in names]
    how: dict[str, Any] = {
        "mode": inference.mode,
        "resized_to": inference.size,
        "flip": inference.flip,
    }
    if inference.mode == "slide":
        how |= {"window": list(inference.window), "stride": list(inference.stride)}
    known = [value for value in values if value is not None]
    return {
        "domains": results,
        "mean": {
            "miou": sum(known) / len(known) if len(known) == len(names) else None,
            "over": names,
        },
        "inference": {**how, "scales": list(inference.scales)},
        "made_of": (
            "IoU in percent per class from one confusion matrix over all labelled pixels of a "
            "domain at label size; mIoU is the mean over classes that occur or are predicted; "
            "the mean is the plain mean of the named domains' mIoU"
        ),
    }
