"""What the commands do: train, evaluate and predict, each from and into a run folder."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric import Fabric
from PIL import Image
from rich.progress import track
from torch.utils.data import Subset

from causalseg.adapters.base import trainable_parameters
from causalseg.build import build_augment, build_inference, build_segmenter
from causalseg.build_data import (
    build_domains,
    build_draws,
    build_sources,
    with_classes_inside,
)
from causalseg.cards import write_card
from causalseg.config import Config
from causalseg.config.adapters import label
from causalseg.config.data import CorruptConfig, DataConfig
from causalseg.config.settings import scored_part
from causalseg.configfile import dump_config, list_differences, load_config
from causalseg.data.classes import ClassList
from causalseg.data.dataset import IMAGE_ENDINGS, list_images, read_image
from causalseg.data.loader import AugmentedData
from causalseg.engine.checkpoint import read_checkpoint
from causalseg.engine.devices import make_fabric
from causalseg.engine.evaluate import Domain, Picture, evaluate, summarise
from causalseg.engine.infer import Inference
from causalseg.engine.log import RunLog, console, logger, peak_memory
from causalseg.engine.train import train
from causalseg.errors import (
    CausalsegError,
    ConfigError,
    DataError,
    MissingFileError,
    RunError,
)
from causalseg.model import Segmenter
from causalseg.report import write_report
from causalseg.runfolder import RunFolder, replacing, write_json, write_text

# What may change when a run goes on, and what may be overridden when one is used.
_FREE_ON_RESUME = (
    *("train.steps", "train.workers", "eval.", "data.domains.", "data.mean_over", "data.root"),
    *("run.out", "run.resume", "run.accelerator", "run.devices", "run.nodes", "run.precision"),
    *("run.threads", "run.log_every", "run.save_every", "run.keep", "backbone.checkpointing"),
)
_FREE_IN_USE = (
    *("eval", "data", "train.workers", "backbone.weights", "backbone.sha256"),
    *("backbone.checkpointing", "run.accelerator", "run.devices", "run.nodes", "run.precision"),
    "run.threads",
)


def train_run(config: Config) -> RunFolder:
    """Train a configuration into its run folder: weights, log, scores and report.

    Raises:
        RunError: if the folder already holds a run and ``run.resume`` is off, or if a resumed
            configuration differs from the run's in what would make it another run.
        CausalsegError: for anything wrong with configuration, data or weights, before a file is
            written.
    """
    run = RunFolder(config.run.out)
    fabric = make_fabric(config.run)
    stored = with_classes_inside(config)
    _check_folder(fabric, run, stored)
    if config.run.resume:  # with the weight file it began with
        stored = _with_checksum(stored, load_config(run.config).backbone.sha256)
    inference = build_inference(config)
    model = build_segmenter(stored)
    stored = _with_checksum(stored, model.backbone.sha256)
    sources = build_sources(config.data)
    domains = build_domains(config.data, inference)
    for dataset in (sources, *(domain.data for domain in domains.values())):
        dataset[0]  # what is wrong everywhere shows now and not after training
    data = AugmentedData(sources, build_augment(config), config.train.augment.class_mix)
    draws = build_draws(config.data, sources, config.run.seed)
    if fabric.is_global_zero:
        run.remove_leftovers()
        write_text(run.config, dump_config(stored))
        logger.info(
            "%s: %d trainable parameters, %d training images, %s on %s",
            *(run.path, trainable_parameters(model), len(data)),
            *(fabric.strategy.precision.precision, fabric.device),
        )

    def score(step: int, log: RunLog | None) -> None:
        if log:  # before scoring: what training needs
            log.memory(step, peak_memory(fabric.device))
        is_last = step == config.train.steps
        chosen = domains if is_last else _limited(domains, config.eval.limit)
        results, pictures = _evaluate(fabric, model, chosen, config, inference)
        if log:
            mious = {name: result["miou"] for name, result in results["domains"].items()}
            log.eval(step, mious, results["mean"]["miou"])
        if is_last:
            _write_scores(fabric, run, results, pictures, domains)

    train(fabric, model, data, draws, config.train, config.run, score, config.eval.every)
    return run


def eval_run(
    path: Path | str,
    overrides: Sequence[str] = (),
    corruptions: Sequence[str] = (),
    severity: int = 3,
) -> RunFolder:
    """Score a trained run on its domains; write eval.json, pictures, card and report anew.

    Args:
        path: the run folder.
        overrides: of its configuration, such as ``eval.flip=true``, other ``data.domains``, or a
            ``setting`` whose domains and sizes take the place of the run's.
        corruptions: each makes of every domain another one, DOMAIN_CORRUPTION; the mean is then
            over those.
        severity: of the corruptions, 1 to 5.
    """
    run, config = _open(path, overrides)
    if corruptions:
        config = _with_corruptions(config, corruptions, severity)
    inference = build_inference(config)
    domains = build_domains(config.data, inference)
    fabric = make_fabric(config.run)
    model = build_segmenter(config)
    model.load(run.path)
    fabric.to_device(model)
    results, pictures = _evaluate(fabric, model, domains, config, inference)
    _write_scores(
        fabric,
        run,
        {**results, "overrides": [*overrides, *_said(corruptions, severity)]},
        pictures,
        domains,
    )
    return run


def _with_corruptions(config: Config, corruptions: Sequence[str], severity: int) -> Config:
    data = config.data
    corrupted = {
        f"{name}_{corruption}": domain.model_copy(
            update={"corrupt": CorruptConfig(name=corruption, severity=severity)}
        )
        for name, domain in data.domains.items()
        if name in (data.only or data.domains)
        for corruption in corruptions
    }
    changed = {
        "domains": {**data.domains, **corrupted},
        "mean_over": list(corrupted),
        "only": None if data.only is None else [*data.only, *corrupted],
    }
    return config.model_copy(update={"data": data.model_copy(update=changed)})


def _said(corruptions: Sequence[str], severity: int) -> list[str]:
    return [f"corrupt={','.join(corruptions)}", f"severity={severity}"] if corruptions else []


def predict_run(path: Path | str, images: Path, out: Path, overrides: Sequence[str] = ()) -> int:
    """Predict an image or a folder of images in one process; return how many.

    Writes ``out/predictions/STEM.png`` (one channel, the class list's label ids) and
    ``out/overlays/STEM.png`` (the image under the classes' colours).

    Raises:
        DataError: if there is no image or one cannot be read; those before it are done.
    """
    run, config = _open(path, overrides)
    if not images.exists():
        raise MissingFileError(f"no image or folder {images}: check the path")
    files = [images] if images.is_file() else list_images(images)
    if not files:
        raise DataError(f"{images} has no images: {', '.join(IMAGE_ENDINGS)} are read")
    inference = build_inference(config)
    fabric = make_fabric(config.run.model_copy(update={"devices": 1, "nodes": 1}))
    model = build_segmenter(config)
    model.load(run.path)
    fabric.to_device(model.eval())
    model.merge()
    label_ids = np.array(model.classes.ids)
    for file in track(files, "predicting", console=console):
        image = read_image(file)
        with fabric.autocast():
            prediction = inference(model, image.to(fabric.device)).argmax(0).cpu().numpy()
        ids = label_ids[prediction].astype(np.uint8 if label_ids.max() < 256 else np.uint16)
        overlay = (255 * image.movedim(0, -1).numpy() + _palette(model.classes)[prediction]) / 2
        for folder, pixels in (("predictions", ids), ("overlays", overlay.astype(np.uint8))):
            _write_png(out / folder / f"{file.stem}.png", Image.fromarray(pixels))
    return len(files)


def _open(path: Path | str, overrides: Sequence[str]) -> tuple[RunFolder, Config]:
    """Return a run and its configuration with overrides that do not make it another model."""
    run = RunFolder(path)
    expanded = []
    for override in overrides:
        key, _, value = override.partition("=")
        expanded += scored_part(value) if key == "setting" else [override]
    for override in expanded:
        if not override.startswith(_FREE_IN_USE):
            raise ConfigError(
                f"override {override!r} would have no effect on a trained run or make it another "
                f"model; allowed are {', '.join(_FREE_IN_USE)}"
            )
    return run, load_config(run.need(run.config), expanded)


def _check_folder(fabric: Fabric, run: RunFolder, config: Config) -> None:
    """Refuse to write over a run or to go on with another one, on all processes alike."""
    problem = None
    if fabric.is_global_zero:
        try:
            (_check_resume if config.run.resume else _check_unused)(run, config)
        except CausalsegError as error:
            problem = str(error)
    problem = fabric.broadcast(problem)
    if problem:
        raise RunError(problem)


def _with_checksum(config: Config, sha256: str | None) -> Config:
    """Return the configuration with the checksum of the weight file that was found."""
    return config.model_copy(
        update={"backbone": config.backbone.model_copy(update={"sha256": sha256})}
    )


def _check_unused(run: RunFolder, config: Config) -> None:
    if any(file.exists() for file in (run.checkpoint, run.adapter, run.head)):
        can = "go on with run.resume=true," if run.checkpoint.exists() else "use eval or predict,"
        raise RunError(
            f"{run.path} already holds a run: {can} choose another folder with run.out, or delete "
            "this one"
        )


def _check_resume(run: RunFolder, config: Config) -> None:
    if run.head.exists() and not run.checkpoint.exists():
        raise RunError(
            f"{run.path} is finished and has no last.ckpt to go on from: use it with eval or "
            "predict, or train into another folder with run.out"
        )
    done = read_checkpoint(run)["step"]
    if done > config.train.steps:
        raise RunError(f"{run.path} has done {done} steps: train.steps must be {done} or more")
    changed = list_differences(load_config(run.need(run.config)), config)
    rows = [
        f"  {key}: the run has {theirs}, now {ours}"
        for key, (theirs, ours) in changed.items()
        if not key.startswith(_FREE_ON_RESUME)
    ]
    if rows:
        raise RunError(
            f"{run.path} cannot go on as another run; these options differ:\n"
            + "\n".join(rows)
            + f"\nResume with {run.config}, or choose another folder with run.out"
        )


def _limited(domains: dict[str, Domain], limit: int | None) -> dict[str, Domain]:
    """Return at most ``limit`` images of each domain, spread evenly."""
    if limit is None:
        return domains
    limited = {}
    for name, domain in domains.items():
        count = len(domain.data)  # type: ignore[arg-type]
        chosen = Subset(domain.data, range(0, count, max(1, -(-count // limit))))
        limited[name] = domain._replace(data=chosen)
    return limited


def _evaluate(
    fabric: Fabric,
    model: Segmenter,
    domains: dict[str, Domain],
    config: Config,
    inference: Inference,
) -> tuple[dict[str, Any], dict[str, list[Picture]]]:
    """Score on all processes; return the content of eval.json and this process's pictures."""
    with fabric.autocast():
        results, pictures = evaluate(
            model,
            domains,
            config.eval.pictures,
            config.train.workers,
            (fabric.global_rank, fabric.world_size),
            lambda share: [fabric.broadcast(share, rank) for rank in range(fabric.world_size)],
        )
    content = {
        "model": {
            "backbone": config.backbone.name,
            "weights": config.backbone.weights,
            "adapter": label(config.adapter, config.intervene),
            "head": config.head.name,
            "trainable_parameters": trainable_parameters(model),
        },
        "classes": {"names": model.classes.names, "palette": model.classes.palette},
        **summarise(results, inference, _averaged(config.data)),
    }
    return content, pictures


def _averaged(data: DataConfig) -> list[str] | None:
    """Return the domains whose mIoU is averaged, of those that are scored."""
    if data.only is None:
        return data.mean_over
    return [name for name in data.only if name in (data.mean_over or data.only)] or data.only


def _write_scores(
    fabric: Fabric,
    run: RunFolder,
    content: dict[str, Any],
    pictures: dict[str, list[Picture]],
    domains: dict[str, Domain],
) -> None:
    """Write eval.json and the pictures, and from them card and report."""
    if fabric.is_global_zero:
        shutil.rmtree(run.pictures, ignore_errors=True)
        write_json(run.eval, content)
    fabric.barrier()
    for name, examples in pictures.items():
        _write_pictures(run.pictures / name, examples, domains[name].classes)
    fabric.barrier()
    if fabric.is_global_zero:
        write_card(run)
        write_report([run], run.report)
    fabric.barrier()


def _write_pictures(folder: Path, examples: list[Picture], classes: ClassList) -> None:
    """Write image, truth and prediction; the last two hold train ids under the class colours."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(classes.names)] = _palette(classes)
    for sample, prediction in examples:
        stem = folder / sample.name
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
