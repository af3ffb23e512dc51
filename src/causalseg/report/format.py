"""Numbers and names as text, for all reports, tables, cards and commands.

A missing value is an en dash, a negative number has a minus sign, and zero has no sign.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from causalseg.runs.scores import DomainScores, Value, size_text

Interval = tuple[float, float]
MISSING = "–"
MANY_DOMAINS = 8  # a sentence counts more domains than these instead of naming them

OptionValue = float | str  # of an option that is swept or tuned


class Grid(NamedTuple):
    """A table of texts with a title and column heads."""

    title: str
    head: list[str]
    rows: list[list[str]]


def known_values(values: Iterable[Value]) -> list[float]:
    """Return all values, or none of them if one is missing."""
    values = list(values)
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def mean_of(values: Iterable[Value]) -> Value:
    """Return the mean, or None if a value is missing or there is none."""
    known = known_values(values)
    return statistics.fmean(known) if known else None


def subtract(value: Value, other: Value) -> Value:
    """Return the difference, or None if a value is missing."""
    return None if value is None or other is None else value - other


def format_percent(value: Value) -> str:
    """Return a number with one decimal."""
    return MISSING if value is None else f"{value:.1f}"


def format_signed(value: Value) -> str:
    """Return a difference with one decimal and its sign."""
    if value is None:
        return MISSING
    return "0.0" if round(value, 1) == 0 else f"{value:+.1f}".replace("-", "−")


def format_interval(interval: Interval | None, is_signed: bool = False) -> str:
    """Return ``[low, high]``, or nothing without an interval."""
    if interval is None:
        return ""
    low, high = map(format_signed if is_signed else format_percent, interval)
    return f"[{low}, {high}]"


def format_spread(values: Sequence[Value], is_signed: bool = False) -> str:
    """Return the mean and, of several values, the standard deviation; a dash if one is missing."""
    known = known_values(values)
    if not known:
        return MISSING
    mean = (format_signed if is_signed else format_percent)(statistics.mean(known))
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.1f}"


def value_text(value: OptionValue) -> str:
    """Return a word, or a number in the shortest form: 5e-4 for 0.0005."""
    if isinstance(value, str):
        return value
    if value == 0 or 0.01 <= abs(value) < 1e4:
        return f"{value:g}"
    digits, _, power = f"{value:e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"


def format_count(number: int, noun: str) -> str:
    """Return ``1 image`` or ``6 images``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def list_domains(names: Sequence[str]) -> str:
    """Return the domains by name, or their number if there are many."""
    return ", ".join(names) if len(names) <= MANY_DOMAINS else f"{len(names)} domains"


def describe_domain(domain: DomainScores, with_corruption: bool = True) -> str:
    """Say what a domain consists of: images, label size, split, corruption and resizing."""
    parts = [format_count(domain.images, "image")]
    if domain.size:
        parts.append(f"{size_text(domain.size)} px")
    if domain.split is not None:
        parts.append(domain.split)
    if domain.corruption and with_corruption:
        parts.append(f"{domain.corruption.name}, severity {domain.corruption.severity}")
    if domain.resized_to:
        parts.append(f"resized to {size_text(domain.resized_to)} px")
    if domain.fit_inside:
        parts.append(f"resized to fit inside {size_text(domain.fit_inside)} px")
    return ", ".join(parts)


def describe_domains(domains: Mapping[str, DomainScores]) -> list[str]:
    """Say what the domains consist of, once for those that differ only in the corruption."""
    groups: dict[str, list[str]] = {}
    for name, domain in domains.items():
        if corruption := domain.corruption:
            name += f" ({corruption.name}, severity {corruption.severity})"
        groups.setdefault(describe_domain(domain, with_corruption=False), []).append(name)
    return [
        f"{', '.join(names)}: {'each ' if len(names) > 1 else ''}{text}"
        for text, names in groups.items()
    ]


def format_markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )
