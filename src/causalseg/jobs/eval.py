"""Score a model on its domains; write eval.json, images, card and report into the run folder."""

import itertools
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor

from causalseg.adapters.base import trainable_parameters
from causalseg.build.data import build_domains
from causalseg.build.model import build_segmenter
from causalseg.config import Config
from causalseg.config.adapters import label
from causalseg.config.data import CorruptConfig
from causalseg.config.load import load_config
from causalseg.config.settings import list_overrides
from causalseg.config.stages import Stage, keys_of, stage_of
from causalseg.data.classes import ClassList
from causalseg.data.dataset import Sample
from causalseg.engine.bootstrap import interval
from causalseg.engine.devices import make_fabric
from causalseg.engine.evaluate import Domain, ExampleImages, Keep, evaluate, summarise
from causalseg.engine.metrics import read_counts
from causalseg.engine.prediction import label_ids, write_png
from causalseg.engine.robustness import summarise_robustness
from causalseg.errors import CausalsegError, ConfigError, RunError
from causalseg.model import Segmenter
from causalseg.report import write_report
from causalseg.report.card import write_card
from causalseg.runs.checkpoint import load_weights
from causalseg.runs.folder import RunFolder, open_scored
from causalseg.runs.log import logger
from causalseg.runs.scores import VERSION, Checkpoint, Scores, read_scores, write_scores
from causalseg.runs.seal import sum_of

_HARDWARE = ("run.accelerator", "run.devices", "run.nodes")
_LONGEST = 100  # letters in the name of an evaluation
# How weights were chosen in training need not fit the domains that a run is scored on later.
_WITHOUT_CHOICE = ("run.best=null", "run.patience=null", "run.allow_target=false")


def eval_run(
    path: Path | str,
    overrides: Sequence[str] = (),
    corruptions: Sequence[str] = (),
    severities: Sequence[int] = (3,),
    are_predictions_saved: bool = False,
    checkpoint: str = "last",
    name: str | None = None,
) -> RunFolder:
    """Score a trained run on its domains and write scores, pictures and report.

    Without options that scores depend on, these are the scores of training, replaced together with
    the card; so are the first of a run without scores. Others go to evals/NAME in the run folder,
    under ``name`` or one made of the options; RunError if evals/NAME was scored with other options.

    A ``setting`` among the overrides replaces domains and sizes. Each corruption adds a domain
    DOMAIN_CORRUPTION for every clean one, with several severities, 1 to 5,
    DOMAIN_CORRUPTION_SEVERITY; the mean is then over those. Predictions are saved as
    predictions/DOMAIN/NAME.png, one channel of label ids. ``checkpoint`` is as in `load_weights`.
    """
    run, config = open_run(path, overrides)
    trained = load_config(run.config)
    sources = seen_domains(config, trained)
    applied = list(overrides)
    if corruptions:
        config = _with_corruptions(config, corruptions, severities)
        applied.append(f"corrupt={','.join(corruptions)}")
        applied.append(f"severity={','.join(map(str, severities))}")
    if checkpoint != "last":
        applied.append(f"checkpoint={_name_weights(run, checkpoint)}")
    run = _choose_evaluation(run, applied, name)
    domains = build_domains(config.data, config.inference)
    fabric = make_fabric(config.run)
    model = build_segmenter(config)
    about = load_weights(run, model, checkpoint)
    if run.results != run.path and checkpoint == "last":
        about["weights"] = sum_of(run, run.head)
    used = about_checkpoint(trained, about)
    fabric.to_device(model)

    def keep(name: str, sample: Sample, prediction: Int[Tensor, "H W"]) -> None:
        if are_predictions_saved:
            ids = Image.fromarray(label_ids(prediction.numpy(), domains[name].classes))
            write_png(run.predictions / name / f"{sample.name}.png", ids)

    if are_predictions_saved and fabric.is_global_zero:
        shutil.rmtree(run.predictions, ignore_errors=True)
    fabric.barrier()
    scores, pictures = score_model(
        fabric, model, domains, sources, config, config.eval.pictures, keep
    )
    scores = scores.model_copy(update={"overrides": applied, "checkpoint": used})
    write_results(fabric, run, config, scores, pictures, domains)
    return run


def check_runs(
    paths: Sequence[Path], overrides: Sequence[str], baseline: Path | None = None
) -> None:
    """Find mistakes before the first run is scored: missing or repeated runs, other devices."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise RunError("a run folder is given twice: name each once")
    configs = [open_run(path, overrides)[1].run for path in paths]
    if len({(run.accelerator, run.devices, run.nodes) for run in configs}) > 1:
        raise RunError(
            "the runs request different devices: set run.accelerator, run.devices and run.nodes "
            "for all of them, such as run.devices=1"
        )
    if baseline is not None and baseline.resolve() not in {path.resolve() for path in paths}:
        read_scores(open_scored(baseline))


def open_run(path: Path | str, overrides: Sequence[str]) -> tuple[RunFolder, Config]:
    """Return a run and its configuration with overrides; ConfigError if one is not for use."""
    run = RunFolder(path)
    expanded = []
    for override in overrides:
        key, _, value = override.partition("=")
        expanded += list_overrides(value) if key == "setting" else [override]
    for override in expanded:
        stage = stage_of(Config, override.partition("=")[0])
        if Stage.TRAINING in stage:
            raise ConfigError(f"override {override!r} has no effect after training: drop it")
        if Stage.USE not in stage:
            raise ConfigError(
                f"override {override!r} would have no effect on a trained run or make it another "
                f"model; allowed are {', '.join(keys_of(Config, Stage.USE))}"
            )
    return run, load_config(run.need(run.config), [*expanded, *_WITHOUT_CHOICE] if expanded else [])


def about_checkpoint(trained: Config, weights: dict[str, Any]) -> Checkpoint:
    """Return the entry of eval.json on weights, from that of `load_weights`."""
    if trained.run.allow_target and trained.run.patience is not None:
        weights = {**weights, "allow_target": True}  # a target domain could end the training
    return Checkpoint.model_validate(weights)


def seen_domains(config: Config, trained: Config) -> list[str]:
    """Return the in-distribution domains: those of the trained run that `data.mean_over` omits.

    Domains added after training count only if `data.mean_over` was changed too.
    """
    known = trained.data.domains
    is_same = config.data.mean_over == trained.data.mean_over
    return [name for name in config.data.seen if name in known or not is_same]


def score_model(
    fabric: Fabric,
    model: Segmenter,
    domains: dict[str, Domain],
    sources: Sequence[str],
    config: Config,
    num_pictures: int,
    keep: Keep = lambda *_: None,
) -> tuple[Scores, dict[str, list[ExampleImages]]]:
    """Score on all processes; return the scores and the pictures of this process."""
    with fabric.autocast():
        results, pictures = evaluate(
            model,
            domains,
            num_pictures,
            config.train.workers,
            (fabric.global_rank, fabric.world_size),
            lambda share: [fabric.broadcast(share, rank) for rank in range(fabric.world_size)],
            keep,
        )
    content = summarise(results, config.inference, config.data.averaged)
    for name, result in results.items():
        result["miou_interval"] = _interval(results, [name])
    over = content["mean"]["over"]
    content["mean"]["interval"] = _interval(results, over)
    is_consistent, is_adapted = config.consistency is not None, model.band_gains is not None
    content |= {
        "version": VERSION,
        "model": {
            "backbone": config.backbone.name,
            "weights": config.backbone.weights,
            "repair": config.backbone.repair,
            "adapter": label(config.adapter, config.intervene, is_consistent, is_adapted),
            "head": config.head.name,
            "trainable_parameters": trainable_parameters(model),
            "adapter_parameters": trainable_parameters(model.adapter) if model.adapter else 0,
        },
        "classes": {"names": model.classes.names, "palette": model.classes.palette},
    }
    in_distribution = [name for name in sources if name in results]
    content["robustness"] = summarise_robustness(results, over, in_distribution)
    return Scores.model_validate(content), pictures


def write_results(
    fabric: Fabric,
    run: RunFolder,
    config: Config,
    scores: Scores,
    pictures: dict[str, list[ExampleImages]],
    domains: dict[str, Domain],
) -> None:
    """Write eval.json, pictures, card and report."""
    if fabric.is_global_zero:
        shutil.rmtree(run.pictures, ignore_errors=True)
        write_scores(run, scores)
    fabric.barrier()
    for name, examples in pictures.items():
        _write_pictures(run.pictures / name, examples, domains[name].classes)
    fabric.barrier()
    if fabric.is_global_zero:
        if run.results == run.path:
            write_card(run, config)
        write_report([run], run.report)
        if run.results != run.path:
            _refresh_report(RunFolder(run.path))
    fabric.barrier()


def _choose_evaluation(run: RunFolder, applied: Sequence[str], name: str | None) -> RunFolder:
    """Return the run with the evaluation that scores with these options belong to."""
    options = _decisive(applied)
    if name is None:
        if not options or not run.eval.is_file() or options == _scored_with(run):
            return run
        name = re.sub(r"[^\w.]+", "-", "-".join(options)).strip("-.")[:_LONGEST]
    if not re.fullmatch(r"\w[\w.-]*", name) or len(name) > _LONGEST:
        text = f"letters, digits, dots and hyphens, {_LONGEST} at most"
        raise ConfigError(f"--name {name!r}: an evaluation is named by {text}")
    chosen = RunFolder(run.path, name)
    if chosen.eval.is_file():
        try:
            before = _scored_with(chosen)
        except CausalsegError as error:
            logger.warning("%s: scored again", error)
            return chosen
        if before != options:
            raise RunError(
                f"{chosen.results} was scored with {', '.join(before) or 'no options'}: choose "
                "another --name, or delete it"
            )
    return chosen


def _name_weights(run: RunFolder, checkpoint: str) -> str:
    """Return the name of weights, with the folder they are in where that is not the run's."""
    path = Path(checkpoint)
    if not path.exists() or (run.path / checkpoint).exists():
        return checkpoint
    is_inside = path.resolve().is_relative_to(run.path.resolve())
    return path.name if is_inside else f"{path.resolve().parent.name}/{path.name}"


