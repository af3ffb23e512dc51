"""What a model says about one image: classes, how sure it is, pictures and files."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from causalseg.data.classes import IGNORE, ClassList
from causalseg.errors import ConfigError, did_you_mean
from causalseg.writing import replacing, write_text

KINDS = ("predictions", "overlays", "colours", "confidence", "entropy", "shares")
DEFAULT_KINDS = ("predictions", "overlays")


@dataclass(frozen=True)
class Prediction:
    """The prediction of one image of H x W pixels.

    Attributes:
        labels: train ids, the positions in ``classes.names``.
        image: the image, 8 bits a channel.
        classes: names, colours and label ids of the classes.
    """

    labels: Int[np.ndarray, "H W"]
    image: Int[np.ndarray, "H W 3"]
    classes: ClassList
    _maps: dict[str, Float[np.ndarray, "H W"]] = field(default_factory=dict, repr=False)

    @property
    def confidence(self) -> Float[np.ndarray, "H W"]:
        """The probability of the predicted class, 0 to 1."""
        return self._maps["confidence"]

    def scores(self, name: str) -> Float[np.ndarray, "H W"]:
        """Return a map of `causalseg.engine.uncertainty` by name, such as entropy or energy."""
        if name not in self._maps:
            several = "" if len(self._maps) > 3 else "; mutual_information needs several runs"
            raise ConfigError(f"no map {name!r}; {did_you_mean(name, list(self._maps))}{several}")
        return self._maps[name]

    def label_ids(self) -> Int[np.ndarray, "H W"]:
        """Return the class list's label ids, in 8 bits if they fit, else in 16."""
        return label_ids(self.labels, self.classes)

    def overlay(self, opacity: float = 0.5) -> Image.Image:
        """Return the image under the classes' colours, which cover it by ``opacity``, 0 to 1."""
        if not 0 <= opacity <= 1:
            raise ConfigError(f"opacity {opacity}: give a number from 0 to 1")
        mixed = (1 - opacity) * self.image + opacity * self._colours()
        return Image.fromarray(mixed.astype(np.uint8))

    def shares(self) -> dict[str, float]:
        """Return the fraction of pixels of each class that is there, the largest first."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes.names))
        named = zip(self.classes.names, (counts / self.labels.size).tolist(), strict=True)
        return dict(sorted(((n, s) for n, s in named if s), key=lambda pair: -pair[1]))

    def save(
        self, folder: Path | str, name: str = "image", kinds: Sequence[str] = DEFAULT_KINDS
    ) -> list[Path]:
        """Write FOLDER/KIND/NAME.png, and .json for shares, and return the files.

        ``kinds``: predictions (label ids), overlays, colours, confidence and entropy (0 to 1 as
        gray, 0 to 255), shares (of the classes).
        """
        check_kinds(kinds)
        files = [file_of(Path(folder), kind, name) for kind in kinds]
        for file, kind in zip(files, kinds, strict=True):
            if kind == "shares":
                write_text(file, json.dumps(self.shares(), indent=2) + "\n")
            else:
                write_png(file, self.picture(kind))
        return files

    def picture(self, kind: str) -> Image.Image:
        """Return a kind of file, other than shares, as a picture."""
        pictures: dict[str, Callable[[], Any]] = {
            "predictions": lambda: Image.fromarray(self.label_ids()),
            "overlays": self.overlay,
            "colours": lambda: Image.fromarray(self._colours()),
        }
        if kind in pictures:
            return pictures[kind]()
        return Image.fromarray((255 * self.scores(kind).clip(0, 1)).round().astype(np.uint8))

    def _colours(self) -> Int[np.ndarray, "H W 3"]:
        return np.array(self.classes.palette, dtype=np.uint8)[self.labels]


def label_ids(prediction: Int[np.ndarray, "H W"], classes: ClassList) -> Int[np.ndarray, "H W"]:
    """Return the label ids of predicted train ids, in 8 bits if they fit, else in 16."""
    ids = np.array([*classes.ids, classes.ignore[0] if classes.ignore else IGNORE])
    return ids[prediction].astype(np.uint8 if ids.max() < 256 else np.uint16)


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise ConfigError unless every kind of file is known."""
    if not kinds:
        raise ConfigError(f"nothing to write: name at least one of {', '.join(KINDS)}")
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"no output {kind!r}; {did_you_mean(kind, KINDS)}")


def file_of(folder: Path, kind: str, name: str) -> Path:
    """Return the file of a kind of output."""
    return folder / kind / f"{name}.{'json' if kind == 'shares' else 'png'}"


def write_png(path: Path, picture: Image.Image) -> None:
    """Write a PNG file whole or not at all."""
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")
