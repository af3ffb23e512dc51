"""The training loop, top to bottom. Steps, not epochs; everything random follows from the step."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from torch import Tensor
from torch.optim import AdamW

from causalseg.config.run import RunConfig, TrainConfig
from causalseg.data.loader import (
    AugmentedData,
    Draws,
    StepSampler,
    derive_seed,
    make_loader,
)
from causalseg.data.workers import plain_errors
from causalseg.engine.checkpoint import load_checkpoint, save_checkpoint
from causalseg.engine.log import Meter, RunLog, describe_origin
from causalseg.engine.schedule import is_due, parameter_groups, set_learning_rate
from causalseg.errors import ConfigError
from causalseg.model import Segmenter
from causalseg.runfolder import RunFolder

Evaluate = Callable[[int, RunLog | None], None]
"""Called with the steps done and, on the first process, the log."""


def train(
    fabric: Fabric,
    model: Segmenter,
    data: AugmentedData,
    draws: Draws,
    options: TrainConfig,
    run_options: RunConfig,
    evaluate: Evaluate,
    evaluate_every: int | None,
) -> None:
    """Train adapter and head; leaves checkpoint, weights and log in the run folder.

    Args:
        fabric: launched; knows devices, processes and precision.
        model: trained in place.
        data: the sources, joined and augmented.
        draws: which image comes when.
        options: steps, batch, optimiser.
        run_options: folder, seed, resume, log and checkpoint intervals.
        evaluate: scores the model; always called after the last step.
        evaluate_every: steps between two evaluations.

    Raises:
        ConfigError: if the batch does not divide over the processes.
        RunError: if a checkpoint cannot be written, or read to resume from.
        TrainingError: if the loss is not finite; the last checkpoint is from before.
    """
    run = RunFolder(run_options.out)
    groups = parameter_groups(model, options.lr, options.adapter_lr, options.weight_decay)
    wrapped, optimizer = fabric.setup(model, AdamW(groups))
    wrapped.mark_forward_method("loss_terms")
    first = load_checkpoint(run, model, optimizer.optimizer) if run_options.resume else 0
    batches = _batches(fabric, data, draws, options, first, run_options.seed)
    log = RunLog(run, options.steps, first) if fabric.is_global_zero else None
    meter = Meter(fabric)
    wrapped.train()
    with log or nullcontext():
        if log:
            log.start(first, {"images": len(data), **describe_origin(fabric)})
        for done, batch in enumerate(meter.timed(batches), start=first + 1):
            # The set loss samples points with torch's global generator: make it follow the step.
            torch.manual_seed(derive_seed(run_options.seed, done, fabric.global_rank))
            set_learning_rate(optimizer.param_groups, done - 1, options.steps, options.power)
            meter.step(_update(fabric, wrapped, optimizer, batch, options.clip))
            is_saving = is_due(done, options.steps, run_options.save_every)
            is_scoring = done < options.steps and is_due(done, options.steps, evaluate_every)
            if is_saving or is_scoring or is_due(done, options.steps, run_options.log_every):
                values = meter.take(done)  # raises before a broken state can be saved
                if log:
                    log.train(done, {**values, "lr": optimizer.param_groups[0]["lr"]})
            if log:
                log.advance(done)
            if is_saving and fabric.is_global_zero:
                save_checkpoint(run, model, optimizer.optimizer, done, run_options.keep)
            if is_scoring:
                evaluate(done, log)
                meter.restart()
        if fabric.is_global_zero:
            model.save(run.path)  # before scoring: the result of training is safe
        evaluate(options.steps, log)


def _update(
    fabric: Fabric,
    model: _FabricModule,
    optimizer: _FabricOptimizer,
    batch: tuple[Tensor, Tensor],
    clip: float | None,
) -> dict[str, Tensor]:
    """Take one optimiser step on images and labels; return the loss and its terms."""
    with fabric.autocast():  # on one device Fabric applies its precision to `forward` alone
        terms = model.loss_terms(*batch)
    loss = torch.stack(list(terms.values())).sum()
    fabric.backward(loss)
    if clip is not None:
        fabric.clip_gradients(model, optimizer, max_norm=clip)
    optimizer.step()
    optimizer.zero_grad()
    return {"loss": loss, **terms}


def _batches(
    fabric: Fabric,
    data: AugmentedData,
    draws: Draws,
    options: TrainConfig,
    first: int,
    seed: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield this process's images and labels of every step from ``first`` on."""
    if options.batch % fabric.world_size:
        raise ConfigError(
            f"train.batch = {options.batch} does not divide over {fabric.world_size} processes"
        )
    process = (fabric.global_rank, fabric.world_size)
    sampler = StepSampler(draws, options.batch, (first, options.steps), seed, process)
    loader = make_loader(data, sampler, options.workers, fabric.device.type == "cuda")
    for sample in plain_errors(loader):
        yield (
            sample.image.to(fabric.device, non_blocking=True),
            sample.label.to(fabric.device, non_blocking=True),
        )
