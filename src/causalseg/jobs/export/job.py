"""Export a run: write, compare, keep.

The file holds the `WindowModel` of one size. Its classes are compared with the model's on images,
those of int8 by their mIoU on every domain; a file that is too far away is not kept.
"""

import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from causalseg.build.loaded import load
from causalseg.build.window import WindowModel
from causalseg.config import Config
from causalseg.config.load import load_config
from causalseg.engine.metrics import confusion_matrix, score
from causalseg.errors import CausalsegError, ConfigError, RunError, did_you_mean
from causalseg.jobs.export.formats import FORMATS, Format, Order, Outputs, Runner
from causalseg.jobs.export.images import (
    Labelled,
    Pixels,
    images_to_compare,
    labelled_images,
    source_images,
)
from causalseg.jobs.export.precision import Precision
from causalseg.runs.packed import opened
from causalseg.version import __version__
from causalseg.writing import replacing, write_text

_EQUAL = 0.999  # of pixels
_NEAR = 0.05  # of confidence
_IMAGES = 20  # that are compared
CALIBRATED = 100  # training images that int8 is calibrated on
_SCORED = 50  # of every domain


class Exported(NamedTuple):
    """An exported file and how near it is to the model.

    ``equal`` is the fraction of pixels of the same class over ``images`` images, ``difference``
    the largest of confidence, and ``domains`` the mIoU in percent of model and file by domain,
    for int8.
    """

    file: Path
    images: int
    equal: float
    difference: float
    domains: dict[str, tuple[float, float]]


def export_run(
    path: Path | str,
    format: str,
    size: tuple[int, int],
    out: Path,
    checkpoint: str = "last",
    images: str | None = None,
    precision: Precision = "float32",
    max_loss: float = 1.0,
) -> Exported:
    """Export a run for images of ``size``, height and width in pixels.

    ``images`` are compared, as `predict` takes them; None takes those of the run's domains. int8
    needs the run's training images and domains, none of which may lose more than ``max_loss``
    points of mIoU.

    Raises ConfigError if a format, size or package is wrong, RunError if the file and the model
    differ, and MissingFileError or DataError without images to compare.
    """
    if format not in FORMATS:
        raise ConfigError(f"format {format!r}: {did_you_mean(format, FORMATS)}")
    kind = FORMATS[format]
    out = out.resolve()
    if out.suffix != kind.ending or not out.name:
        wanted = f"a file of {format} ends in {kind.ending}"
        raise ConfigError(f"out is {out}: {wanted if kind.ending else 'name a folder'}")
    with opened(path) as run:
        config = load_config(run.need(run.config))
        if precision == "int8" and not config.data.domains:
            raise ConfigError("int8 is scored on the run's domains, and it names none")
        model = WindowModel(load(run, checkpoint=checkpoint).models[0], size)
        about = _describe(Path(path).name, config, model, size, precision)
    pixels = images_to_compare(config, images, size, _IMAGES)
    calibration = source_images(config, size, CALIBRATED) if precision == "int8" else []
    with tempfile.TemporaryDirectory() as name:
        made = Path(name) / out.name
        kind.write(Order(model, about, precision, calibration), made)
        try:
            runner = kind.run(made)
            equal, difference = _compare(model, runner, pixels)
        except CausalsegError:
            raise
        except Exception as error:  # each runtime has kinds of its own
            reason = f"{format} cannot run the {precision} file it was given: {error}"
            raise RunError(
                f"{reason}\nNothing was written: try another format or precision"
            ) from error
        domains: dict[str, tuple[float, float]] = {}
        if precision == "int8":
            domains = _score_domains(config, model, runner)
            _check_loss(domains, max_loss)
            about["miou_of_model_and_file"] = domains
        else:
            _check_equal(format, equal, difference)
        about |= {"compared_images": len(pixels), "equal_pixels": equal}
        about |= {"largest_difference_of_confidence": difference}
        _keep(kind, made, out, about)
    return Exported(out, len(pixels), equal, difference, domains)


