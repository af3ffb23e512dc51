"""Scoring: one confusion matrix a domain, IoU per class, mIoU, and what each number is made of.

``IoU_k = TP_k / (TP_k + FP_k + FN_k)`` over all labelled pixels of a domain. A class that neither
occurs nor is predicted has no IoU and is left out of the mean; one that is predicted where it never
occurs counts with 0.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from causalseg.data.classes import IGNORE
from causalseg.data.dataset import Sample
from causalseg.data.loader import plain_errors
from causalseg.engine.infer import Inference
from causalseg.engine.log import console, logger
from causalseg.model import Segmenter

Reduce = Callable[[Tensor], Tensor]


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


def evaluate_domain(
    model: Segmenter,
    data: Dataset[Sample],
    inference: Inference,
    num_pictures: int = 0,
    process: tuple[int, int] = (0, 1),
    workers: int = 0,
) -> tuple[Int[Tensor, "k k"], list[Picture], list[tuple[int, int]]]:
    """Predict this process's share of a domain.

    Args:
        model: in eval mode.
        data: the domain.
        inference: how an image is predicted.
        num_pictures: examples to keep, spread evenly over the domain.
        process: number of this process and how many share the domain.
        workers: loading processes.

    Returns:
        Confusion matrix (on the CPU), examples, and the size (H, W) of every image seen.
    """
    device = next(model.parameters()).device
    num_images = len(data)  # type: ignore[arg-type]
    shown = {num_images * (2 * i + 1) // (2 * num_pictures) for i in range(num_pictures)}
    mine = range(process[0], num_images, process[1])
    loader = DataLoader(Subset(data, mine), batch_size=None, num_workers=workers)
    k = len(model.classes.names)
    confusion = torch.zeros(k, k, dtype=torch.int64)
    pictures, sizes = [], []
    is_shown = process[0] == 0 and console.is_terminal
    samples = track(
        plain_errors(loader),
        "scoring",
        total=len(mine),
        console=console,
        transient=True,
        disable=not is_shown,
    )
    for index, sample in zip(mine, samples, strict=True):
        scores = inference(model, sample.image.to(device), tuple(sample.label.shape))
        prediction = scores.argmax(0).cpu()
        confusion += confusion_matrix(prediction, sample.label, k)
        sizes.append((sample.label.shape[0], sample.label.shape[1]))
        if index in shown:
            pictures.append(Picture(Sample(*sample), prediction))
    return confusion, pictures, sizes


def evaluate(
    model: Segmenter,
    domains: dict[str, Dataset[Sample]],
    inference: Inference,
    num_pictures: int = 0,
    workers: int = 0,
    process: tuple[int, int] = (0, 1),
    reduce: Reduce = lambda counts: counts,
) -> tuple[dict[str, dict[str, Any]], dict[str, list[Picture]]]:
    """Score every domain on its own; none is pooled with another.

    Args:
        model: put into eval mode for the time and back.
        domains: data by name.
        inference: how an image is predicted.
        num_pictures: examples to keep of each domain.
        workers: loading processes.
        process: number of this process and how many share the work.
        reduce: sums a tensor of counts over processes.

    Returns:
        Results by domain (see `score`), and this process's examples by domain.
    """
    was_training = model.training
    model.eval()
    results, pictures = {}, {}
    for name, data in domains.items():
        confusion, pictures[name], sizes = evaluate_domain(
            model, data, inference, num_pictures, process, workers
        )
        logger.info("scored %s: %d images", name, len(data))  # type: ignore[arg-type]
        results[name] = {
            "images": len(data),  # type: ignore[arg-type]
            "size": list(Counter(sizes).most_common(1)[0][0]) if sizes else None,
            **score(reduce(confusion), model.classes.names),
        }
    model.train(was_training)
    return results, pictures


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
