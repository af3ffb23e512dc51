"""Predict an image or a folder of images from a run folder."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from rich.progress import track
from torch import Tensor

from causalseg.build.model import build_segmenter
from causalseg.build.pairs import decoding_of
from causalseg.config import Config
from causalseg.data.classes import ClassList
from causalseg.data.dataset import read_image
from causalseg.data.folders import IMAGE_ENDINGS, list_images
from causalseg.engine.devices import make_fabric
from causalseg.engine.infer import check_scores, predict
from causalseg.errors import DataError, MissingFileError
from causalseg.jobs.eval import label_ids, open_run, write_png
from causalseg.runs.checkpoint import load_weights
from causalseg.runs.folder import RunFolder
from causalseg.runs.log import console
from causalseg.writing import write_text

Predictor = Callable[[Float[Tensor, "3 H W"]], Int[Tensor, "H W"]]
"""From RGB in [0, 1] to train ids."""

_KINDS = ("predictions", "overlays")
_NOTE = "predict.json"  # what the predictions in a folder depend on


class Predicted(NamedTuple):
    """How many images were predicted now, and how many by an earlier call of the same kind."""

    now: int
    before: int


def predict_run(
    path: Path | str,
    images: Path,
    out: Path,
    overrides: Sequence[str] = (),
    checkpoint: str = "last",
    is_recursive: bool = True,
) -> Predicted:
    """Predict an image or a folder of images, with its subfolders, in one process.

    Writes ``out/predictions/PATH.png`` (one channel, the class list's label ids) and
    ``out/overlays/PATH.png`` (the image under the classes' colours), PATH relative to the folder.
    Images that the same run, weights and options have predicted from the same place into ``out``
    are not predicted again.

    Raises MissingFileError or DataError if there is no image, and TrainingError if scores are not
    finite. Images that cannot be read are skipped and named in a DataError at the end.
    """
    run, config = open_run(path, overrides)
    files = _list_files(images, out, is_recursive)
    classes, predict_ids = open_predictor(run, config, checkpoint)
    made_by = _describe(run, config, checkpoint) | {"images": str(images.resolve())}
    since = _note(out / _NOTE, made_by)
    palette = np.array(classes.palette, dtype=np.uint8)
    broken, before = [], 0
    for file, name in track(files.items(), "predicting", console=console):
        targets = [out / kind / f"{name}.png" for kind in _KINDS]
        if all(_is_made_after(target, file, since) for target in targets):
            before += 1
            continue
        try:
            image = read_image(file, decoding_of(config.data))
        except DataError as error:
            broken.append(str(error))
            continue
        prediction = predict_ids(image)
        overlay = (255 * image.movedim(0, -1).numpy() + palette[prediction.numpy()]) / 2
        pictures = (label_ids(prediction, classes), overlay.astype(np.uint8))
        for target, pixels in zip(targets, pictures, strict=True):
            write_png(target, Image.fromarray(pixels))
    if broken:
        shown = "\n".join(["", *broken])
        raise DataError(f"{len(broken)} of {len(files)} images were not predicted:{shown}")
    return Predicted(len(files) - before, before)


def _list_files(images: Path, out: Path, is_recursive: bool) -> dict[Path, str]:
    """Return the image files and their names in ``out``, which may be in the folder of images."""
    if not images.exists():
        raise MissingFileError(f"no image or folder {images}: check the path")
    if images.is_file():
        return {images: images.stem}
    files = list_images(images, is_recursive)
    own = [(out / kind).resolve() for kind in _KINDS]
    files = [file for file in files if not any(file.resolve().is_relative_to(o) for o in own)]
    if not files:
        where = "it and its subfolders have none" if is_recursive else "it has none"
        raise DataError(f"{images} has no images ({', '.join(IMAGE_ENDINGS)}): {where}")
    return {file: file.relative_to(images).with_suffix("").as_posix() for file in files}


def _describe(run: RunFolder, config: Config, checkpoint: str) -> dict[str, Any]:
    """Return what predictions depend on beside their images."""
    weights = sorted(run.path.rglob("*.safetensors")) + sorted(run.path.glob("*.ckpt"))
    stamps = {str(file.relative_to(run.path)): file.stat().st_mtime_ns for file in weights}
    how = {"checkpoint": checkpoint, "inference": config.inference.model_dump(mode="json")}
    how |= decoding_of(config.data)._asdict()
    return {"run": str(run.path.resolve()), "weights": stamps, **how}


def _note(note: Path, made_by: dict[str, Any]) -> int:
    """Write what predictions depend on, if it changed; return when, in ns."""
    text = json.dumps(made_by, indent=2) + "\n"
    if not note.is_file() or note.read_bytes() != text.encode():
        write_text(note, text)
    return note.stat().st_mtime_ns


def _is_made_after(target: Path, image: Path, since: int) -> bool:
    """Whether a prediction is newer than its image and than ``since``."""
    changed = max(image.stat().st_mtime_ns, image.stat().st_ctime_ns)  # a copy may keep its mtime
    return target.is_file() and target.stat().st_mtime_ns >= max(changed, since)


def open_predictor(run: RunFolder, config: Config, checkpoint: str) -> tuple[ClassList, Predictor]:
    """Return the classes of a run, and a function that predicts train ids in one process."""
    fabric = make_fabric(config.run.model_copy(update={"devices": 1, "nodes": 1}))
    model = build_segmenter(config)
    load_weights(run, model, checkpoint)
    fabric.to_device(model.eval())
    model.merge()

    def predict_ids(image: Float[Tensor, "3 H W"]) -> Int[Tensor, "H W"]:
        with fabric.autocast():
            scores = predict(model, image.to(fabric.device), config.inference)
        check_scores(scores)
        return scores.argmax(0).cpu()

    return model.classes, predict_ids