def _scored_with(run: RunFolder) -> list[str]:
    return _decisive(read_scores(run).overrides or [])


def _refresh_report(trained: RunFolder) -> None:
    """Let the report of training name a new evaluation; a run without readable scores has none."""
    if trained.eval.is_file():
        try:
            write_report([trained], trained.report)
        except CausalsegError as error:
            logger.warning("the report of training was not made again: %s", error)


def _decisive(overrides: Sequence[str]) -> list[str]:
    """Keep the overrides that scores depend on: not where the data are, nor on what it runs."""
    keys = {override: override.partition("=")[0] for override in overrides}
    return [
        override
        for override, key in keys.items()
        if Stage.COMPARE not in stage_of(Config, key) and key not in _HARDWARE
    ]


def _interval(
    results: dict[str, dict[str, Any]], names: Sequence[str]
) -> tuple[float, float] | None:
    images = [results[name]["per_image"] for name in names]
    counts = [read_counts(each["counts"]) for each in images]
    return interval(counts, [each["names"] for each in images])


def _with_corruptions(
    config: Config, corruptions: Sequence[str], severities: Sequence[int]
) -> Config:
    data, corrupted = config.data, {}
    for name, domain in data.domains.items():
        if domain.corrupt or name not in (data.only or data.domains):
            continue
        for corruption, severity in itertools.product(corruptions, severities):
            key = f"{name}_{corruption}" + (f"_{severity}" if len(severities) > 1 else "")
            corrupt = CorruptConfig(name=corruption, severity=severity)
            corrupted[key] = domain.model_copy(update={"corrupt": corrupt})
    if not corrupted:
        raise ConfigError("every domain is corrupted already: --corrupt needs a clean one")
    if taken := sorted(corrupted.keys() & data.domains.keys()):
        raise ConfigError(f"there is a domain {taken[0]} already: score it without --corrupt")
    only = None if data.only is None else [*data.only, *corrupted]
    domains = data.domains | corrupted
    return config.with_options("data", domains=domains, mean_over=list(corrupted), only=only)


def _write_pictures(folder: Path, examples: list[ExampleImages], classes: ClassList) -> None:
    """Write image, truth and prediction; the last two are train ids with a palette."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(classes.names)] = np.array(classes.palette)
    for picture in examples:
        write_png(folder / f"{picture.name}_image.png", picture.image)
        for kind, ids in (("truth", picture.truth), ("prediction", picture.prediction)):
            ids.putpalette(palette.tobytes())
            write_png(folder / f"{picture.name}_{kind}.png", ids)
