"""What the commands do: train into a run folder, predict and submit from one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from lightning_fabric import Fabric
from PIL import Image
from rich.progress import track
from torch import Tensor
from torch.utils.data import Subset

from causalseg.adapters.base import trainable_parameters
from causalseg.analysis.gain import find_gain
from causalseg.build import build_augment, build_inference, build_segmenter
from causalseg.build_data import build_data, build_draws, with_classes_inside
from causalseg.config import Config
from causalseg.configfile import dump_config, list_differences, load_config
from causalseg.data.dataset import read_image
from causalseg.data.folders import IMAGE_ENDINGS, list_images
from causalseg.data.loader import AugmentedData
from causalseg.engine.checkpoint import read_checkpoint
from causalseg.engine.devices import make_fabric
from causalseg.engine.evaluate import Domain
from causalseg.engine.log import RunLog, console, logger, peak_memory
from causalseg.engine.train import train
from causalseg.errors import (
    CausalsegError,
    DataError,
    MissingFileError,
    RunError,
)
from causalseg.model import Segmenter
from causalseg.runfolder import RunFolder, write_text
from causalseg.scoring import (
    label_ids,
    open_run,
    score_model,
    seen_domains,
    write_png,
    write_results,
)
from causalseg.submit import write_submission

# What may change when a run goes on.
_FREE_ON_RESUME = (
    *("train.steps", "train.workers", "eval.", "data.domains.", "data.mean_over", "data.only"),
    *("data.root", "data.cache"),
    *("run.out", "run.resume", "run.accelerator", "run.devices", "run.nodes", "run.precision"),
    *("run.threads", "run.log_every", "run.save_every", "run.keep", "backbone.checkpointing"),
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
    sources, domains = build_data(config.data, inference)
    seen = seen_domains(config, config)
    for dataset in (sources, *(domain.data for domain in domains.values())):
        dataset[0]  # what is wrong everywhere shows now and not after training
    if config.run.resume:
        _check_count(run, len(sources))
    draws = build_draws(config.data, sources, config.run.seed, config.train.workers)
    data = AugmentedData(sources, build_augment(config), config.train.augment.class_mix, draws)
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
        num_pictures = config.eval.pictures if is_last else 0
        results, pictures = score_model(
            fabric, model, chosen, seen, config, inference, num_pictures
        )
        if log:
            mious = {name: result["miou"] for name, result in results["domains"].items()}
            log.eval(step, mious, results["mean"]["miou"])
        if is_last:
            write_results(fabric, run, stored, results, pictures, domains)

    train(fabric, model, data, draws, config.train, config.run, score, config.eval.every)
    if fabric.is_global_zero and (gain := find_gain(run)):
        logger.info("gain over head only (%s): %s", gain.folder, gain.text)
    return run


def predict_run(path: Path | str, images: Path, out: Path, overrides: Sequence[str] = ()) -> int:
    """Predict an image or a folder of images in one process; return how many.

    Writes ``out/predictions/STEM.png`` (one channel, the class list's label ids) and
    ``out/overlays/STEM.png`` (the image under the classes' colours).

    Raises:
        DataError: if there is no image or one cannot be read; those before it are done.
    """
    run, config = open_run(path, overrides)
    if not images.exists():
        raise MissingFileError(f"no image or folder {images}: check the path")
    files = [images] if images.is_file() else list_images(images)
    if not files:
        raise DataError(f"{images} has no images: {', '.join(IMAGE_ENDINGS)} are read")
    inference = build_inference(config)
    fabric, model = _ready(run, config)
    palette = np.array(model.classes.palette, dtype=np.uint8)
    for file in track(files, "predicting", console=console):
        image = read_image(file)
        with fabric.autocast():
            prediction = inference(model, image.to(fabric.device)).argmax(0).cpu()
        ids = label_ids(prediction, model.classes)
        overlay = (255 * image.movedim(0, -1).numpy() + palette[prediction.numpy()]) / 2
        for folder, pixels in (("predictions", ids), ("overlays", overlay.astype(np.uint8))):
            write_png(out / folder / f"{file.stem}.png", Image.fromarray(pixels))
    return len(files)


def submit_run(
    path: Path | str, server: str, root: Path, out: Path, overrides: Sequence[str] = ()
) -> int:
    """Predict a server's test images in one process into a zip file; return how many.

    Raises:
        CausalsegError: if the run has other classes than the server, or images are missing; an
            earlier file of that name is untouched.
    """
    run, config = open_run(path, overrides)
    inference = build_inference(config)
    fabric, model = _ready(run, config)

    def predict(image: Float[Tensor, "3 H W"]) -> Int[Tensor, "H W"]:
        with fabric.autocast():
            return inference(model, image.to(fabric.device)).argmax(0).cpu()

    return write_submission(predict, model.classes, server, root, out)


def _ready(run: RunFolder, config: Config) -> tuple[Fabric, Segmenter]:
    """Return one process and on it the trained model, for inference only."""
    fabric = make_fabric(config.run.model_copy(update={"devices": 1, "nodes": 1}))
    model = build_segmenter(config)
    model.load(run.path)
    fabric.to_device(model.eval())
    model.merge()
    return fabric, model


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


def _check_count(run: RunFolder, count: int) -> None:
    """Refuse to go on with another number of training images: they would come in another order."""
    counts = [event.get("images") for event in run.read_log() if event["event"] == "start"]
    before = next((number for number in counts if number is not None), count)
    if before != count:
        raise RunError(
            f"{run.path} began with {before} training images and there are {count} now: bring the "
            "data back to what it was, or train into another folder with run.out"
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
