"""Methods of one size: the size option of every adapter, chosen for a number of parameters.

Counted is what the adapter trains: everything that trains but the head, on a model without numbers.

    |parameters - budget| <= 5 % of the budget

What is changed is the rank (of peft's other types r, of AdaptFormer the bottleneck, of VPT the
number of prompts), and where no rank is near enough, the number of tokens. In a chain it is the
first part with which this works; the others stay as they are.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
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
from causalseg.config.adapters import (
    AdapterConfig,
    AdaptFormerConfig,
    ChainConfig,
    FullConfig,
    LoraConfig,
    PeftConfig,
    PlacedConfig,
    TokensConfig,
    VptConfig,
    linked_part,
    parts_of,
)
from causalseg.config.load import load_config
from causalseg.errors import CausalsegError, ConfigError
from causalseg.report.comparison import Method

Changed = Callable[[dict[str, Any]], AdapterConfig]

TOLERANCE = 0.05
_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000}
_OF_PEFT = "options."
_LEAST = {"num_tokens": 2}  # of other size options 1


class Sized(NamedTuple):
    """A method of the wanted size.

    Attributes:
        method: with what was chosen after its own overrides.
        chosen: option to value; empty if it had the size already, or has no adapter.
        parameters: that its adapter trains.
    """

    method: Method
    chosen: dict[str, Any]
    parameters: int

    @property
    def text(self) -> str:
        """What was chosen, for people."""
        options = ", ".join(f"{key}={value}" for key, value in self.chosen.items())
        return f"{self.method.name}: {options or 'as it is'}, {self.parameters:,} parameters"


class _Size(NamedTuple):
    """What some values of size options come to; infinitely many parameters if nothing can."""

    chosen: dict[str, Any]
    parameters: float


def parse_budget(text: str) -> int:
    """Read a number of parameters such as 400k, 1.2M or 400000.

    Raises:
        ConfigError: if it is none, or 0.
    """
    found = re.fullmatch(r"([\d_,]*\d(?:\.\d+)?)([kKmM]?)", text.strip())
    digits = re.sub("[_,]", "", found[1]) if found else "0"
    budget = round(float(digits) * _FACTORS[found[2].lower()]) if found else 0
    if budget < 1:
        raise ConfigError(
            f"budget {text!r}: give the parameters that adapters train, such as 400k, 1.2M, 400000"
        )
    return budget


def size_methods(
    config: Path, overrides: Sequence[str], methods: Sequence[Method], budget: int
) -> list[Sized]:
    """Bring every method that has an adapter within 5 % of a number of trained parameters.

    Args:
        config: YAML file of the shared configuration.
        overrides: of the shared configuration, as key=value.
        methods: what is sized; one without an adapter, or of the size already, stays as it is.
        budget: parameters that the adapter trains, its query link included where the head takes
            queries.

    Raises:
        ConfigError: with every method for which that is impossible, and its nearest sizes.
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
        raise ConfigError(
            "\n".join(
                [
                    f"not all methods come within {TOLERANCE:.0%} of {budget:,} parameters:",
                    *mistakes,
                    "choose another budget, or compare without these",
                ]
            )
        )
    return sized


def _size_method(method: Method, config: Config, backbone: FrozenBackbone, budget: int) -> Sized:
    width, adapter = query_width(config), config.adapter

    def count(options: AdapterConfig) -> int:
        with torch.device("meta"):
            built = build_adapter(options, backbone, width)
        return 0 if built is None else trainable_parameters(built)

    before, parts = count(adapter), parts_of(adapter)
    if not parts or _fits(before, budget):
        return Sized(method, {}, before)
    is_chain, nearest = isinstance(adapter, ChainConfig), []
    for index, part in enumerate(parts):

        def changed(chosen: dict[str, Any], index: int = index) -> AdapterConfig:
            new = [_with(p, chosen) if i == index else p for i, p in enumerate(parts)]
            return adapter.model_copy(update={"parts": new}) if is_chain else new[0]

        def measure(chosen: dict[str, Any], of: Changed = changed) -> int:
            return count(of(chosen))

        is_linked = width is not None and linked_part(adapter) == index
        sizes = _sizes(part, is_linked, measure, budget)
        label = f"{part.name}." if is_chain else ""
        fitting = [size for size in sizes if _fits(size.parameters, budget)]
        if fitting:
            best = min(fitting, key=lambda size: _rank_of_size(size, part, budget))
            own = _overrides(method, changed(best.chosen), best.chosen)
            chosen = {f"{label}{key}": value for key, value in best.chosen.items()}
            return Sized(method._replace(overrides=own), chosen, int(best.parameters))
        nearest += [
            _Size({f"{label}{key}": value for key, value in size.chosen.items()}, size.parameters)
            for size in sizes
        ]
    raise ConfigError(_nearest_text(nearest, before, budget))


def _sizes(
    part: PlacedConfig,
    is_linked: bool,
    count: Callable[[dict[str, Any]], int],
    budget: int,
) -> list[_Size]:
    """The sizes of an adapter next to the budget, below and above."""
    option = _size_option(part)
    if option is None:
        return []
    sizes = list(_neighbours(part, option, {}, count, budget))
    is_done = any(_fits(size.parameters, budget) for size in sizes)
    if is_done or is_linked or option == "num_tokens" or not isinstance(part, TokensConfig):
        return sizes
    return sizes + [
        more
        for size in sizes
        if size.parameters < math.inf
        for more in _neighbours(part, "num_tokens", size.chosen, count, budget)
    ]


