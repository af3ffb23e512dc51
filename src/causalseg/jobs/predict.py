"""Predict images, folders, patterns, zip files and videos with a run, or an ensemble of runs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task
from rich.progress import TimeRemainingColumn as Remaining
from rich.text import Text

from causalseg.backbones.timm import FrozenBackbone
from causalseg.build.loaded import LoadedModel, load
from causalseg.build.pairs import decoding_of
from causalseg.config import Config
from causalseg.data.dataset import decode_image
from causalseg.engine.devices import make_fabric
from causalseg.engine.prediction import DEFAULT_KINDS, KINDS, check_kinds, file_of
from causalseg.errors import DataError
from causalseg.jobs.eval import open_run
from causalseg.jobs.pictures import changed_at, find_pictures
from causalseg.jobs.raster import file_of_raster, is_raster, predict_raster
from causalseg.jobs.video import PredictedVideo, file_of_video, is_complete, predict_video
from causalseg.runs.log import console
from causalseg.runs.packed import HUB, opened
from causalseg.writing import write_text

_NOTE = "predict.json"  # what the predictions in a folder depend on


class Predicted(NamedTuple):
    """How many images were predicted now, and how many by an earlier call of the same kind."""

    now: int
    before: int


def predict_run(
    path: Path | str,
    images: Path | str,
    out: Path,
    overrides: Sequence[str] = (),
    checkpoint: str = "last",
    is_recursive: bool = True,
    kinds: Sequence[str] = DEFAULT_KINDS,
    others: Sequence[Path | str] = (),
) -> Predicted:
    """Predict images into ``out/KIND/NAME``, in one process.

    ``images`` is an image, a folder with its subfolders, a pattern such as ``photos/*/*.jpg``, or a
    zip file; NAME is the path below it. A TIFF with a georeference is predicted window by window,
    into TIFFs. ``kinds`` are those of `Prediction.save`; ``others`` are
    runs that are averaged with the first. Images that the same runs, weights and options have
    predicted from the same place into ``out`` are not predicted again.

    Raises MissingFileError or DataError if there is no image, ConfigError if a kind or an option is
    wrong, and TrainingError if scores are not finite. Images that cannot be read are skipped and
    named in a DataError at the end.
    """
    check_kinds(kinds)
    own = [(out / kind).resolve() for kind in KINDS]
    model = open_model([path, *others], overrides, checkpoint)
    pictures = find_pictures(str(images), own, is_recursive)
    since = _note([path, *others], model, checkpoint, images, out)
    broken, before = [], 0
    with Progress(
        "predicting", BarColumn(), MofNCompleteColumn(), _Rate(), Remaining(), console=console
    ) as progress:
        for picture in progress.track(pictures):
            is_map = is_raster(Path(picture.where))
            place = file_of_raster if is_map else file_of
            targets = [place(out, kind, picture.name) for kind in kinds]
            if all(_is_made_after(target, picture.changed, since) for target in targets):
                before += 1
                continue
            try:
                if is_map:
                    predict_raster(model, Path(picture.where), out, picture.name, kinds)
                    continue
                image = decode_image(picture.read(), picture.where, decoding_of(model.config.data))
            except DataError as error:
                broken.append(str(error))
                continue
            model.predict(image).save(out, picture.name, kinds)
    if broken:
        shown = "\n".join(["", *broken])
        raise DataError(f"{len(broken)} of {len(pictures)} images were not predicted:{shown}")
    return Predicted(len(pictures) - before, before)


def predict_film(
    path: Path | str,
    source: str,
    out: Path,
    overrides: Sequence[str] = (),
    checkpoint: str = "last",
    others: Sequence[Path | str] = (),
    step: int = 1,
    frames: int | None = None,
) -> PredictedVideo | None:
    """Predict a video or camera as `predict_video`; None if it was done before, as `predict_run`.

    Raises what both raise.
    """
    model = open_model([path, *others], overrides, checkpoint)
    since = _note([path, *others], model, checkpoint, f"{source} {step} {frames}", out)
    file, target = Path(source), file_of_video(out, source)
    if file.is_file() and is_complete(target) and _is_made_after(target, changed_at(file), since):
        return None
    return predict_video(model, source, out, step, frames)


def open_model(
    paths: Sequence[Path | str], overrides: Sequence[str], checkpoint: str
) -> LoadedModel:
    """Return the model of runs, with the device, precision and overrides of the first.

    Overrides of the backbone are for every run. Paths are as for `causalseg.load`. Raises
    ConfigError if an override is not for use.
    """
    with opened(paths[0]) as first:
        _, config = open_run(first.path, overrides)
        fabric = make_fabric(config.run.model_copy(update={"devices": 1, "nodes": 1}))
        precision = config.run.precision
        return load(
            *[first, *paths[1:]],
            device=fabric.device,
            checkpoint=checkpoint,
            precision=precision,
            config=config,
            overrides=[each for each in overrides if each.startswith("backbone.")],
        )


def _describe(
    path: Path | str, backbone: FrozenBackbone, config: Config, checkpoint: str
) -> dict[str, Any]:
    """Return what predictions depend on beside their images."""
    how: dict[str, Any] = {
        "checkpoint": checkpoint,
        "backbone": {"sha256": backbone.sha256, "repair": backbone.repair},
        "inference": config.inference.model_dump(mode="json"),
    }
    how |= {"precision": config.run.precision, **decoding_of(config.data)._asdict()}
    if (own := Path(checkpoint)).exists():
        how["checkpoint_changed"] = own.stat().st_mtime_ns
    if str(path).startswith(HUB):
        with opened(path) as fetched:  # a folder named by the commit
            return {"run": str(fetched.path), **how}
    run = Path(path)
    weights = sorted(run.rglob("*.safetensors")) + sorted(run.glob("*.ckpt"))
    if run.is_file():  # a packed run
        weights = [run]
    stamps = {str(file.relative_to(run)): file.stat().st_mtime_ns for file in weights}
    return {"run": str(run.resolve()), "weights": stamps, **how}


def _note(
    runs: Sequence[Path | str], model: LoadedModel, checkpoint: str, images: Path | str, out: Path
) -> int:
    """Write what predictions depend on, if it changed; return when, in ns."""
    backbones = [each.backbone for each in model.models]
    described = [
        _describe(run, backbone, model.config, checkpoint)
        for run, backbone in zip(runs, backbones, strict=True)
    ]
    made_by: dict[str, Any] = {"runs": described}
    text = json.dumps(made_by | {"images": str(Path(images).resolve())}, indent=2) + "\n"
    note = out / _NOTE
    if not note.is_file() or note.read_bytes() != text.encode():
        write_text(note, text)
    return note.stat().st_mtime_ns


def _is_made_after(target: Path, changed: int, since: int) -> bool:
    """Whether a prediction is newer than its image and than ``since``."""
    return target.is_file() and target.stat().st_mtime_ns >= max(changed, since)


class _Rate(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.1f}/s")
