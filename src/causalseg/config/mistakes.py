"""Check options against a block: all mistakes at once, each with its key and what is allowed."""

import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from causalseg.config.block import Block
from causalseg.errors import ConfigError, did_you_mean

B = TypeVar("B", bound=Block)
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 100
_REPR.maxlist = _REPR.maxtuple = 12
# What pydantic puts into a location for a plain member of a union; a user did not write it.
_OF_UNION = re.compile(r"(constrained-|list\[|literal\[|function-)")


def check(block: type[B], options: Mapping[str, Any], where: str = "") -> B:
    """Return the block with these options; ConfigError has every mistake, and names ``where``."""
    try:
        return block.model_validate(dict(options))
    except ValidationError as error:
        texts: dict[str, list[str]] = {}  # a union reports one mistake once for each member
        for entry in error.errors():
            key, text = _describe(entry, block)
            texts.setdefault(key, []).append(text)
        mistakes = "\n".join(f"  {key}: {' or '.join(each)}" for key, each in texts.items())
        title = where or tag(block) or "the options"
        raise ConfigError(f"{title} has mistakes:\n{mistakes}") from error


def blocks_in(annotation: Any) -> Iterator[type[Block]]:
    """All option blocks mentioned in an annotation, unions and containers included."""
    if isinstance(annotation, type) and issubclass(annotation, Block):
        yield annotation
    for argument in get_args(annotation):
        yield from blocks_in(argument)


def tag(block: type[Block]) -> str:
    """The name by which a member of a union is chosen."""
    field = block.model_fields.get("name") or block.model_fields.get("type")
    return str(field.default) if field else ""


def _describe(entry: Any, root: type[Block]) -> tuple[str, str]:
    """One mistake: the key and its value, then what is allowed and a suggestion."""
    location = [part for part in entry["loc"] if not _OF_UNION.match(str(part))]
    path, blocks = _resolve(location[:-1], root)
    last = [str(part) for part in location[-1:]]
    key = ".".join([*path, *last]) or "options"
    given, context = entry["input"], entry.get("ctx", {})
    if entry["type"] == "extra_forbidden":
        allowed = [name for block in blocks for name in block.model_fields]
        return key, f"no such option; {did_you_mean(last[0], allowed)}"
    if entry["type"] == "missing":
        return key, "required, and not given"
    if entry["type"] == "union_tag_invalid":
        tags = _words(context["expected_tags"])
        name = context["tag"]
        return f"{key} = {_shorten(name)}", f"unknown name; {did_you_mean(name, tags)}"
    if entry["type"] == "literal_error":
        return f"{key} = {_shorten(given)}", did_you_mean(str(given), _words(context["expected"]))
    value = "" if isinstance(given, dict | Block) else f" = {_shorten(given)}"
    return f"{key}{value}", entry["msg"].removeprefix("Value error, ")


def _shorten(value: Any) -> str:
    """Return a value as text of bounded length."""
    return _REPR.repr(value)


def _words(listing: str) -> list[str]:
    return listing.replace("'", "").replace(" or ", ", ").split(", ")


def _resolve(
    location: Sequence[str | int], root: type[Block]
) -> tuple[list[str], list[type[Block]]]:
    """Follow pydantic's location: the key as a user wrote it, and the blocks found there."""
    path: list[str] = []
    blocks: list[type[Block]] = [root]
    for part in location:
        tagged = [block for block in blocks if len(blocks) > 1 and tag(block) == part]
        if tagged:  # the chosen member of a union, which a user does not write
            blocks = tagged
            continue
        path.append(str(part))
        fields = [block.model_fields[str(part)] for block in blocks if part in block.model_fields]
        if fields:  # an index or the name of a domain stays within the blocks found
            blocks = [block for field in fields for block in blocks_in(field.annotation)]
    return path, blocks