def _size_option(part: PlacedConfig) -> str | None:
    """The first option that sets the size of an adapter; None if none does."""
    match part:
        case FullConfig():
            return None
        case AdaptFormerConfig():
            return "bottleneck"
        case VptConfig():
            return "num_prompts"
        case PeftConfig():
            made = peft_config(part.type, part.options, part.targets)
            return "options.r" if getattr(made, "r", 0) else None
    return "num_tokens" if part.rank is None else "rank"  # type: ignore[attr-defined]


def _neighbours(
    part: PlacedConfig,
    option: str,
    fixed: dict[str, Any],
    count: Callable[[dict[str, Any]], int],
    budget: int,
) -> Iterator[_Size]:
    """The largest size up to the budget, and the next one above it.

    The count is nearly linear in the option, so a few steps of linear interpolation find them.
    """
    least = _LEAST.get(option, 1)

    def choose(value: int) -> dict[str, Any]:
        return {**fixed, option: value, **_scaled_alpha(part, option, value)}

    @cache
    def measure(value: int) -> float:
        try:
            return count(choose(value))
        except ConfigError:
            if value == least:
                raise
            return math.inf  # such as a rank above the width

    low, high = least, 2 * least
    if measure(low) > budget:
        yield _Size(choose(low), measure(low))
        return
    while measure(high) <= budget:
        slope = (measure(high) - measure(low)) / (high - low)
        if slope <= 0:
            return  # such as RandLoRA's r: the adapter does not grow with it
        low, high = high, high + 1 + math.ceil((budget - measure(high)) / slope)
    while high - low > 1:
        share = (budget - measure(low)) / (measure(high) - measure(low))
        guess = (low + high) // 2 if measure(high) == math.inf else low + int(share * (high - low))
        middle = min(max(guess, low + 1), high - 1)
        low, high = (middle, high) if measure(middle) <= budget else (low, middle)
    yield _Size(choose(low), measure(low))
    yield _Size(choose(high), measure(high))


def _scaled_alpha(part: PlacedConfig, option: str, value: int) -> dict[str, Any]:
    """The alpha with which the scale alpha / rank of an update stays what it was."""
    if isinstance(part, LoraConfig):
        return {"alpha": part.alpha * value / part.rank}
    if isinstance(part, PeftConfig):
        made = peft_config(part.type, part.options, part.targets)
        for name in ("alpha", "lora_alpha"):
            alpha = getattr(made, name, None)
            if alpha is not None:
                scaled = alpha * value / made.r
                return {_OF_PEFT + name: int(scaled) if scaled == int(scaled) else scaled}
    return {}


def _with(part: Any, chosen: dict[str, Any]) -> Any:
    """An adapter's options with those chosen in their places."""
    plain = {key: value for key, value in chosen.items() if not key.startswith(_OF_PEFT)}
    own = {k.removeprefix(_OF_PEFT): v for k, v in chosen.items() if k not in plain}
    if own:
        plain["options"] = {**part.options, **own}
    return part.model_copy(update=plain)


def _overrides(method: Method, adapter: AdapterConfig, chosen: dict[str, Any]) -> list[str]:
    """A method's overrides with the options chosen; of a chain, all that is set in it."""
    if not isinstance(adapter, ChainConfig):
        return [*method.overrides, *(f"adapter.{key}={value}" for key, value in chosen.items())]
    parts = [
        {"name": part.name, **part.model_dump(mode="json", exclude_unset=True)}
        for part in adapter.parts
    ]
    text = yaml.safe_dump(parts, default_flow_style=True, sort_keys=False, width=math.inf)
    others = [o for o in method.overrides if not re.match(r"adapter[.=]", o)]
    return [f"adapter={text.strip()}", *others]


def _fits(count: float, budget: int) -> bool:
    return abs(count - budget) <= TOLERANCE * budget


def _rank_of_size(size: _Size, part: PlacedConfig, budget: int) -> tuple[float, float]:
    """The order of preference: tokens as near as can be to what they were, then the budget."""
    tokens = getattr(part, "num_tokens", 0)
    return abs(size.chosen.get("num_tokens", tokens) - tokens), abs(size.parameters - budget)


def _nearest_text(sizes: Sequence[_Size], before: int, budget: int) -> str:
    """Say between which sizes the budget is."""
    known = [size for size in sizes if size.parameters < math.inf]
    if not known:
        return f"none of its options sets its size, {before:,}"
    below = max(
        (s for s in known if s.parameters <= budget), key=lambda s: s.parameters, default=None
    )
    above = min(
        (s for s in known if s.parameters > budget), key=lambda s: s.parameters, default=None
    )
    named = [
        f"{size.parameters:,} ({', '.join(f'{key}={value}' for key, value in size.chosen.items())})"
        if size
        else "none"
        for size in (below, above)
    ]
    return f"nearest sizes: below {named[0]}, above {named[1]}"
