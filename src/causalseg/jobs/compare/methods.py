"""Methods by name: the options that each changes in a shared configuration.

A name is an adapter (``rein``), several joined by ``+`` in the order in which they act
(``lora+causal_tune``; the part ``intervene`` adds the intervention), or defined in a YAML file:

    paper: {adapter: {name: causal_tune, recipe: paper}}
    plain: {adapter: lora, train.augment.photometric: false}
    theirs: {adapter: rein, reported: {night: 55.9}, reported_source: "Rein, CVPR 2024, table 2"}
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from causalseg.config import Config
from causalseg.config.load import list_options, read_mapping
from causalseg.config.stages import Stage, stage_of
from causalseg.errors import ConfigError, did_you_mean
from causalseg.report.result import Method

INTERVENE = "intervene"
# A mapping with one of these is a whole block; any other changes only the options it names.
_WHOLE = ("name", "kind")


def read_methods(names: Sequence[str], file: Path | None = None) -> list[Method]:
    """Return the methods of these names; without names, all of the YAML file.

    Raises ConfigError with every unknown or repeated name and every wrong entry.
    """
    known: dict[str, Any] = {}
    if file:
        missing = f"no methods file {file}: check the path"
        wrong = f"{file} must contain `name: {{key: value}}` lines, one for each method"
        known = {str(name): about for name, about in read_mapping(file, missing, wrong).items()}
    if not names and not known:
        raise ConfigError("nothing to compare: name methods with --adapters or --methods")
    keys = (re.match(r"adapter\[(\w+)\]\.", option.key) for option in list_options())
    adapters = {match[1] for match in keys if match}
    methods: list[Method] = []
    mistakes: list[str] = []
    for name in names or known:
        try:
            method = _define(name, known[name]) if name in known else _join(name, adapters, known)
        except ConfigError as error:
            mistakes.append(f"  {name}: {error}")
            continue
        if folder_name(method) in map(folder_name, methods):
            mistakes.append(f"  {name}: another method has this name or would share its folder")
        methods.append(method)
    if mistakes:
        raise ConfigError("\n".join(["the methods have mistakes:", *mistakes]))
    return methods


def folder_name(method: Method) -> str:
    """Return a method's name as that of a folder on any file system."""
    return re.sub(r"[^\w-]+", "_", method.name).lower()


def check_changes(overrides: Sequence[str]) -> None:
    """Raise ConfigError for overrides of what all methods share."""
    for override in overrides:
        key = override.partition("=")[0]
        if key.startswith(("data", "setting")) or Stage.OWN in stage_of(Config, key):
            raise ConfigError(
                f"{override}: a method cannot change this; data are the same for all, and folder "
                "and seed are the comparison's"
            )


def _join(name: str, adapters: set[str], known: Mapping[str, Any]) -> Method:
    parts = name.split("+")
    used = [part for part in parts if part != INTERVENE]
    unknown = [part for part in used if part not in adapters]
    if unknown:
        hint = did_you_mean(unknown[0], {*adapters, *known, INTERVENE})
        raise ConfigError(f"no such method; {hint}; several adapters are joined by +")
    if not used or len(parts) - len(used) > 1:
        raise ConfigError(f"{INTERVENE} is added once to an adapter, such as none+{INTERVENE}")
    options: dict[str, Any] = {"adapter": used if len(used) > 1 else used[0]}
    options |= {INTERVENE: "spectral"} if len(used) < len(parts) else {}
    return _define(name, options)


def _define(name: str, about: Any) -> Method:
    if not isinstance(about, dict | None):
        raise ConfigError(f"{about!r} is no mapping of options, such as {{adapter: lora}}")
    options = {str(key): value for key, value in (about or {}).items()}
    reported, source = (options.pop(key, None) for key in ("reported", "reported_source"))
    overrides = list(_overrides(options))
    check_changes(overrides)
    changed = dict(override.split("=", 1) for override in overrides)
    named = {changed.get("adapter"), changed.get("adapter.name")}
    if named & {"none", "{name: none}"} and "train.adapter_lr" not in changed:
        overrides.append("train.adapter_lr=null")  # it has no effect there, which is an error
    return Method(name, overrides, *_published(reported, source))


def _published(reported: Any, source: Any) -> tuple[dict[str, float], str]:
    if reported is None and source is None:
        return {}, ""
    values = list(reported.values()) if isinstance(reported, dict) else []
    if not values or not all(type(v) in (int, float) and 0 <= v <= 100 for v in values):
        raise ConfigError(
            f"reported = {reported!r} must be a mapping of domains to mIoU in percent"
        )
    if not isinstance(source, str) or not source:
        raise ConfigError("reported numbers need reported_source: say where they were published")
    return {str(name): float(value) for name, value in reported.items()}, source


def _overrides(options: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield `key=value` of every option in a nested or flat mapping."""
    for key, value in options.items():
        if isinstance(value, dict) and value and not any(name in value for name in _WHOLE):
            yield from _overrides(value, f"{prefix}{key}.")
        else:
            text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf)
            yield f"{prefix}{key}=" + text.removesuffix("...\n").strip()
