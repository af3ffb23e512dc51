"""The best weights of a run by one metric, in its folder best/, and when to stop.

Every evaluation is a candidate; of equal ones the earlier stays. What was measured and the weights
themselves are also part of the checkpoint, so a run that goes on from it chooses as if it had never
stopped.
"""

from typing import Any

from causalseg.config.run import RunConfig
from causalseg.model import Segmenter, Weights, save_parts
from causalseg.runs.folder import RunFolder
from causalseg.writing import write_json


class BestWeights:
    """Remembers what was measured, and keeps the weights that were best.

    Args:
        model: whose weights are kept.
        options: folder, metric, whether it is of a target domain, patience. Without a metric
            nothing here does anything.
        is_writing: on the process that writes files.
    """

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
        """Whether so many evaluations in a row as patience allows were no better."""
        since = [step for step in self.values if self.step is None or step > self.step]
        return self.patience > 0 and len(since) >= self.patience

    def offer(self, step: int, value: float | None) -> bool:
        """Take in an evaluation; say whether its weights are the best so far, and keep them then.

        Of a step that was measured before nothing changes.
        """
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
        """Return what a checkpoint must hold."""
        return {"values": self.values, "weights": self.weights}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state; the folder then has what was best by then."""
        self.values, self.weights = state["values"], state["weights"]
        self._write()

    def _write(self) -> None:
        if not self._is_writing:
            return
        about = self._run.best / "best.json"
        about.unlink(missing_ok=True)  # written last: without it the folder is not whole
        if self.step is None:
            return
        save_parts(self.weights, self._run.best)
        content = {
            "step": self.step,
            "metric": self.metric,
            "value": self.values[self.step],
            "allow_target": self._allow_target,
        }
        write_json(about, content)
