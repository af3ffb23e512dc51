"""Train a configuration into its run folder, score it and write a report."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from lightning_fabric import Fabric
from torch.utils.data import Subset

from causalseg.adapters.base import trainable_parameters
from causalseg.build import data
from causalseg.build.consistency import build_consistency
from causalseg.build.model import build_segmenter, start_from
from causalseg.config import Config
from causalseg.config.adapters import has_open_band
from causalseg.config.load import dump_config, list_differences, load_config
from causalseg.config.stages import Stage, stage_of
from causalseg.data.augment import Augment
from causalseg.data.loader import AugmentedData, Draws
from causalseg.engine.devices import make_fabric, raising_in_all
from causalseg.engine.evaluate import Domain, ExampleImages
from causalseg.engine.meter import peak_memory
from causalseg.engine.train import train
from causalseg.errors import ConfigError, RunError
from causalseg.jobs.eval import about_checkpoint, score_model, seen_domains, write_results
from causalseg.jobs.spectrum.auto import with_measured_band
from causalseg.model import Segmenter
from causalseg.report.gain import find_gain
from causalseg.runs.checkpoint import read_checkpoint
from causalseg.runs.folder import RunFolder, locked
from causalseg.runs.log import RunLog, logger
from causalseg.runs.scores import Scores
from causalseg.runs.trackers import check_trackers
from causalseg.writing import write_text


class Prepared(NamedTuple):
    """All that a training needs; nothing is written yet."""

    fabric: Fabric
    config: Config  # with what was found: checksum, measured band, steps
    model: Segmenter
    images: AugmentedData
    draws: Draws
    domains: dict[str, Domain]
    began: str  # what run.init gave
    missing: str  # classes without a pixel, for people


def train_run(config: Config) -> RunFolder:
    """Train a configuration into its run folder: weights, log, scores and report.

    Raises CausalsegError before a file is written if configuration, data or weights are wrong, or
    the folder holds a run that this one may not replace or go on with.
    """
    run = RunFolder(config.run.out)
    ready = prepare(config)
    fabric, config, model = ready.fabric, ready.config, ready.model
    with _held(fabric, run):
        _check_folder(fabric, run, config)  # another may have trained into it meanwhile
        if fabric.is_global_zero:
            run.remove_leftovers(config.run.resume)
            write_text(run.config, dump_config(config))
            logger.info(
                "%s: %d trainable parameters, %d training images, %s on %s",
                run.path,
                trainable_parameters(model),
                len(ready.images),
                fabric.strategy.precision.precision,
                fabric.device,
            )
            if ready.began:
                logger.info("begins with %s", ready.began)
            if ready.missing:
                logger.warning("%s", ready.missing)

        score = _Scores(fabric, run, model, ready.domains, config)
        what = (ready.images, ready.draws, config.train, config.run)
        train(fabric, model, *what, score, config.eval.every)
        if fabric.is_global_zero and (gain := find_gain(run)):
            logger.info("gain over the frozen backbone (%s): %s", gain.folder, gain.text)
    return run


def prepare(config: Config) -> Prepared:
    """Build model and data of a training and check everything; raises as `train_run` does."""
    run = RunFolder(config.run.out)
    check_trackers(config.run.trackers)
    _check_processes(config)
    fabric = make_fabric(config.run)
    config = data.with_classes_inside(config)
    done = _check_folder(fabric, run, config)
    if config.run.resume:
        config = _as_it_began(run, config)
    model = build_segmenter(config)
    config = config.with_options("backbone", sha256=model.backbone.sha256)
    sources, domains = data.build_data(config.data, config.inference)
    if has_open_band(config.adapter):
        model.to(fabric.device)
        config = with_measured_band(config, model, sources)
        model = build_segmenter(config)
    is_new = not config.run.resume
    began = start_from(config.run.init, model, config) if config.run.init and is_new else ""
    if config.run.resume:
        _check_count(run, len(sources))
    config = data.with_steps(config, len(sources))
    if config.consistency:
        model.consistency = build_consistency(config.consistency, model, sources, config.train.crop)
    if done > config.train.steps:
        raise RunError(f"{run.path} has done {done} steps: train.steps must be {done} or more")
    workers = config.train.workers
    # A checkpoint holds the counts that the head began with.
    counts = None if config.run.resume else data.count_for_head(model, sources, workers)
    draws = data.build_draws(config.data, sources, config.run.seed, workers, counts)
    images = AugmentedData(sources, Augment(config.train.crop, config.train.augment), draws)
    missing = data.find_missing_classes(model.classes, sources, counts, workers)
    return Prepared(fabric, config, model, images, draws, domains, began, missing)


@dataclass
class _Scores:
    """Scores a model in training and at its end.

    In training, and for `run.best` also at the end, eval.limit images of each domain are scored;
    the results are those of all images.
    """

    fabric: Fabric
    run: RunFolder
    model: Segmenter
    domains: dict[str, Domain]
    config: Config

    def __call__(self, step: int, is_last: bool, log: RunLog | None) -> float | None:
        """Score after a step and return the value of `run.best`; write the results of the last."""
        if log:  # before scoring: what training needs
            log.memory(step, peak_memory(self.fabric.device))
        best, options = self.config.run.best, self.config.eval
        limited, candidate = limit_images(self.domains, options.limit), None
        if is_last and best and options.limit is not None:
            candidate, _ = self._score(limited, 0)
        num_pictures = options.pictures if is_last else 0
        scores, pictures = self._score(self.domains if is_last else limited, num_pictures)
        for name, domain in scores.domains.items():
            if log and domain.miou is None:
                logger.warning("domain %s has no labelled pixel, so it has no score", name)
        if log:
            mious = {name: domain.miou for name, domain in scores.domains.items()}
            log.eval(step, mious, scores.mean.miou)
        if is_last:
            used = about_checkpoint(self.config, {"name": "last"})
            final = scores.model_copy(update={"checkpoint": used})
            write_results(self.fabric, self.run, self.config, final, pictures, self.domains)
        return (candidate or scores).miou_of(best.removesuffix(".miou")) if best else None

    def _score(
        self, domains: dict[str, Domain], num_pictures: int
    ) -> tuple[Scores, dict[str, list[ExampleImages]]]:
        seen = seen_domains(self.config, self.config)
        return score_model(self.fabric, self.model, domains, seen, self.config, num_pictures)


def _check_processes(config: Config) -> None:
    """Raise ConfigError if batch or strategy do not fit the processes, before they are started."""
    run, train = config.run, config.train
    processes = run.devices * run.nodes
    if train.batch % (processes * train.accumulate):
        raise ConfigError(
            f"train.batch = {train.batch} does not divide over run.devices x run.nodes = "
            f"{processes} processes with train.accumulate = {train.accumulate} parts each: make it "
            f"a multiple of {processes * train.accumulate}"
        )
    if processes == 1 and run.strategy != "auto":
        raise ConfigError(
            f"run.strategy = {run.strategy} needs several processes: set run.devices or run.nodes, "
            "or leave it at auto"
        )


@contextmanager
def _held(fabric: Fabric, run: RunFolder) -> Iterator[None]:
    """Lock the run folder by the first process; RunError in all if another one has it."""
    with ExitStack() as stack:
        with raising_in_all(fabric):
            if fabric.is_global_zero:
                stack.enter_context(locked(run.path))
        yield


def _check_folder(fabric: Fabric, run: RunFolder, config: Config) -> int:
    """Refuse to overwrite a run or to resume another one; return its number of finished steps."""
    done = 0
    with raising_in_all(fabric):
        if fabric.is_global_zero:
            done = _check_resume(run, config) if config.run.resume else _check_unused(run)
    return fabric.broadcast(done)


def _check_unused(run: RunFolder) -> int:
    if any(file.exists() for file in (run.checkpoint, run.adapter, run.head)):
        can = "go on with run.resume=true" if run.checkpoint.exists() else "use eval or predict"
        raise RunError(
            f"{run.path} already holds a run: {can}, choose another folder with run.out, or "
            "delete this one"
        )
    return 0


def _check_resume(run: RunFolder, config: Config) -> int:
    if run.head.exists() and not run.checkpoint.exists():
        raise RunError(
            f"{run.path} is finished and has no last.ckpt to go on from: use it with eval or "
            "predict, or train into another folder with run.out"
        )
    done = read_checkpoint(run)["step"]
    free = Stage.RESUME if config.run.best else Stage.RESUME | Stage.SCORES
    if rows := list_changes(run, config, free):
        heading = f"{run.path} cannot go on as another run; these options differ:"
        hint = f"resume with {run.config}, or choose another folder with run.out"
        raise RunError("\n".join([heading, *rows, hint]))
    return done


def _as_it_began(run: RunFolder, config: Config) -> Config:
    """Return the configuration with the weight file and the band that a run began with."""
    stored = load_config(run.config)
    config = config.with_options("backbone", sha256=stored.backbone.sha256)
    if has_open_band(config.adapter):
        config = config.model_copy(update={"adapter": stored.adapter})
    return config


def list_changes(run: RunFolder, config: Config, free: Stage) -> list[str]:
    """Return lines on options that differ from those of a run and are not marked as ``free``."""
    changed = list_differences(load_config(run.need(run.config)), config)
    return [
        f"  {key}: the run has {theirs}, now {ours}"
        for key, (theirs, ours) in changed.items()
        if not stage_of(Config, key) & free
    ]


def _check_count(run: RunFolder, count: int) -> None:
    """Refuse another number of training images: they would come in another order."""
    counts = [event.get("images") for event in run.read_log() if event["event"] == "start"]
    before = next((number for number in counts if number is not None), count)
    if before != count:
        raise RunError(
            f"{run.path} began with {before} training images and there are {count} now: bring the "
            "data back to what it was, or train into another folder with run.out"
        )


def limit_images(domains: dict[str, Domain], limit: int | None) -> dict[str, Domain]:
    """Return at most ``limit`` images of each domain, spread evenly."""
    if limit is None:
        return domains
    limited = {}
    for name, domain in domains.items():
        count = len(domain.data)  # type: ignore[arg-type]
        used = min(limit, count)
        chosen = [number * count // used for number in range(used)]
        unknown = None if domain.unknown is None else Subset(domain.unknown, chosen)
        limited[name] = domain._replace(data=Subset(domain.data, chosen), unknown=unknown)
    return limited
