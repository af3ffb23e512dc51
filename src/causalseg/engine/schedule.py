"""What depends on the step alone: learning rate, when to evaluate, when to save; and AdamW groups.

Learning rate at step t of N: ``base * (1 - t / N) ** power``.
"""

from typing import Any

from torch import nn

from causalseg.adapters.band import BandWeights
from causalseg.adapters.base import Adapter
from causalseg.adapters.tokens import FullTokens, LowRankTokens
from causalseg.model import Segmenter

# Their numbers are scales, shifts or learnt inputs: pulling them to zero means nothing.
_NOT_DECAYED = (
    *(nn.LayerNorm, nn.GroupNorm, nn.Embedding),
    *(LowRankTokens, FullTokens, BandWeights),
)


def learning_rate(base: float, step: int, steps: int, power: float) -> float:
    """Return the learning rate of step ``step`` (from 0) of ``steps``."""
    return base * (1 - step / steps) ** power


def set_learning_rate(groups: list[dict[str, Any]], step: int, steps: int, power: float) -> None:
    """Give every group of the optimiser its learning rate for step ``step`` (from 0)."""
    for group in groups:
        group["lr"] = learning_rate(group["base_lr"], step, steps, power)


def is_due(step: int, steps: int, every: int | None) -> bool:
    """Say whether something is due after ``step`` steps: every so many, and always at the end."""
    return step == steps or (every is not None and step % every == 0)


def parameter_groups(
    model: Segmenter, lr: float, adapter_lr: float | None, weight_decay: float
) -> list[dict[str, Any]]:
    """Return AdamW groups: parameters of adapter and head by learning rate and weight decay.

    Norms, embeddings, tokens, the level embedding and scalars are not decayed; an adapter may have
    rules of its own.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for part_name, part in model.trainable().items():
        base = adapter_lr if part_name == "adapter" and adapter_lr is not None else lr
        for name, parameter in part.named_parameters():
            rate, decay = base, 0.0 if _is_kept(part, name, parameter) else weight_decay
            if isinstance(part, Adapter):
                rate *= part.rate(name)
                decay *= part.is_decayed(name)
            group = {"params": [], "lr": rate, "base_lr": rate, "weight_decay": decay}
            groups.setdefault((rate, decay), group)["params"].append(parameter)
    return list(groups.values())


def _is_kept(part: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Say whether a parameter is out of weight decay by its kind."""
    owner, _, own_name = name.rpartition(".")
    is_kept_module = isinstance(part.get_submodule(owner), _NOT_DECAYED)
    return is_kept_module or parameter.ndim == 0 or own_name == "level_embed"
