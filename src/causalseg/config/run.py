"""The options of training and running."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from causalseg.config.block import Block, Count, Index, NonNegative, Positive, Size, Width, named
from causalseg.config.stages import COMPUTING, WRITING, Stage

Severity = Annotated[int, Field(ge=1, le=5)]
_Threads = Annotated[int, Field(ge=1, le=1024)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["auto", "32-true", "bf16-mixed"]
Tracker = Literal["tensorboard", "wandb", "mlflow"]
_EMA_LENGTHS = 10  # longest average, as a multiple of the remaining steps


class RandomCorruptionConfig(Block):
    """Corruptions of training crops: style and weather that the sources do not have."""

    names: Annotated[list[str], Field(min_length=1)]
    """Corruptions to choose from; docs/corruptions.md shows all."""
    p: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Probability that a crop is corrupted."""
    severity: tuple[Severity, Severity] = (1, 3)
    """Lowest and highest severity, from 1 to 5."""

    def _find_mistakes(self) -> Iterator[str]:
        if self.severity[0] > self.severity[1]:
            yield f"severity = {list(self.severity)} must be [lowest, highest]"


class SpectralAugmentConfig(Block):
    """A change of training crops in the Fourier domain."""

    kind: Literal["pasta", "adsi", "mix"] = "pasta"
    """pasta: noise on amplitudes that grows with the frequency; adsi: low frequencies attenuated;
    mix: amplitudes mixed with those of another source image."""
    p: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Probability that a crop is changed."""
    alpha: NonNegative = 3.0
    """pasta: growth of the noise with the frequency."""
    k: Positive = 2.0
    """pasta: power of that growth."""
    beta: NonNegative = 0.25
    """pasta: noise at all frequencies."""
    cutoff: tuple[Fraction, Positive] = (0.0, 0.4)
    """adsi: range of the frequency below which amplitudes are attenuated; 1 is the highest."""
    gain: tuple[Fraction, Fraction] = (0.0, 1.0)
    """adsi: range of what is left of the lowest frequencies."""
    order: Positive = 2.0
    """adsi: order of the Butterworth filter, which is steeper at a higher one."""
    largest: Annotated[float, Field(gt=0, le=1)] = 1.0
    """mix: largest part of the other image."""

    def _find_mistakes(self) -> Iterator[str]:
        own = {
            "pasta": ("alpha", "k", "beta"),
            "adsi": ("cutoff", "gain", "order"),
            "mix": ("largest",),
        }
        for kind, keys in own.items():
            if kind != self.kind:
                yield from self.find_idle(keys, f"kind={self.kind}")
        for name, (low, high) in (("cutoff", self.cutoff), ("gain", self.gain)):
            if low > high:
                yield f"{name} = {[low, high]} must be [smallest, largest]"


class AugmentConfig(Block):
    """Training augmentation, as the field's protocol has it."""

    scale: tuple[Positive, Positive] = (0.5, 2.0)
    """Range of the random resize in steps of 0.1: the shortest edge becomes scale x crop height."""
    longest: Width = 2048
    """No edge is resized beyond this many pixels."""
    max_class_share: Annotated[float, Field(gt=0, le=1)] = 0.75
    """Crops in which one class covers more than this are drawn again; ten draws at most."""
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a horizontal flip."""
    photometric: bool = True
    """Brightness, contrast, saturation and hue distortion."""
    corrupt: RandomCorruptionConfig | None = None
    """Random corruptions of the crop, before the distortion; null is none."""
    class_mix: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that half of the classes of another image are pasted into a crop."""
    spectral: Annotated[SpectralAugmentConfig | None, named("pasta", "kind")] = None
    """Changes in the Fourier domain, after all others; null is none."""

    def _find_mistakes(self) -> Iterator[str]:
        if self.scale[0] > self.scale[1]:
            yield f"scale = {list(self.scale)} must be [smallest, largest]"


