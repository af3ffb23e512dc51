"""A trained model that predicts images of any kind and size: what `causalseg.load` returns."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from causalseg.build.model import load_run
from causalseg.build.pairs import decoding_of
from causalseg.config import Config
from causalseg.config.adapters import label
from causalseg.config.load import load_config
from causalseg.data.dataset import (
    Decoding,
    decode_image,
    from_array,
    from_pillow,
    read_image,
    scale_size,
)
from causalseg.engine.devices import find_precision
from causalseg.engine.infer import check_scores, model_size, predict_batch
from causalseg.engine.prediction import Prediction
from causalseg.engine.uncertainty import measure
from causalseg.errors import ConfigError, DataError
from causalseg.model import Segmenter
from causalseg.runs.folder import RunFolder
from causalseg.runs.packed import opened

_ROWS = 256  # of a map that are measured at once
_TOGETHER = 2_000_000  # pixels that are predicted at once
ImageLike = Path | str | bytes | Image.Image | np.ndarray | Tensor
"""A file, its content, a picture, an array (H, W, 3) or (H, W), or a tensor (3, H, W)."""


class LoadedModel:
    """One trained model, or an ensemble of several with the same classes; safe to use in threads.

    Attributes:
        models: the models, in eval mode, without gradients.
        config: of the first run; ``eval`` says how images are predicted.
        classes: names and colours of the classes.
    """

    def __init__(self, models: Sequence[Segmenter], config: Config, precision: str = "32-true"):
        self.models, self.config, self.precision = list(models), config, precision
        self.classes, self._how = models[0].classes, config.inference
        for model in models[1:]:
            if model.classes.names != self.classes.names:
                raise ConfigError(
                    "these runs have different classes, so they cannot be averaged: "
                    f"{', '.join(self.classes.names)} and {', '.join(model.classes.names)}"
                )

    @property
    def adapter_name(self) -> str:
        """What adapts the backbone of the first model, as tables name it."""
        return label(self.config.adapter)

    @overload
    def predict(self, image: ImageLike) -> Prediction: ...
    @overload
    def predict(self, image: list[ImageLike]) -> list[Prediction]: ...

    def predict(self, image: ImageLike | list[ImageLike]) -> Prediction | list[Prediction]:
        """Predict an image, or each of a list, as the run's `eval` options say.

        Args:
            image: a path, the content of a file, a PIL image, an array (H, W, 3) or (H, W), or a
                tensor (3, H, W); numbers are 8-bit integers, or floats in [0, 1].

        Raises:
            MissingFileError: if there is no such file.
            DataError: if the image cannot be read, or numbers have another range or shape.
            TrainingError: if the model's scores are not finite.
        """
        if isinstance(image, list):
            return [each for batch in self._batches(image) for each in self._predict(batch)]
        return self._predict(read_any(image, decoding_of(self.config.data))[None])[0]

    def train_ids(self, image: Float[Tensor, "3 H W"]) -> Int[Tensor, "H W"]:
        """Return the predicted classes alone, on the CPU; RGB in [0, 1]."""
        scores = [self._score(model, image[None])[0] for model in self.models]
        if len(scores) == 1:
            return scores[0].argmax(0).cpu()
        return measure([model.head for model in self.models], scores)[0].argmax(0).cpu()

    def _batches(self, images: list[ImageLike]) -> Iterator[Float[Tensor, "b 3 H W"]]:
        """Yield images that follow each other and have one size together, if they are small."""
        batch: list[Tensor] = []
        for image in images:
            pixels = read_any(image, decoding_of(self.config.data))
            fits = (len(batch) + 1) * self._count(pixels) <= _TOGETHER
            if batch and not (fits and pixels.shape == batch[0].shape):
                yield torch.stack(batch)
                batch = []
            batch.append(pixels)
        if batch:
            yield torch.stack(batch)

    def _count(self, image: Float[Tensor, "3 H W"]) -> int:
        """Return the pixels of an image, or of what the model sees of it if that is more."""
        H, W = image.shape[1:]
        size = scale_size(model_size(self._how.resolve(), H, W), max(self._how.scales))
        return max(H * W, size[0] * size[1])

    def _predict(self, images: Float[Tensor, "b 3 H W"]) -> list[Prediction]:
        scores = [self._score(model, images) for model in self.models]
        shown = (255 * images).round().to(torch.uint8).movedim(1, -1).numpy()
        made = []
        for image, *its in zip(shown, *scores, strict=True):
            rows = zip(*(s.split(_ROWS, 1) for s in its), strict=True)
            parts = [self._measure(part) for part in rows]
            maps = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            labels = maps.pop("labels").astype(np.uint8)
            made.append(Prediction(labels, image, self.classes, maps))
        return made

    def _measure(self, scores: Sequence[Float[Tensor, "k h W"]]) -> dict[str, np.ndarray]:
        """Return labels and uncertainty of some rows: few, since each map of k classes is large."""
        probabilities, maps = measure([model.head for model in self.models], scores)
        labels = (scores[0] if len(scores) == 1 else probabilities).argmax(0)
        return {name: values.cpu().numpy() for name, values in {**maps, "labels": labels}.items()}

    def _score(
        self, model: Segmenter, images: Float[Tensor, "b 3 H W"]
    ) -> Float[Tensor, "b k H W"]:
        device = next(model.head.parameters()).device
        is_bf16 = self.precision == "bf16-mixed"
        with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
            scores = predict_batch(model, images.to(device), self._how)
        check_scores(scores)
        return scores.float()


def load(
    *runs: RunFolder | Path | str,
    device: str | torch.device = "cpu",
    checkpoint: str = "last",
    precision: str = "32-true",
    config: Config | None = None,
    overrides: Sequence[str] = (),
) -> LoadedModel:
    """Load trained runs to predict with; several are an ensemble.

    Args:
        runs: run folders of `causalseg train`, zip files of `causalseg pack`, or hub:USER/NAME.
        device: where the models are, such as cpu, cuda or cuda:1.
        checkpoint: last, best, or a file or folder (see `runs.checkpoint.load_weights`).
        precision: 32-true, bf16-mixed, or auto, the faster one here.
        config: instead of that of the first run.
        overrides: of the backbone of every run, such as backbone.repair=defect.

    Raises:
        MissingFileError: if a run or one of its files is not there.
        ConfigError: if the classes of the runs differ.
        WeightsError: if a file of weights is broken or belongs to another model.
        RunError: if a zip file holds no run, or the hub cannot be reached.
    """
    if not runs:
        raise ConfigError("no run to load: name at least one run folder")
    place, models, first = _find_device(device), [], config
    for path in runs:
        with opened(path.path if isinstance(path, RunFolder) else path) as run:
            first = first or load_config(run.need(run.config))
            models.append(load_run(run.path, place, checkpoint, overrides))
        models[-1].merge()
    assert first is not None
    return LoadedModel(models, first, find_precision(precision, place.type))  # type: ignore[arg-type]


def _find_device(device: str | torch.device) -> torch.device:
    try:
        place = torch.device(device)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError) as error:
        count = torch.cuda.device_count()
        known = ["cpu", *(f"cuda:{index}" for index in range(count))]
        text = str(error).splitlines()[0]
        raise ConfigError(f"device {device} ({text}): here there is {', '.join(known)}") from None
    return place


def read_any(image: ImageLike, how: Decoding) -> Float[Tensor, "3 H W"]:
    """Return an image of any kind as RGB in [0, 1], on the CPU."""
    if isinstance(image, bytes):
        return decode_image(image, "given", how)
    if isinstance(image, str | Path):
        return read_image(Path(image), how)
    if isinstance(image, Image.Image):
        try:
            return from_pillow(image.copy(), "given", how)
        except (OSError, SyntaxError) as error:  # a file is read when its pixels are needed
            raise DataError(f"cannot read the image that was given: {error}") from error
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3:
            raise DataError(
                f"a tensor of shape {tuple(image.shape)} is no image: it must be (3, H, W)"
            )
        half = image.dtype in (torch.bfloat16, torch.float16)
        pixels = image.detach().float() if half else image.detach()
        return from_array(pixels.movedim(0, -1).cpu().numpy())
    if isinstance(image, np.ndarray):
        return from_array(image)
    given: Any = type(image).__name__
    raise DataError(
        f"{given} is no image: give a path, bytes, a PIL image, an array (H, W, 3) or a tensor "
        "(3, H, W)"
    )
