"""Tables of options, from the configuration: docs/reference.md and docs/methods/*.md."""

import functools
import re
from collections.abc import Sequence
from pathlib import Path

from causalseg.config.load import Option, list_options
from causalseg.report.format import format_markdown

START, END = "<!-- options:start -->", "<!-- options:end -->"
_BLOCK = re.compile(f"{START}\n.*{END}", re.DOTALL)
_MEMBER = re.compile(r"(\S+?)\[(\w+)\]\.(.+)")  # an option of one member of a union
_MORE = {"layers": "README.md#place", "init": "causal_tune.md#initialisation"}
_options = functools.cache(list_options)


def reference_page(generated: str) -> str:
    """Return docs/reference.md; ``generated`` is the line that says so."""
    parts = [
        "# Reference: every option",
        generated,
        "The same text as `causalseg config keys`. The column `of` names the adapters, heads or "
        "types of data that have an option. In a file the adapter's are below `adapter: {name: "
        "...}`; on the command line they are `adapter.rank=8`. An entry of `data.domains` has a "
        "name of its own: `data.domains.dusk.every=2`.",
    ]
    for block in (option for option in _options() if "." not in option.key):
        parts += [f"## {block.key}", f"{block.text} Default: {block.default}."]
        inner = [
            option
            for option in _options()
            if re.match(rf"{block.key}[.\[]", option.key) and option.default
        ]
        if inner:
            parts.append(_merged_table(inner))
    return "\n\n".join(parts) + "\n"


def method_pages(folder: Path) -> dict[Path, str]:
    """Return the pages of a folder that hold a block of options, with the block as it should be.

    A page ``NAME.md`` gets the options of ``adapter: NAME``, or those of the block ``NAME``.
    """
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))}
    return {
        path: _BLOCK.sub(lambda _, path=path: f"{START}\n{_table_of(path.stem)}\n{END}", text)
        for path, text in texts.items()
        if START in text
    }


def _table_of(name: str) -> str:
    """The options of a method; those of ``init`` in full on the page of the method itself."""
    prefix = re.compile(rf"(adapter\[{name}\]|{name})\.")
    rows = []
    for option in _options():
        key = prefix.sub("", option.key, count=1)
        is_own = prefix.match(option.key) and not _is_name(option)
        if is_own and (name == "causal_tune" or not key.startswith("init.")):
            more = f" ([more]({_MORE[key]}))" if key in _MORE else ""
            rows.append([f"`{key}`", f"`{option.default}`", option.text + more])
    return format_markdown(["option", "default", "what it does"], rows)


def _merged_table(options: Sequence[Option]) -> str:
    """Options with one row for those that several members of a union share."""
    keys: dict[tuple[str, ...], dict[str, None]] = {}  # in order, without repetition
    members: dict[tuple[str, ...], dict[str, None]] = {}
    for option in (option for option in options if not _is_name(option)):
        match = _MEMBER.fullmatch(option.key)
        parent, member, rest = match.groups() if match else ("", "", option.key)
        row = (rest, option.type, f"`{option.default}`", option.text)
        keys.setdefault(row, {})[f"`{parent}.{rest}`" if match else f"`{rest}`"] = None
        members.setdefault(row, {})[member] = None
    header = ["key", "of", "type", "default", "what it does"]
    rows = [[", ".join(keys[row]), ", ".join(members[row]), *row[1:]] for row in keys]
    if not any(of for _, of, *_ in rows):
        header, rows = [header[0], *header[2:]], [[row[0], *row[2:]] for row in rows]
    return format_markdown(header, rows)


def _is_name(option: Option) -> bool:
    """Whether an option is the name by which a member of a union is chosen."""
    match = _MEMBER.fullmatch(option.key)
    return match is not None and match[3] in ("name", "type") and option.default == match[2]