def _describe(
    name: str, config: Config, model: WindowModel, size: tuple[int, int], precision: Precision
) -> dict[str, Any]:
    classes = model.model.classes
    return {
        "made_by": f"causalseg {__version__}",
        "run": name,
        "backbone": config.backbone.name,
        "size": list(size),
        "precision": precision,
        "classes": list(classes.names),
        "palette": [list(colour) for colour in classes.palette],
        "label_ids": list(classes.ids),
    }


@torch.inference_mode()
def _compare(model: WindowModel, runner: Runner, pixels: Pixels) -> tuple[float, float]:
    """Return the share of equal pixels and the largest difference; also for a batch of three."""
    equal, difference = [], 0.0
    batches = [pixels[i : i + 1] for i in range(len(pixels))]
    if len(pixels) >= 3:
        batches.append(pixels[:3])
    for batch in batches:
        ours = [output.numpy() for output in model(torch.from_numpy(batch))]
        theirs = runner(batch)
        equal.append(float(np.mean(ours[0] == theirs[0])))
        difference = float(np.maximum(difference, np.abs(ours[1] - theirs[1]).max()))  # NaN stays
    return float(np.mean(equal)), difference


def run_model(model: WindowModel) -> Runner:
    """Return the model itself as a runner."""

    @torch.inference_mode()
    def run(pixels: Pixels) -> Any:
        return [output.numpy() for output in model(torch.from_numpy(pixels))]

    return run


def miou(predicted: list[Outputs], labelled: Labelled) -> float:
    """Return the mIoU in percent of batches of one; NaN if no class is there."""
    confusion: Any = 0
    for (labels, _), label in zip(predicted, labelled.labels, strict=True):
        found = torch.from_numpy(labelled.mapping[labels[0]])
        confusion += confusion_matrix(found, label, len(labelled.names))
    value = score(confusion, labelled.names)["miou"]
    return math.nan if value is None else value


def _score_domains(
    config: Config, model: WindowModel, runner: Runner
) -> dict[str, tuple[float, float]]:
    scores = {}
    for name in config.data.only or config.data.domains:
        images = labelled_images(config, name, model.size, _SCORED)
        ours, theirs = (
            miou([run(pixels) for pixels in images.pixels], images)
            for run in (run_model(model), runner)
        )
        scores[name] = (ours, theirs)
    return scores


def _check_equal(format: str, equal: float, difference: float) -> None:
    if not (equal >= _EQUAL and difference <= _NEAR):
        raise RunError(
            f"{format} gives {equal:.2%} of the pixels the class that the model gives them, "
            f"and its confidence differs by up to {difference:.2g}: nothing was written, since "
            f"{_EQUAL:.1%} and {_NEAR} are needed. Try another format or size"
        )


def _check_loss(domains: dict[str, tuple[float, float]], most: float) -> None:
    lost = [
        f"{name} {ours:.1f} -> {theirs:.1f}"
        for name, (ours, theirs) in domains.items()
        if not math.isnan(ours) and not ours - theirs <= most
    ]
    if lost:
        raise RunError(
            f"int8 loses more than {most:g} points of mIoU ({', '.join(lost)}): nothing was "
            "written. Allow more with --max-loss, or take float16"
        )


def _keep(kind: Format, made: Path, out: Path, about: dict[str, Any]) -> None:
    """Move what was written to its place; the file that is named comes last."""
    note = out / "about.json" if made.is_dir() else out.with_name(f"{out.name}.json")
    if not made.is_dir():
        out.unlink(missing_ok=True)  # its presence says that all are there
    write_text(note, json.dumps(about, indent=2) + "\n")
    parts = [part for part in sorted(made.parent.rglob("*")) if part.is_file() and part != made]
    for part in [*parts, *([made] if made.is_file() else [])]:
        place = out.parent / part.relative_to(made.parent)
        with replacing(place) as temporary:
            shutil.copyfile(part, temporary)
        if part.suffix == ".sh":
            place.chmod(place.stat().st_mode | 0o111)
