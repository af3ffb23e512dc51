"""Learning rate, weight decay and due events by the step alone; and the groups of AdamW.

At step t of N, counted from 0, with a warm-up of W steps:

    learning rate    base * (1 - t / N) ** power * min(1, (t + 1) / W)
    weight decay     end + (start - end) * (1 + cos(pi t / N)) / 2
"""

import math
from typing import Any

from torch import nn

from causalseg.adapters.base import Adapter
from causalseg.adapters.tokens import BlockTokens
from causalseg.config.run import TrainConfig
from causalseg.model import Segmenter

# Their parameters are scales, shifts or learnt inputs: decay to zero has no meaning there.
_NOT_DECAYED = (nn.LayerNorm, nn.GroupNorm, nn.Embedding, BlockTokens)


def learning_rate(base: float, step: int, steps: int, power: float, warmup: int = 0) -> float:
    """Return the learning rate of step ``step`` (from 0) of ``steps``."""
    rate = base * (1 - step / steps) ** power
    return rate * (step + 1) / warmup if step < warmup else rate


def weight_decay(start: float, end: float, step: int, steps: int) -> float:
    """Return the weight decay of step ``step`` (from 0) of ``steps``."""
    return end + (start - end) * (1 + math.cos(math.pi * step / steps)) / 2


def set_step(groups: list[dict[str, Any]], step: int, options: TrainConfig) -> None:
    """Set learning rate and weight decay of every group for step ``step`` (from 0)."""
    for group in groups:
        group["lr"] = learning_rate(
            group["base_lr"], step, options.steps, options.power, options.warmup
        )
        if options.weight_decay_end is not None:
            start, end = group["base_decay"]
            group["weight_decay"] = weight_decay(start, end, step, options.steps)


def is_due(step: int, steps: int, every: int | None) -> bool:
    """Say whether an event is due after ``step`` steps: every ``every``, and at the end."""
    return step == steps or (every is not None and step % every == 0)


def parameter_groups(
    model: Segmenter,
    lr: float,
    adapter_lr: float | None,
    weight_decay: float,
    weight_decay_end: float | None = None,
) -> list[dict[str, Any]]:
    """Return AdamW groups: parameters of adapter and head by learning rate and weight decay.

    Norms, embeddings, tokens, the level embedding and scalars are not decayed; an adapter may have
    rules of its own.
    """
    ends = (weight_decay, weight_decay if weight_decay_end is None else weight_decay_end)
    groups: dict[tuple[float, ...], dict[str, Any]] = {}
    for part_name, part in model.trainable().items():
        base = adapter_lr if part_name == "adapter" and adapter_lr is not None else lr
        for name, parameter in part.named_parameters():
            rate, is_decayed = base, not _is_kept(part, name, parameter)
            if isinstance(part, Adapter):
                rate *= part.rate(name)
                is_decayed = is_decayed and part.is_decayed(name)
            decay = ends if is_decayed else (0.0, 0.0)
            group = {"params": [], "base_lr": rate, "weight_decay": decay[0], "base_decay": decay}
            groups.setdefault((rate, *decay), group | {"lr": rate})["params"].append(parameter)
    return list(groups.values())


def _is_kept(part: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    owner, _, own_name = name.rpartition(".")
    is_kept_module = isinstance(part.get_submodule(owner), _NOT_DECAYED)
    return is_kept_module or parameter.ndim == 0 or own_name == "level_embed"
