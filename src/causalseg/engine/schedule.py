"""What depends on the step alone: learning rate, when to evaluate, when to save; and AdamW groups.

Learning rate at step t of N: ``base * (1 - t / N) ** power``.
"""

from typing import Any

from torch import nn

from causalseg.adapters.tokens import LowRankTokens
from causalseg.model import Segmenter

# Their numbers are scales, shifts or learnt inputs: pulling them to zero means nothing.
_NOT_DECAYED = (nn.LayerNorm, nn.GroupNorm, nn.Embedding, LowRankTokens)


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
    """Return AdamW groups: adapter and head, each with and without weight decay.

    Norms, embeddings, tokens, the level embedding and scalars are not decayed.
    """
    groups = []
    for part_name, part in model.trainable().items():
        decayed: list[nn.Parameter] = []
        kept: list[nn.Parameter] = []
        for module in part.modules():
            for name, parameter in module.named_parameters(recurse=False):
                is_kept = (
                    isinstance(module, _NOT_DECAYED) or parameter.ndim == 0 or name == "level_embed"
                )
                (kept if is_kept else decayed).append(parameter)
        base = adapter_lr if part_name == "adapter" and adapter_lr is not None else lr
        for parameters, decay in ((decayed, weight_decay), (kept, 0.0)):
            if parameters:
                group = {"params": parameters, "lr": base, "base_lr": base, "weight_decay": decay}
                groups.append(group)
    return groups
