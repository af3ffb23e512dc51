"""What the commands do: train, evaluate and predict, each from and into a run folder."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric import Fabric
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch.utils.data import Dataset, Subset

from causalseg.adapters.base import trainable_parameters
from causalseg.build import (
    build_augment,
    build_domains,
    build_inference,
    build_segmenter,
    build_sources,
    with_classes_inside,
)
from causalseg.cards import write_card
from causalseg.config import Config
from causalseg.configfile import dump_config, load_config
from causalseg.data.classes import ClassList
from causalseg.data.dataset import IMAGE_ENDINGS, Sample, list_images, read_image
from causalseg.data.loader import AugmentedData
from causalseg.engine.devices import make_fabric, reduce
from causalseg.engine.evaluate import Picture, evaluate, summarise
from causalseg.engine.log import RunLog
from causalseg.engine.train import train
from causalseg.errors import DataError, RunError
from causalseg.model import Segmenter
from causalseg.report import write_report
from causalseg.runfolder import RunFolder, replacing, write_json, write_text

logger = logging.getLogger("causalseg")


def train_run(config: Config) -> RunFolder:
    """Train a configuration into its run folder: weights, log, scores and report.

    Raises:
        RunError: if the folder already holds a run and ``run.resume`` is off.
        CausalsegError: for anything wrong with configuration, data or weights, before a file is
            written.
    """
    run = RunFolder(config.run.out)
    fabric = make_fabric(config.run)
    _check_folder(fabric, run, config)
    model = build_segmenter(config)
    data = AugmentedData(build_sources(config), build_augment(config))
    domains = build_domains(config)
    if fabric.is_global_zero:
        write_text(run.config, dump_config(with_classes_inside(config)))
    logger.info(
        "%s: %d trainable parameters, %d training images, %s on %s",
        *(run.path, trainable_parameters(model), len(data), fabric.strategy.precision.precision),
        fabric.device,
    )

    def score(step: int, log: RunLog | None) -> None:
        is_last = step == config.train.steps
        chosen = domains if is_last else _limited(domains, config.eval.limit)
        results = _evaluate(fabric, model, chosen, config, run if is_last else None)
        if log:
            mious = {name: result["miou"] for name, result in results["domains"].items()}
            log.eval(step, mious, results["mean"]["miou"])

    train(fabric, model, data, config.train, config.run, score, config.eval.every)
    if fabric.is_global_zero:
        write_card(run)
        write_report([run], run.report)
    return run


def eval_run(path: Path | str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Score a trained run on its domains; write eval.json, pictures and report anew.

    Args:
        path: the run folder.
        overrides: of its configuration, such as ``eval.flip=true`` or other ``data.domains``.

    Returns:
        The content of eval.json.
    """
    run = RunFolder(path)
    config = load_config(run.need(run.config), overrides)
    fabric = make_fabric(config.run)
    model = build_segmenter(config)
    model.load(run.path)
    fabric.to_device(model)
    results = _evaluate(fabric, model, build_domains(config), config, run)
    if fabric.is_global_zero:
        write_card(run)
        write_report([run], run.report)
    return results


def predict_run(path: Path | str, images: Path, out: Path, overrides: Sequence[str] = ()) -> int:
    """Predict an image or a folder of images; return how many.

    Writes ``out/labels/STEM.png`` (one channel, the class list's label ids) and
    ``out/overlays/STEM.png`` (the image under the classes' colours).

    Raises:
        DataError: if there is no image or one cannot be read; those before it are done.
    """
    run = RunFolder(path)
    config = load_config(run.need(run.config), overrides)
    files = [images] if images.is_file() else list_images(images)
    if not files:
        raise DataError(f"{images} has no images: {', '.join(IMAGE_ENDINGS)} are read")
    fabric = make_fabric(config.run)
    model = build_segmenter(config)
    model.load(run.path)
    fabric.to_device(model.eval())
    inference = build_inference(config)
    label_ids = np.array(model.classes.ids)
    for file in track(files, "predicting", console=Console(stderr=True)):
        image = read_image(file)
        with fabric.autocast():
            prediction = inference(model, image.to(fabric.device)).argmax(0).cpu().numpy()
        ids = label_ids[prediction].astype(np.uint8 if label_ids.max() < 256 else np.uint16)
        overlay = (255 * image.movedim(0, -1).numpy() + _palette(model.classes)[prediction]) / 2
        for folder, pixels in (("labels", ids), ("overlays", overlay.astype(np.uint8))):
            _write_png(out / folder / f"{file.stem}.png", Image.fromarray(pixels))
    return len(files)