class EmaConfig(Block):
    """Exponential moving average e of the trained weights w: e <- (1 - m) e + m w each step."""

    momentum: Annotated[float, Field(gt=0, le=1)] | None = None
    """m, the fraction of the new weights; null is 5 / train.steps, at least 0.0002, at most 1."""
    start: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Fraction of the steps after which averaging begins, as a copy of the weights then."""

    def start_step(self, steps: int) -> int:
        """Return the number of steps of the run after which averaging begins."""
        return int(self.start * steps)

    def share(self, steps: int) -> float:
        """Return m for a run of ``steps`` steps."""
        return min(1.0, max(2e-4, 5 / steps)) if self.momentum is None else self.momentum


class TrainConfig(Block):
    """The training loop; counts are steps where nothing else is said."""

    steps: Annotated[Count, Stage.RESUME] = 40_000
    """Optimiser steps."""
    epochs: Annotated[Positive | None, Stage.RESUME] = None
    """In place of steps: passes over the training images; the run folder's config.yaml has the
    steps that they make, rounded up."""
    batch: Width = 4
    """Images a step, over all processes."""
    accumulate: Annotated[Width, Stage.RESUME] = 1
    """Parts of each process's images, computed one after the other to save memory; a step and its
    loss are those of all of them."""
    crop: Size = (518, 518)
    """Height and width of a training crop in pixels, divisible by the patch; the protocol's 512
    belong to a patch of 16, the nearest for 14 is 518."""
    lr: Positive = 1e-4
    """Learning rate at the start; polynomial decay to 0."""
    warmup: Index = 0
    """First steps in which the learning rate rises linearly to that of the polynomial."""
    adapter_lr: Positive | None = None
    """Learning rate of the adapter; null takes lr."""
    weight_decay: NonNegative = 0.05
    """Weight decay of matrices; norms, biases of norms, tokens, scale and embeddings have none."""
    power: NonNegative = 0.9
    """Power of the polynomial decay."""
    weight_decay_end: NonNegative | None = None
    """Weight decay at the end, reached along a half cosine from weight_decay; null keeps it."""
    ema: EmaConfig | None = None
    """Average of the trained weights, which is then scored and saved; null is none, {} takes the
    defaults."""
    clip: Positive | None = None
    """Largest norm of the gradient; null does not clip."""
    augment: AugmentConfig = AugmentConfig()
    """What is done to a training image."""
    workers: Annotated[int, Field(ge=0, le=1024), COMPUTING] = 2
    """Processes that load and augment; results do not depend on it."""

    def _find_mistakes(self) -> Iterator[str]:
        if self.epochs is not None and "steps" in self.model_fields_set:
            yield f"steps = {self.steps} and epochs = {self.epochs:g} exclude each other: give one"
        if self.weight_decay_end == self.weight_decay:
            yield f"weight_decay_end = {self.weight_decay_end} has no effect: it is weight_decay"
        if self.epochs is None and (mistake := self.schedule_mistake(self.steps)):
            yield mistake

    def schedule_mistake(self, steps: int) -> str | None:
        """Return why the schedule does not fit into ``steps`` steps; None if it does."""
        if self.warmup >= steps:
            return (
                f"warmup = {self.warmup} must be below the number of steps, {steps}: the learning "
                "rate would never be reached"
            )
        if self.ema is None:
            return None
        length, start = 1 / self.ema.share(steps), self.ema.start_step(steps)
        if length > _EMA_LENGTHS * (steps - start):
            return (
                f"ema averages over 1 / momentum = {length:.0f} steps, but only {steps - start} "
                f"remain after its start at step {start} of {steps}; allowed are at most "
                f"{_EMA_LENGTHS} times as many as remain: raise ema.momentum, lower ema.start or "
                "train longer"
            )
        return None


class RunConfig(Block):
    """Where and on what a run happens."""

    out: Annotated[str, WRITING | Stage.OWN] = "runs/run"
    """The run folder."""
    seed: Annotated[Index, Stage.OWN] = 0
    """Seed of initialisation, data order, augmentation and sampling."""
    init_seed: Index | None = None
    """Seed of the initialisation alone; null takes seed. Runs whose weights `causalseg soup`
    averages need the same."""
    init: str | None = None
    """Begin with the weights of another run: a folder, a zip file of `causalseg pack`, or
    hub:USER/NAME. Its head is taken if head and classes are the same, else the head is new."""
    resume: Annotated[bool, WRITING | Stage.OWN] = False
    """Go on from the run folder's last checkpoint."""
    accelerator: Annotated[Literal["auto", "cpu", "cuda", "mps"], COMPUTING] = "auto"
    """What to compute on."""
    devices: Annotated[Width, Stage.RESUME | Stage.USE] = 1
    """Devices on each node (processes, on a CPU)."""
    nodes: Annotated[Width, Stage.RESUME | Stage.USE] = 1
    """Number of machines."""
    strategy: Annotated[Literal["auto", "ddp", "fsdp"], Stage.RESUME] = "auto"
    """How several processes train: ddp, each with all weights; fsdp, each with a part of the frozen
    ones, which saves memory and costs time. auto is ddp."""
    precision: Annotated[Precision, Stage.RESUME | Stage.USE] = "auto"
    """auto is bf16-mixed where the device is fast at it, else 32-true."""
    threads: Annotated[_Threads | None, COMPUTING] = None
    """CPU threads of each process; null is torch's choice, or 1 with several processes."""
    log_every: Annotated[Count, WRITING] = 10
    """Steps between two lines of the log."""
    save_every: Annotated[Count, WRITING] = 1000
    """Steps between two checkpoints; the last step always saves."""
    keep: Annotated[Width, WRITING] = 1
    """Checkpoints kept: last.ckpt and, above 1, the newest step-*.ckpt."""
    best: str | None = None
    """Also keep the weights that are best by this metric, DOMAIN.miou or mean.miou, in best/. Every
    evaluation is a candidate, all on the same images: with eval.limit the one at the end, too."""
    allow_target: bool = False
    """Let best be a metric of an unseen domain: one that data.mean_over names, any if it is null,
    or a corrupted one. Such weights say nothing of how a method generalises, and are marked."""
    patience: Annotated[Count | None, Stage.RESUME] = None
    """Stop after this many evaluations in a row that are no better than the best; null does not."""
    trackers: Annotated[list[Tracker], WRITING] = ["tensorboard"]
    """Where curves go beside log.jsonl: tensorboard, wandb (extra [wandb]), mlflow (extra
    [mlflow])."""

    @property
    def first_seed(self) -> int:
        """The seed of the initialisation."""
        return self.seed if self.init_seed is None else self.init_seed

    def _find_mistakes(self) -> Iterator[str]:
        for name in ("patience", "allow_target"):
            if self.best is None and getattr(self, name):
                yield f"{name} has no effect without best: give run.best"
        if len(set(self.trackers)) < len(self.trackers):
            yield f"trackers = {self.trackers} names a tracker twice: name each once"
