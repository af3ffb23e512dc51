"""Predict an image or a folder of images from a run folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from rich.progress import track
from torch import Tensor

from causalseg.build.model import build_segmenter
from causalseg.config import Config
from causalseg.data.classes import ClassList
from causalseg.data.dataset import read_image
from causalseg.data.folders import IMAGE_ENDINGS, list_images
from causalseg.engine.devices import make_fabric
from causalseg.engine.infer import predict
from causalseg.errors import DataError, MissingFileError
from causalseg.jobs.eval import label_ids, open_run, write_png
from causalseg.runs.checkpoint import load_weights
from causalseg.runs.folder import RunFolder
from causalseg.runs.log import console

Predictor = Callable[[Float[Tensor, "3 H W"]], Int[Tensor, "H W"]]
"""From RGB in [0, 1] to train ids."""


def predict_run(
    path: Path | str,
    images: Path,
    out: Path,
    overrides: Sequence[str] = (),
    checkpoint: str = "last",
) -> int:
    """Predict an image or a folder of images in one process; return how many.

    Writes ``out/predictions/STEM.png`` (one channel, the class list's label ids) and
    ``out/overlays/STEM.png`` (the image under the classes' colours). Raises DataError if there is
    no image or one cannot be read; those before it are done.
    """
    run, config = open_run(path, overrides)
    if not images.exists():
        raise MissingFileError(f"no image or folder {images}: check the path")
    files = [images] if images.is_file() else list_images(images)
    if not files:
        raise DataError(f"{images} has no images: {', '.join(IMAGE_ENDINGS)} are read")
    classes, predict_ids = open_predictor(run, config, checkpoint)
    palette = np.array(classes.palette, dtype=np.uint8)
    for file in track(files, "predicting", console=console):
        image = read_image(file)
        prediction = predict_ids(image)
        ids = label_ids(prediction, classes)
        overlay = (255 * image.movedim(0, -1).numpy() + palette[prediction.numpy()]) / 2
        for folder, pixels in (("predictions", ids), ("overlays", overlay.astype(np.uint8))):
            write_png(out / folder / f"{file.stem}.png", Image.fromarray(pixels))
    return len(files)


def open_predictor(run: RunFolder, config: Config, checkpoint: str) -> tuple[ClassList, Predictor]:
    """Return the classes of a run, and a function that predicts train ids in one process."""
    fabric = make_fabric(config.run.model_copy(update={"devices": 1, "nodes": 1}))
    model = build_segmenter(config)
    load_weights(run, model, checkpoint)
    fabric.to_device(model.eval())
    model.merge()

    def predict_ids(image: Float[Tensor, "3 H W"]) -> Int[Tensor, "H W"]:
        with fabric.autocast():
            return predict(model, image.to(fabric.device), config.inference).argmax(0).cpu()

    return model.classes, predict_ids
