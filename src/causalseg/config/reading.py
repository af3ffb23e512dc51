"""YAML from files and overrides: plain values, in bounded time, one kind of error."""

from pathlib import Path
from typing import Any

import yaml

from causalseg.errors import ConfigError

_MOST_BYTES = 1_000_000
_MOST_NODES = 100_000  # with every alias counted as what it stands for


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that comes twice, of which PyYAML would keep the last value silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in lines:
                raise yaml.YAMLError(
                    f"{key.value!r} is in line {lines[key.value]} and again in line {line}"
                )
            lines[key.value] = line
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str) -> Any:
    """Return the value of a YAML text; ConfigError, which names ``where``, if there is none.

    Also refused is what only breaks the reader: impossible dates, numbers of thousands of digits,
    tags, depth, and aliases that stand for more than a configuration can hold.
    """
    try:
        loader = _UniqueKeys(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _count(node, {}) > _MOST_NODES:
            raise yaml.YAMLError(f"it stands for more than {_MOST_NODES:,} values")
        return loader.construct_document(node)
    except RecursionError:
        raise ConfigError(f"{where} is not YAML: it is too deep") from None
    except (yaml.YAMLError, ValueError, TypeError, ArithmeticError, LookupError) as error:
        raise ConfigError(f"{where} is not YAML: {error}") from error


def read_yaml(path: Path) -> Any:
    """Return the value of a YAML file; raise ConfigError if it has none or is too large."""
    if path.stat().st_size > _MOST_BYTES:
        raise ConfigError(f"{path} is not YAML of options: it is larger than a megabyte")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    return parse_yaml(text, str(path))


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """The number of values that a node stands for."""
    if id(node) not in known:
        known[id(node)] = _MOST_NODES  # an alias of itself, within itself
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for pair in inner for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(node)]