def _check_folder(fabric: Fabric, run: RunFolder, config: Config) -> None:
    """Refuse to write over a run, on all processes alike."""
    problem = None
    if fabric.is_global_zero:
        is_used = run.checkpoint.exists() or run.adapter.exists() or run.head.exists()
        if is_used and not config.run.resume:
            problem = (
                f"{run.path} already holds a run: go on with run.resume=true, or choose another "
                "folder with run.out"
            )
        elif config.run.resume and not run.checkpoint.exists():
            problem = f"{run.path} has no last.ckpt to resume from: train without run.resume"
    problem = fabric.broadcast(problem)
    if problem:
        raise RunError(problem)


def _limited(domains: dict[str, Dataset[Sample]], limit: int | None) -> dict[str, Dataset[Sample]]:
    """Return at most ``limit`` images of each domain, spread evenly."""
    if limit is None:
        return domains
    counts = {name: len(data) for name, data in domains.items()}  # type: ignore[arg-type]
    return {
        name: Subset(data, range(0, counts[name], max(1, -(-counts[name] // limit))))
        for name, data in domains.items()
    }


def _evaluate(
    fabric: Fabric,
    model: Segmenter,
    domains: dict[str, Dataset[Sample]],
    config: Config,
    run: RunFolder | None,
) -> dict[str, Any]:
    """Score on all processes; with a run folder, write eval.json and the pictures."""
    inference = build_inference(config)
    with fabric.autocast():
        results, pictures = evaluate(
            model,
            domains,
            inference,
            config.eval.pictures if run else 0,
            config.train.workers,
            (fabric.global_rank, fabric.world_size),
            lambda counts: reduce(fabric, counts, "sum"),
        )
    content = {
        "model": {
            "backbone": config.backbone.name,
            "weights": config.backbone.weights,
            "adapter": config.adapter.name,
            "head": config.head.name,
            "trainable_parameters": trainable_parameters(model),
        },
        "classes": {"names": model.classes.names, "palette": model.classes.palette},
        **summarise(results, inference, config.data.mean_over),
    }
    if run:
        if fabric.is_global_zero:
            shutil.rmtree(run.pictures, ignore_errors=True)
            write_json(run.eval, content)
        fabric.barrier()
        _write_pictures(run, pictures, model.classes)
        fabric.barrier()
    return content


def _write_pictures(run: RunFolder, pictures: dict[str, list[Picture]], classes: ClassList) -> None:
    """Write image, truth and prediction; the last two hold train ids under the class colours."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(classes.names)] = _palette(classes)
    for domain, examples in pictures.items():
        for sample, prediction in examples:
            stem = run.pictures / domain / sample.name
            image = (255 * sample.image.movedim(0, -1)).round().byte().numpy()
            _write_png(stem.with_name(f"{stem.name}_image.png"), Image.fromarray(image))
            for kind, ids in (("truth", sample.label), ("prediction", prediction)):
                coloured = Image.fromarray(ids.byte().numpy())
                coloured.putpalette(palette.tobytes())
                _write_png(stem.with_name(f"{stem.name}_{kind}.png"), coloured)


def _write_png(path: Path, picture: Image.Image) -> None:
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")


def _palette(classes: ClassList) -> np.ndarray:
    return np.array(classes.palette, dtype=np.uint8)
