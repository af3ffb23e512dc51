"""The best weights of a run by one metric, in its folder best/, and when to stop.

Every evaluation is a candidate; of equal ones the earlier stays. Values and weights are also in the
checkpoint, so a resumed run chooses as if it had never stopped.
"""

from typing import Any

from causalseg.config.run import RunConfig
from causalseg.model import Segmenter, Weights
from causalseg.runs.folder import RunFolder
from causalseg.runs.seal import sealing
from causalseg.writing import write_json


class BestWeights:
    """Keeps the values of the metric and the best weights; without a metric it does nothing."""

    def __init__(self, model: Segmenter, options: RunConfig, is_writing: bool):
        self._model, self._run, self._is_writing = model, RunFolder(options.out), is_writing
        self.metric, self.patience = options.best or "", options.patience or 0
        self.is_on, self._allow_target = options.best is not None, options.allow_target
        self.values: dict[int, float | None] = {}
        self.weights: Weights = {}

    @property
    def step(self) -> int | None:
        """The step of the best value so far; None before there is one."""
        known = {step: value for step, value in self.values.items() if value is not None}
        return max(known, key=lambda step: (known[step], -step), default=None)

    @property
    def is_over(self) -> bool:
        """Whether as many evaluations in a row as patience allows were no better."""
        since = [step for step in self.values if self.step is None or step > self.step]
        return self.patience > 0 and len(since) >= self.patience

    def offer(self, step: int, value: float | None) -> bool:
        """Return whether the weights are the best so far, then kept; a repeated step is ignored."""
        if not self.is_on or step in self.values:
            return False
        self.values[step] = value
        if self.step != step:
            return False
        self.weights = {
            name: {key: tensor.to("cpu", copy=True) for key, tensor in part.state_dict().items()}
            for name, part in self._model.trainable().items()
        }
        self._write()
        return True

    def state(self) -> dict[str, Any]:
        """Return the content for a checkpoint."""
        return {"values": self.values, "weights": self.weights}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state; the folder then has its best weights."""
        self.values, self.weights = state["values"], state["weights"]
        self._write()

    def _write(self) -> None:
        if not self._is_writing:
            return
        file = self._run.best / "best.json"
        file.unlink(missing_ok=True)  # written last: without it the folder is incomplete
        if self.step is None:
            return
        files = [self._run.best / f"{name}.safetensors" for name in self.weights]
        with sealing(self._run, *files):
            self._model.save(self._run.best, self.weights)
        content = {"step": self.step, "metric": self.metric, "value": self.values[self.step]}
        write_json(file, {**content, "allow_target": self._allow_target})
