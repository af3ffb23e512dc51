r"""Paths with fields: ``leftImg8bit/val/{city}/{name}_leftImg8bit.png``.

A field is any text without a slash, or matches its regular expression (``{name:0001TP_\d+}``); a
repeated field must be the same text.
"""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from causalseg.errors import ConfigError

_ANY = "[^/]+"  # a field without a regular expression
# A name, and after a colon a regular expression, which may have counts in braces.
_FIELD = re.compile(r"\{([a-z]\w*)(?::((?:[^{}]|\{[^{}]*\})+))?\}")


class Match(NamedTuple):
    """The folders above a matching path, ending in a slash, and its fields."""

    above: str
    fields: dict[str, str]


class Template:
    """Matches paths that end in the template, below any folders.

    ``patterns`` has regular expressions for fields without one in the text.

    Attributes:
        plain: the template without regular expressions.
        folder: the folders before the first field, ending in a slash.
        patterns: the regular expression of every field.

    Raises ConfigError if a brace belongs to no field, or a regular expression is wrong.
    """

    def __init__(self, text: str, patterns: Mapping[str, str] | None = None):
        self.text = text
        self.plain = _FIELD.sub(r"{\1}", text)
        self.folder = text[: text.partition("{")[0].rfind("/") + 1]
        self.patterns: dict[str, str] = {}
        if re.search(r"[{}]", _FIELD.sub("", text)):
            raise ConfigError(
                f"template {text!r} has a brace outside of a field: fields are {{name}} or "
                "{name:regular expression}"
            )
        regex, at = "", 0
        for field in _FIELD.finditer(text):
            regex += re.escape(text[at : field.start()])
            at, name = field.end(), field[1]
            if name in self.patterns:
                regex += f"(?P={name})"
            else:
                self.patterns[name] = field[2] or (patterns or {}).get(name, _ANY)
                regex += f"(?P<{name}>{self.patterns[name]})"
        try:
            self._regex = re.compile(f"(?P<_above>(?:[^/]+/)*?){regex}{re.escape(text[at:])}")
        except re.error as error:
            message = f"template {text!r} has a wrong regular expression: {error}"
            raise ConfigError(message) from error

    def match(self, path: str) -> Match | None:
        """Return folders and fields of a path, or None if it does not match."""
        match = self._regex.fullmatch(path)
        if match is None:
            return None
        fields = match.groupdict()
        return Match(fields.pop("_above"), fields)

    def fill(self, fields: Mapping[str, str]) -> str:
        """Return the path with these fields."""
        return _FIELD.sub(lambda field: fields[field[1]], self.text)


def pair_by_fields(
    images: Mapping[str, Mapping[str, str]], labels: Collection[str], template: Template
) -> tuple[dict[str, str], list[str], list[str]]:
    """Pair images, given with their fields, and labels, given by paths of the template.

    Returns the label of every image that has one, images without label, and labels without image.
    """
    label_of = {image: template.fill(fields) for image, fields in images.items()}
    unlabelled = [image for image, label in label_of.items() if label not in labels]
    unused = sorted(set(labels) - set(label_of.values()))
    return {i: label for i, label in label_of.items() if label in labels}, unlabelled, unused
