"""Methods of one size: choose the size of every adapter for a number of trained parameters.

Counted are the parameters that the adapter trains, without the head:

    |parameters - budget| <= 5 % of the budget

The option changed is the rank (r of peft's other types, AdaptFormer's bottleneck, VPT's number of
prompts) and, where no rank is close enough, also the number of tokens. In a chain the first part
that reaches the size is changed.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from causalseg.adapters.base import trainable_parameters
from causalseg.adapters.peft import peft_config
from causalseg.backbones.timm import FrozenBackbone
from causalseg.build.adapter import build_adapter
from causalseg.build.model import outline_backbone, query_width
from causalseg.config import Config
from causalseg.config.adapters import AdapterConfig, ChainConfig, linked_part, parts_of
from causalseg.config.load import load_config
from causalseg.errors import CausalsegError, ConfigError
from causalseg.report.result import Method

Values = dict[str, Any]  # of options, by name
Count = Callable[[Values], int]  # trained parameters with these values

TOLERANCE = 0.05
_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000}
_OF_PEFT = "options."
_SIZES = ("rank", "bottleneck", "num_prompts", "num_tokens")  # the first that an adapter has


class SizedMethod(NamedTuple):
    """A method of the requested size."""

    method: Method
    chosen: Values  # options that changed for it
    parameters: int  # that its adapter trains

    @property
    def text(self) -> str:
        """The choice in words."""
        options = _join(self.chosen) or "unchanged"
        return f"{self.method.name}: {options}, {self.parameters:,} parameters"


class _Size(NamedTuple):
    """Values of size options and their parameters; infinite if these values are impossible."""

    chosen: Values
    parameters: float


def parse_budget(text: str) -> int:
    """Read a number of parameters such as 400k, 1.2M or 400000."""
    match = re.fullmatch(r"(\d[\d_,]*(?:\.\d+)?)([km]?)", text.strip().lower())
    number = float(re.sub("[_,]", "", match[1])) * _FACTORS[match[2]] if match else 0
    if round(number) < 1:
        raise ConfigError(
            f"budget {text!r}: give the parameters that adapters train, such as 400k, 1.2M, 400000"
        )
    return round(number)


def size_methods(
    config: Path, overrides: Sequence[str], methods: Sequence[Method], budget: int
) -> list[SizedMethod]:
    """Bring every adapter within 5 % of ``budget`` trained parameters.

    They include the query link if the head takes queries. Methods without an adapter, or of the
    size already, stay as they are. ConfigError names those without such a size, and their nearest.
    """
    sized, mistakes = [], []
    outlines: dict[str, FrozenBackbone] = {}
    for method in methods:
        try:
            parsed = load_config(config, [*overrides, *method.overrides])
            key = parsed.backbone.model_dump_json()
            if key not in outlines:
                outlines[key] = outline_backbone(parsed)
            sized.append(_size_method(method, parsed, outlines[key], budget))
        except CausalsegError as error:
            mistakes.append(f"  {method.name}: {error}")
    if mistakes:
        heading = f"not all methods come within {TOLERANCE:.0%} of {budget:,} parameters:"
        hint = "choose another budget, or compare without these"
        raise ConfigError("\n".join([heading, *mistakes, hint]))
    return sized


def _size_method(
    method: Method, config: Config, backbone: FrozenBackbone, budget: int
) -> SizedMethod:
    width, adapter = query_width(config, backbone), config.adapter

    def count(chosen: Values, index: int) -> int:
        with torch.device("meta"):
            built = build_adapter(_changed(adapter, index, chosen), backbone, width)
        return 0 if built is None else trainable_parameters(built)

    parts = parts_of(adapter)
    before = count({}, 0) if parts else 0
    if not parts or _fits(before, budget):
        return SizedMethod(method, {}, before)
    tried = []
    for index, part in enumerate(parts):
        has_fixed_tokens = width is not None and linked_part(adapter) == index
        sizes = _sizes(part, has_fixed_tokens, partial(count, index=index), budget)
        label = f"{part.name}." if isinstance(adapter, ChainConfig) else ""
        fitting = [size for size in sizes if _fits(size.parameters, budget)]
        if fitting:
            best = min(fitting, key=lambda size: _distance(size, part, budget))
            own = _overrides(method, _changed(adapter, index, best.chosen), best.chosen)
            chosen = {f"{label}{key}": value for key, value in best.chosen.items()}
            return SizedMethod(method._replace(overrides=own), chosen, int(best.parameters))
        for size in sizes:
            chosen = {f"{label}{key}": value for key, value in size.chosen.items()}
            tried.append(_Size(chosen, size.parameters))
    raise ConfigError(_nearest_text(tried, before, budget))


def _changed(adapter: AdapterConfig, index: int, chosen: Values) -> AdapterConfig:
    """Return an adapter whose part at ``index`` has the chosen options."""
    parts: list[Any] = list(parts_of(adapter))
    plain = {key: value for key, value in chosen.items() if not key.startswith(_OF_PEFT)}
    own = {k.removeprefix(_OF_PEFT): v for k, v in chosen.items() if k not in plain}
    if own:
        plain["options"] = parts[index].options | own
    parts[index] = parts[index].model_copy(update=plain)
    is_chain = isinstance(adapter, ChainConfig)
    return adapter.model_copy(update={"parts": parts}) if is_chain else parts[0]


def _sizes(part: Any, has_fixed_tokens: bool, count: Count, budget: int) -> list[_Size]:
    """Return the sizes of an adapter next to the budget, below and above."""
    if part.name == "peft":
        option = "options.r" if getattr(peft_config(part), "r", 0) else None
    else:
        option = next((name for name in _SIZES if getattr(part, name, None) is not None), None)
    if option is None:
        return []
    sizes = _neighbours(part, option, {}, count, budget)
    has_tokens = option != "num_tokens" and hasattr(part, "num_tokens") and not has_fixed_tokens
    if has_tokens and not any(_fits(size.parameters, budget) for size in sizes):
        for size in [size for size in sizes if size.parameters < math.inf]:
            sizes += _neighbours(part, "num_tokens", size.chosen, count, budget)
    return sizes


def _neighbours(part: Any, option: str, fixed: Values, count: Count, budget: int) -> list[_Size]:
    """Return the largest size up to the budget and the next above it.

    There are none for an adapter that does not grow with the option, such as RandLoRA with its r.
    """
    least = 2 if option == "num_tokens" else 1

    def choose(value: int) -> Values:
        return {**fixed, option: value, **_scaled_alpha(part, value)}

    @cache
    def measure(value: int) -> float:
        try:
            return count(choose(value))
        except ConfigError:
            if value == least:
                raise
            return math.inf  # such as a rank above the width

    high = 2 * least
    while measure(high) <= budget:
        if measure(2 * high) <= measure(high):
            return []
        high *= 2
    above = least + bisect_right(range(least, high), float(budget), key=measure)
    return [_Size(choose(v), measure(v)) for v in (above - 1, above) if v >= least]


def _scaled_alpha(part: Any, rank: int) -> Values:
    """Return the alpha that keeps the scale alpha / rank of an update."""
    if part.name == "peft":
        config = peft_config(part)
        for name in ("alpha", "lora_alpha"):
            alpha = getattr(config, name, None)
            if alpha is not None:
                scaled = alpha * rank / config.r
                return {_OF_PEFT + name: int(scaled) if scaled == int(scaled) else scaled}
    return {"alpha": part.alpha * rank / part.rank} if hasattr(part, "alpha") else {}


def _overrides(method: Method, adapter: AdapterConfig, chosen: Values) -> list[str]:
    """Return the overrides with the chosen options; a chain is written as a whole."""
    if not isinstance(adapter, ChainConfig):
        return method.overrides + [f"adapter.{key}={value}" for key, value in chosen.items()]
    parts = [
        {"name": part.name, **part.model_dump(mode="json", exclude_unset=True)}
        for part in adapter.parts
    ]
    text = yaml.safe_dump(parts, default_flow_style=True, sort_keys=False, width=math.inf)
    others = [o for o in method.overrides if not re.match(r"adapter[.=]", o)]
    return [f"adapter={text.strip()}", *others]


def _fits(count: float, budget: int) -> bool:
    return abs(count - budget) <= TOLERANCE * budget


def _distance(size: _Size, part: Any, budget: int) -> tuple[float, float]:
    """Return the change in the number of tokens, then the distance from the budget."""
    tokens = getattr(part, "num_tokens", 0)
    return abs(size.chosen.get("num_tokens", tokens) - tokens), abs(size.parameters - budget)


def _nearest_text(sizes: Sequence[_Size], before: int, budget: int) -> str:
    possible = [size for size in sizes if size.parameters < math.inf]
    if not possible:
        return f"none of its options sets its size, {before:,}"
    texts = {"below": "none", "above": "none"}
    for chosen, number in sorted(possible, key=lambda size: abs(size.parameters - budget)):
        side = "below" if number <= budget else "above"
        if texts[side] == "none":
            texts[side] = f"{number:,} ({_join(chosen)})"
    return f"nearest sizes: below {texts['below']}, above {texts['above']}"


def _join(chosen: Values) -> str:
    return ", ".join(f"{key}={value}" for key, value in chosen.items())
