"""From a YAML file and `key=value` overrides to a checked `Config`, and back.

All mistakes are reported at once, each with its key, its value, what is allowed and a suggestion.
"""

import logging
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml

from causalseg.config import Config
from causalseg.config.adapters import has_open_band, with_bands
from causalseg.config.band import Band
from causalseg.config.block import Block
from causalseg.config.mistakes import blocks_in, check, tag
from causalseg.config.reading import parse_yaml, read_yaml
from causalseg.config.settings import find_setting, lay_over
from causalseg.errors import ConfigError, MissingFileError

_HAVE_KINDS = ("intervene", "init", "spectral")  # blocks that a kind names, not a name
CHECKSUM = "backbone.sha256"  # of the weight file; null until it was read
logger = logging.getLogger("causalseg")
# An option, values of it that count (None: all but null), and what then has no effect.
_MAKES_IDLE = (
    ("adapter", ("none", {"name": "none"}), "train.adapter_lr"),
    ("train.epochs", None, "train.steps"),
    ("train.steps", None, "train.epochs"),
)


class Option(NamedTuple):
    """One line of the manual."""

    key: str
    type: str
    default: str
    text: str


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply ``key=value`` overrides in order, and check everything.

    Overrides look like ``adapter.band.high=0.8``; values are YAML; ``adapter=none`` swaps the
    block for its defaults. Raises MissingFileError, or ConfigError with every mistake found.
    """
    missing = f"no configuration file {path}; `configs/` has examples"
    wrong = f"{path} must hold `key: value` lines, such as `adapter: causal_tune`"
    options = read_mapping(path, missing, wrong)
    return parse_config(options, overrides, f"{path}{' with overrides' if overrides else ''}")


def read_mapping(path: Path, missing: str, wrong: str) -> dict[Any, Any]:
    """Read a YAML mapping; ``missing`` and ``wrong`` are the errors if there is none."""
    if not path.is_file():
        raise MissingFileError(missing)
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ConfigError(wrong)
    return content


def parse_config(
    options: dict[str, Any], overrides: Sequence[str] = (), where: str = "the configuration"
) -> Config:
    """Check plain options, named ``where`` in errors; ConfigError has every mistake found.

    Options override a setting among them; a setting in an override overrides the options. An
    option without effect beside an override is dropped, with a line in the log.
    """
    if options.get("setting") is not None:
        options = lay_over(find_setting(options["setting"]), options)
    for override in overrides:
        if override.startswith("setting="):
            options = lay_over(options, find_setting(override.removeprefix("setting=")))
        else:
            options = apply_override(options, override)
    options = _without_idle(options, [override.partition("=")[0] for override in overrides])
    return check(Config, options, where)


def dump_config(config: Config) -> str:
    """Return a configuration as YAML with every option in it."""
    content = config.model_dump(mode="json")
    if config.train.epochs is not None:  # in place of steps, beside which they are refused
        del content["train"]["steps"]
    return yaml.safe_dump(content, sort_keys=False)


def list_differences(ours: Config, theirs: Config) -> dict[str, tuple[Any, Any]]:
    """Return the options in which two configurations differ: key -> (ours, theirs).

    A checksum or measured band that one of them leaves open is no difference.
    """
    if has_open_band(ours.adapter) or has_open_band(theirs.adapter):
        ours, theirs = (
            c.model_copy(update={"adapter": with_bands(c.adapter, Band(auto=True))})
            for c in (ours, theirs)
        )
    first, second = (dict(flatten(c.model_dump(mode="json"))) for c in (ours, theirs))
    pairs = {key: (first.get(key), second.get(key)) for key in first | second}
    if None in pairs[CHECKSUM]:
        del pairs[CHECKSUM]
    return {key: (one, other) for key, (one, other) in pairs.items() if one != other}


def flatten(options: Any, key: str = "", in_lists: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield every option of nested mappings by its path, such as ``train.lr``.

    ``in_lists``: of a list of blocks, yield its ``length`` and each block's options by its index.
    """
    if in_lists and isinstance(options, list) and options and isinstance(options[0], dict):
        yield f"{key}.length", len(options)
        options = dict(enumerate(options))
    if isinstance(options, dict) and options:
        for name, inner in options.items():
            yield from flatten(inner, f"{key}.{name}" if key else name, in_lists)
    else:
        yield key, options


