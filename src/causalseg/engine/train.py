"""The training loop, top to bottom. Steps, not epochs; everything random follows from the step."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from signal import Signals

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from torch import Tensor
from torch.optim import AdamW, Optimizer

from causalseg.config.run import RunConfig, TrainConfig
from causalseg.data.loader import AugmentedData, Draws, StepSampler, derive_seed, make_loader
from causalseg.data.workers import strip_worker_errors
from causalseg.engine.devices import raising_in_all
from causalseg.engine.meter import Meter
from causalseg.engine.schedule import is_due, parameter_groups, set_step
from causalseg.engine.sharding import gathered, shard_frozen
from causalseg.engine.stopping import StopRequest
from causalseg.errors import Terminated
from causalseg.model import Segmenter
from causalseg.runs.average import WeightAverage
from causalseg.runs.best import BestWeights
from causalseg.runs.checkpoint import load_checkpoint, save_checkpoint
from causalseg.runs.folder import RunFolder
from causalseg.runs.log import RunLog
from causalseg.runs.origin import describe_origin
from causalseg.runs.seal import sealing

Evaluate = Callable[[int, bool, RunLog | None], float | None]
"""Called with the steps done, whether they are the last and, on the first process, the log; returns
what run.best measures, in percent."""


_MOST_STEPS = 10  # until several processes agree to stop


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
    """Train adapter and head in place; leaves checkpoint, weights and log in the run folder.

    ``fabric`` is launched, ``data`` are the augmented sources, ``draws`` say which image comes
    when; the batch divides over the processes and parts. The model is evaluated every
    ``evaluate_every`` steps and after the last. Raises ConfigError if its weights cannot be
    sharded, RunError if a checkpoint cannot be written or read, and TrainingError if the loss is
    not finite.
    """
    steps = options.steps
    wrapped, optimizer = set_up(fabric, model, options, run_options)
    state = _State(fabric, model, optimizer.optimizer, options, run_options)
    first = done = state.load() if run_options.resume else 0
    last = first if state.best.is_over else steps
    batches = make_batches(fabric, data, draws, options, (first, last), run_options.seed)
    log, meter = state.open_log(first, last, len(data)), Meter(fabric)
    wrapped.train()
    with log or nullcontext():
        with StopRequest() as stop:
            for done, batch in enumerate(meter.timed(batches), start=first + 1):
                set_step(optimizer.param_groups, done - 1, options)
                model.progress = (done - 1) / steps
                seed = partial(derive_seed, run_options.seed, done)
                meter.step(take_step(fabric, wrapped, optimizer, batch, options, seed))
                state.average.update(done)
                is_logging = is_due(done, steps, min(run_options.log_every, _MOST_STEPS))
                number = _agree(fabric, stop.number, is_logging)
                is_saving = number > 0 or is_due(done, steps, run_options.save_every)
                is_scoring = done < steps and is_due(done, steps, evaluate_every)
                if is_saving or is_scoring or is_due(done, steps, run_options.log_every):
                    values = meter.take(done)  # raises before a broken state can be saved
                    if log:
                        log.train(done, {**values, "lr": optimizer.param_groups[0]["lr"]})
                if log:
                    log.advance(done)
                if is_saving and not (is_scoring and state.best.is_on):
                    state.save(done)
                if is_scoring:
                    state.score(evaluate, done, log)
                    meter.restart()
                if number:
                    fabric.barrier()  # the first process has saved
                    text = f"stopped by {Signals(number).name} after step {done}, which is saved: "
                    raise Terminated(number, f"{text}run.resume=true continues")
                if state.best.is_over:
                    break
        state.finish(evaluate, done, log)


class _State:
    """What changes in training, and where it is kept; only the first process writes files."""

    def __init__(
        self,
        fabric: Fabric,
        model: Segmenter,
        optimizer: Optimizer,
        options: TrainConfig,
        run_options: RunConfig,
    ):
        self.average = WeightAverage(model, options.ema, options.steps)
        self.best = BestWeights(model, run_options, fabric.is_global_zero)
        self._fabric, self._model, self._run_options = fabric, model, run_options
        self._run = RunFolder(run_options.out)
        self._kept = (self._run, model, optimizer, self.average, self.best)

    def load(self) -> int:
        with raising_in_all(self._fabric):
            return load_checkpoint(*self._kept)

    def save(self, step: int) -> None:
        with raising_in_all(self._fabric):
            if self._fabric.is_global_zero:
                save_checkpoint(*self._kept, step, self._run_options.keep)

    def open_log(self, first: int, last: int, num_images: int) -> RunLog | None:
        if not self._fabric.is_global_zero:
            return None
        log = RunLog(self._run, last, first, self._run_options.trackers)
        log.start(first, {"images": num_images, **describe_origin(self._fabric)})
        return log

    def score(
        self, evaluate: Evaluate, step: int, log: RunLog | None, is_last: bool = False
    ) -> None:
        """Score the weights, or their average if there is one; keep them if they are the best."""
        best = self.best
        with self.average.applied():
            with gathered(self._model):
                value = evaluate(step, is_last, log)
            with raising_in_all(self._fabric):
                is_best = best.offer(step, value)
        if log and is_best:
            log.best(step, best.metric, best.values[step])
        if log and best.is_over and not is_last:
            log.stop(step, best.patience)
        if best.is_on:  # the score belongs in the checkpoint
            self.save(step)

    def finish(self, evaluate: Evaluate, step: int, log: RunLog | None) -> None:
        """Write the weights, then score them: a failure in scoring loses no training."""
        with self.average.applied(), raising_in_all(self._fabric):
            if self._fabric.is_global_zero:
                with sealing(self._run, self._run.adapter, self._run.head):
                    self._model.save(self._run.path)
        self.score(evaluate, step, log, is_last=True)


def set_up(
    fabric: Fabric, model: Segmenter, options: TrainConfig, run_options: RunConfig
) -> tuple[_FabricModule, _FabricOptimizer]:
    """Place the model on its device and make the optimiser of adapter and head."""
    if run_options.strategy == "fsdp":
        shard_frozen(fabric, model)
    decay = (options.weight_decay, options.weight_decay_end)
    groups = parameter_groups(model, options.lr, options.adapter_lr, *decay)
    is_fused = fabric.device.type == "cuda"  # one kernel for all parameters
    wrapped, optimizer = fabric.setup(model, AdamW(groups, fused=is_fused or None))
    wrapped.mark_forward_method("loss_terms")
    return wrapped, optimizer


def take_step(
    fabric: Fabric,
    model: _FabricModule,
    optimizer: _FabricOptimizer,
    batch: tuple[Tensor, Tensor],
    options: TrainConfig,
    seed: Callable[[int], int],
) -> dict[str, Tensor]:
    """Take one optimiser step on images and labels; return the loss and its terms.

    Part i of process r has the images and the random numbers (``seed`` of its number) that process
    r + i P would have, were there as many processes as parts: P is the number of processes.
    """
    count = options.accumulate
    parts = [(batch[0][i::count], batch[1][i::count]) for i in range(count)]
    counts = model.head.mean_counts([labels for _, labels in parts])
    sums: dict[str, Tensor] = {}
    for i, part in enumerate(parts):
        # The set loss samples points with torch's generator: make it follow the step.
        torch.manual_seed(seed(fabric.global_rank + i * fabric.world_size))
        with fabric.no_backward_sync(model, enabled=i < count - 1):
            with fabric.autocast():  # on one device Fabric applies its precision to `forward` alone
                terms = model.loss_terms(*part, counts)
            terms = {name: value / count for name, value in terms.items()}
            fabric.backward(torch.stack(list(terms.values())).sum())
        sums = {name: value.detach() + sums.get(name, 0) for name, value in terms.items()}
    if options.clip is not None:
        # The meter finds a norm that is not finite; to look at it here would wait for the device.
        fabric.clip_gradients(model, optimizer, max_norm=options.clip, error_if_nonfinite=False)
    optimizer.step()
    optimizer.zero_grad()
    return {"loss": torch.stack(list(sums.values())).sum(), **sums}


def _agree(fabric: Fabric, number: int, is_logging: bool) -> int:
    """Return the signal that any process got: all must stop after the same step.

    Several processes agree every few steps, as they wait for each other then.
    """
    if fabric.world_size == 1:
        return number
    mine = torch.tensor(float(number), device=fabric.device)
    return int(fabric.all_reduce(mine, reduce_op="max")) if is_logging else 0  # type: ignore


def make_batches(
    fabric: Fabric,
    data: AugmentedData,
    draws: Draws,
    options: TrainConfig,
    steps: tuple[int, int],
    seed: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield this process's images and labels; ``steps`` are those done and the last."""
    process = (fabric.global_rank, fabric.world_size)
    sampler = StepSampler(draws, options.batch, steps, seed, process)
    loader = make_loader(data, sampler, options.workers, fabric.device.type == "cuda")
    for sample in strip_worker_errors(loader):
        yield fabric.to_device((sample.image, sample.label))