def list_options(
    block: type[Block] = Config, prefix: str = "", siblings: Sequence[type[Block]] = ()
) -> list[Option]:
    """Return every option in the order of `config`; `adapter[none].x` belongs to `name: none`."""
    options = []
    for name, field in block.model_fields.items():
        default = "required" if field.is_required() else _shown(field.default)
        text = " ".join((field.description or "").split())
        options.append(Option(prefix + name, _type_name(field.annotation), default, text))
        inner = [child for child in blocks_in(field.annotation) if child not in siblings]
        for child in inner:
            suffix = f"[{tag(child)}]" if len(inner) > 1 else ""
            options += list_options(child, f"{prefix}{name}{suffix}.", inner)
    return options


def _without_idle(options: dict[str, Any], overridden: Sequence[str]) -> dict[str, Any]:
    """Return options without those of the file that an override has made idle."""
    for cause, values, idle in _MAKES_IDLE:
        value, block, name = _value_at(options, cause), *idle.split(".")
        counts = value is not None if values is None else value in values
        given = [path for path in (cause, idle) if any(_touches(key, path) for key in overridden)]
        if counts and given == [cause] and _value_at(options, idle) is not None:
            logger.info("%s has no effect beside %s=%s: dropped", idle, cause, value)
            rest = {key: inner for key, inner in options[block].items() if key != name}
            options = {**options, block: rest}
    return options


def _value_at(options: Any, path: str) -> Any:
    """The value of an option, None where there is none."""
    for name in path.split("."):
        options = options.get(name) if isinstance(options, dict) else None
    return options


def _touches(key: str, path: str) -> bool:
    """Whether an override of ``key`` changes the option at ``path``, whole or in part."""
    return f"{path}.".startswith(f"{key}.") or key.startswith(f"{path}.")


def apply_override(options: dict[str, Any], override: str) -> dict[str, Any]:
    """Return a copy of options with one `key=value` applied; ConfigError if it is not one."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(
            f"override {override!r} is not of the form key=value, such as train.lr=2e-4"
        )
    value = _number(parse_yaml(text, f"the value of override {override[:100]!r}"))
    return _with_value(options, key.split("."), value, override)


def _with_value(options: Any, path: list[str], value: Any, override: str) -> dict[str, Any]:
    if not isinstance(options, dict | None):
        raise ConfigError(f"override {override!r}: there are no options below a plain value")
    head, *rest = path
    if rest:
        inner = (options or {}).get(head)
        if isinstance(inner, str):  # `adapter: causal_tune` with `adapter.rank=8` on top
            inner = {"kind" if head in _HAVE_KINDS else "name": inner}
        value = _with_value(inner, rest, value, override)
    return {**(options or {}), head: value}


def _number(value: Any) -> Any:
    """YAML 1.1 reads 2e-4 as text: read it as the number it is."""
    if isinstance(value, str) and value[:1].isdigit():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _shown(default: Any) -> str:
    if isinstance(default, Block):
        return tag(type(default)) or "its defaults"
    return "null" if default is None else str(default)


def _type_name(annotation: Any) -> str:
    """A short name of a type for people: `int`, `[int, int] or null`, `slide or whole`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type_name(argument) for argument in arguments))
    if origin is tuple:
        return f"[{', '.join(_type_name(argument) for argument in arguments)}]"
    if origin in (list, dict):
        return f"{origin.__name__} of {' to '.join(_type_name(a) for a in arguments)}"
    if isinstance(annotation, type) and issubclass(annotation, Block):
        return "options"
    return getattr(annotation, "__name__", str(annotation))
