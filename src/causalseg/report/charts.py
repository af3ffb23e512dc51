"""The charts of a report, each for light and for dark paper, and small enough for a phone.

Runs differ not only in colour but also in the shape of their dots, or in their order.
"""

import io
import itertools
import re
import statistics
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from causalseg.report.format import Value, format_percent
from causalseg.report.gallery import data_uri
from causalseg.report.read import Run
from causalseg.report.tables import Headline

# A comparison starts with a baseline, in gray; a run alone has the second colour.
COLOURS = (
    ("#626c76", "#1f5fa8", "#b8621b", "#2f7f4f", "#7d5ba6", "#b0486b", "#23808c"),
    ("#b3bbc4", "#6aa9ec", "#e59a5a", "#6cc490", "#b9a0e6", "#e583a4", "#6cc4cf"),
)
_LIGHT = COLOURS[0]
_TEXT, _EDGE, _GRID = "#1d2126", "#8a9099", "#e6e8eb"
_TO_DARK = {_TEXT: "#e4e7eb", _EDGE: "#7d858f", _GRID: "#343a42"}
_TO_DARK |= dict(zip(*COLOURS, strict=True))
_STYLE: dict[str, Any] = {
    "font.size": 9,
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "legend.labelcolor": _TEXT,
    "legend.frameon": False,
    "axes.edgecolor": _EDGE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.limits": (-3, 5),
    "grid.color": _GRID,
    "savefig.transparent": True,
    "svg.hashsalt": "causalseg",  # the same run gives the same file
    "svg.fonttype": "none",  # letters are set by the browser: a fourth of the size
}
_SHAPES = "osD^vPX"
SHAPES_AS_TEXT = "●■◆▲▼+×"
_DASHES = ("-", "--", ":", "-.")
_NOT_TERMS = ("event", "step", "loss", "lr", "seconds_per_step", "data_wait")
_WHISKERS = 12  # with more domains the dots of a row share a line and have no intervals


class Axis(NamedTuple):
    """An option, and its values as text."""

    name: str
    values: list[str]


class Chart(NamedTuple):
    """A figure as data: URIs for light and dark paper, and its numbers in words."""

    light: str
    dark: str
    alt: str


def style_index(run: int, number: int) -> int:
    """Return the index of a run, one of ``number``, in the lists of colours and shapes."""
    return run % len(_SHAPES) if number > 1 else 1


@rc_context(_STYLE)
def draw_headline(table: Headline, labels: Sequence[str]) -> Chart:
    """Draw the mIoU of every run in every domain, with intervals where there is room."""
    rows = {"mean": table.mean, **table.rows} if len(table.rows) > 1 else table.rows
    number = len(labels)
    has_whiskers = len(table.rows) <= _WHISKERS
    step = min(0.22, 0.75 / number) if has_whiskers else 0.0
    pitch = max(0.26, 0.13 * number + 0.1) if has_whiskers else 0.2  # inches
    figure, axes = _new_figure((4.6, 0.65 + pitch * len(rows)), "mIoU in %")
    figure.set_layout_engine("constrained")  # names are of any length
    for i, style in enumerate(style_index(i, number) for i in range(number)):
        colour, shape = _LIGHT[style], _SHAPES[style]
        scores = [row[i] for row in rows.values()]
        heights = np.arange(len(rows)) + (i - (number - 1) / 2) * step
        axes.plot(_fill(s.value for s in scores), heights, shape, ms=5, mfc=colour, mec=colour)
        for score, height in zip(scores, heights, strict=True):
            if has_whiskers and score.interval:
                axes.plot(score.interval, [height] * 2, "-", lw=1.4, color=colour)
    axes.set_yticks(range(len(rows)), [_shorten(name) for name in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    texts = [
        f"{name}: {_list_runs(labels, [format_percent(score.value) for score in scores])}"
        for name, scores in list(rows.items())[:_WHISKERS]
    ]
    rest = "" if len(rows) <= _WHISKERS else "; the others are in the table"
    return _chart(figure, f"mIoU in %. {'; '.join(texts)}{rest}.")


@rc_context(_STYLE)
def draw_reliability(runs: Sequence[Run], domain: str) -> Chart:
    """Draw pixel accuracy over confidence, and below it the fraction of all pixels."""
    scored = {i: run.domains[domain] for i, run in enumerate(runs) if domain in run.domains}
    calibrations = {i: each.calibration for i, each in scored.items() if each.calibration}
    figure = Figure(figsize=(3.2, 3.5))
    figure.subplots_adjust(left=0.17, right=0.96, bottom=0.12, top=0.98, hspace=0.12)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 100], [0, 100], "--", lw=1, color=_LIGHT[0], alpha=0.7)
    for i, calibration in calibrations.items():
        style = style_index(i, len(runs))
        x, y = _fill(calibration.confidence), _fill(calibration.accuracy)
        upper.plot(x, y, f"-{_SHAPES[style]}", ms=4, lw=1.5, color=_LIGHT[style])
        shares = 100 * np.array(calibration.pixels) / max(1, sum(calibration.pixels))
        edges = np.linspace(0, 100, len(shares) + 1)
        is_filled = len(calibrations) == 1
        lower.stairs(shares, edges, fill=is_filled, lw=1.5, color=_LIGHT[style])
    upper.set(xlim=(0, 100), ylim=(0, 100), ylabel="right in %")
    lower.set(xlabel="confidence in %", ylabel="pixels in %")
    errors = [format_percent(calibration.ece) for calibration in calibrations.values()]
    listed = _list_runs([runs[i].label for i in calibrations], errors)
    return _chart(figure, f"Reliability in {domain}. Calibration error in points: {listed}.")


@rc_context(_STYLE)
def draw_images(runs: Sequence[Run], domain: str) -> Chart:
    """Draw the distribution of the mIoU of single images: histogram and median of each run."""
    texts = []
    figure, axes = _new_figure((3.2, 0.7 + 0.55 * len(runs)), "mIoU of an image in %")
    for i, run in enumerate(runs):
        values = list(run.image_mious(domain).values())
        if not values:
            texts.append("no image")
            continue
        style = style_index(i, len(runs))
        colour, base = _LIGHT[style], len(runs) - 1 - i
        counts, edges = np.histogram(values, bins=40, range=(0, 100))
        heights = base + 0.8 * counts / counts.max()
        axes.stairs(heights, edges, baseline=base, fill=True, color=colour, alpha=0.55)
        low, middle, high = min(values), float(np.median(values)), max(values)
        axes.plot([middle] * 2, [base, base + 0.85], lw=1.5, color=colour)
        dot: dict[str, Any] = {"ms": 5, "mfc": colour, "mec": colour, "clip_on": False}
        axes.plot([middle], [base], _SHAPES[style], **dot)
        texts.append(f"lowest {low:.1f}, median {middle:.1f}, highest {high:.1f}")
    axes.set(xlim=(0, 100), ylim=(0, len(runs)), yticks=[])
    axes.spines.left.set_visible(False)
    listed = _list_runs([run.label for run in runs], texts)
    return _chart(figure, f"mIoU of single images of {domain} in %: {listed}.")


def draw_training(runs: Sequence[Run]) -> dict[str, Chart]:
    """Draw loss, learning rate and, if measured more than once, mIoU over steps; by title."""
    training, scoring = ([run.events(kind) for run in runs] for kind in ("train", "eval"))
    terms = [[k for k in events[-1] if k not in _NOT_TERMS] for events in training if events]
    charts = {}
    if terms:
        several = dict.fromkeys(k for own in terms if len(own) > 1 for k in own)
        charts["Loss"] = _draw_curves(runs, training, ["loss", *several], "loss")
        charts["Learning rate of the head"] = _draw_curves(runs, training, ["lr"], "learning rate")
    if any(len(events) > 1 for events in scoring):
        scores = [[{"step": e["step"], **e["miou"]} for e in events] for events in scoring]
        title, names = "Mean mIoU during training", ["mean"]
        if len(runs) == 1:
            others = [name for name in scores[0][-1] if name not in ("step", "mean")]
            title, names = "mIoU during training", ["mean", *others[:_WHISKERS]]
        charts[title] = _draw_curves(runs, scores, names, "mIoU in %")
    return charts


@rc_context({**_STYLE, "axes.grid.axis": "x"})
def draw_methods(scores: Mapping[str, Sequence[float]], reference: str) -> Chart:
    """Draw mean mIoU in percent, standard deviation and seeds of methods, the best on top."""
    ranked = sorted(scores, key=lambda name: statistics.mean(scores[name]))
    figure = Figure(figsize=(5.2, 0.75 + 0.34 * len(ranked)), layout="constrained")
    axes = figure.add_subplot(xlabel="mean mIoU in %")
    for height, name in enumerate(ranked):
        values, colour = scores[name], _LIGHT[0 if name == reference else 1]
        mean = statistics.mean(values)
        deviation = statistics.stdev(values) if len(values) > 1 else None
        axes.errorbar(mean, height, xerr=deviation, fmt="o", ms=7, capsize=3, color=colour)
        axes.plot(values, [height - 0.22] * len(values), "o", ms=3, color=colour, alpha=0.75)
        axes.text(mean, height + 0.16, format_percent(mean), fontsize=8, ha="center")
        if name == reference:
            axes.axvline(mean, color=colour, lw=1, ls="--", zorder=0)
    names = [f"{name} (reference)" if name == reference else name for name in ranked]
    axes.set_yticks(range(len(names)), list(map(_plain, names)))
    axes.set_ylim(-0.6, len(names) - 0.3)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)
    return _chart(figure, "Mean mIoU of every method, as in the table above")


@rc_context(_STYLE)
def draw_progress(curves: Mapping[str, Mapping[int, float]], what: str) -> Chart:
    """Draw the mIoU in % by method and step, the first in gray; ``what`` names the domains."""
    figure = Figure(figsize=(5.6, 2.9), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="mIoU in %")
    for i, (name, curve) in enumerate(curves.items()):
        style, turn = i % len(_LIGHT), i // len(_LIGHT)
        line: dict[str, Any] = {"ls": _DASHES[turn % len(_DASHES)], "lw": 1.4, "ms": 3.5}
        line |= {"color": _LIGHT[style], "marker": _SHAPES[style]}
        axes.plot(list(curve), list(curve.values()), label=_shorten(name), **line)
    figure.legend(loc="outside right upper", fontsize=7, ncols=1 + (len(curves) - 1) // 14)
    ends = [_describe_ends(name, list(curve.items()), ".1f") for name, curve in curves.items()]
    return _chart(figure, f"mIoU in % over training steps, {what}: {'; '.join(ends)}.")


@rc_context({**_STYLE, "axes.grid": False})
def draw_heat(scores: Sequence[Sequence[Value]], rows: Axis, columns: Axis, width: float) -> Chart:
    """Draw mIoU in % by two options, rows upwards, on a scale of its own; None stays empty.

    ``width`` in inches grows with the columns. At least one score is known.
    """
    table = np.ma.masked_invalid([_fill(row) for row in scores])
    low, high = float(table.min()), float(table.max())
    count = len(columns.values)
    width = max(width, 1.4 + 0.42 * count)
    turn, below = _fit_labels(columns, (width - 1.4) / count)
    upwards = max(0.34 * len(rows.values), 0.075 * len(rows.name))  # room for the option's name
    figure = Figure(figsize=(width, 0.6 + below + upwards), layout="constrained")
    axes = figure.add_subplot(xlabel=_plain(columns.name), ylabel=_plain(rows.name))
    shades = [(_LIGHT[1], 0.05), (_LIGHT[1], 0.55)]  # text stays readable on the darkest
    cmap = LinearSegmentedColormap.from_list("", shades, N=16)
    slack = 0.0 if low < high else 0.1  # a scale has two ends
    limits: dict[str, Any] = {"vmin": low - slack, "vmax": high + slack}
    mesh = axes.pcolormesh(table, cmap=cmap, edgecolors=_GRID, lw=0.8, **limits)
    for (i, j), score in np.ndenumerate(table.filled(np.nan)):
        if np.isfinite(score):
            axes.text(j + 0.5, i + 0.5, format_percent(score), fontsize=8, ha="center", va="center")
    axes.set_xticks(np.arange(count) + 0.5, columns.values, rotation=turn)
    axes.set_yticks(np.arange(len(rows.values)) + 0.5, rows.values)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    ends = sorted({low, high})
    bar = figure.colorbar(mesh, ticks=ends, format=lambda end, _: format_percent(end), aspect=12)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8)
    (i, j), (k, n) = (np.unravel_index(at, table.shape) for at in (table.argmin(), table.argmax()))
    texts = [f"{low:.1f} at {rows.values[i]}, {columns.values[j]}"]
    texts.append(f"{high:.1f} at {rows.values[k]}, {columns.values[n]}")
    return _chart(figure, f"mIoU in % by {rows.name} and {columns.name}: {' to '.join(texts)}.")


@rc_context(_STYLE)
def draw_line(scores: Sequence[Sequence[float]], axis: Axis, width: float) -> Chart:
    """Draw mIoU in % by an option: mean and seeds of each value; nothing where there is none."""
    width = max(width, 0.9 + 0.16 * len(axis.values))
    turn, below = _fit_labels(axis, (width - 0.9) / len(axis.values))
    figure = Figure(figsize=(width, 2.2 + below), layout="constrained")
    axes = figure.add_subplot(xlabel=_plain(axis.name), ylabel="mIoU in %")
    means = [statistics.mean(values) if values else None for values in scores]
    axes.plot(range(len(means)), _fill(means), "-o", ms=6, lw=1.5, color=_LIGHT[1])
    for i, values in enumerate(scores):
        axes.plot([i] * len(values), values, "o", ms=3, color=_LIGHT[0], alpha=0.75)
    axes.set_xticks(range(len(axis.values)), axis.values, rotation=turn)
    axes.set_xlim(-0.4, len(axis.values) - 0.6)
    axes.ticklabel_format(axis="y", useOffset=False)
    texts = [f"{format_percent(m)} at {v}" for m, v in zip(means, axis.values, strict=True)]
    return _chart(figure, f"mIoU in % by {axis.name}: {', '.join(texts)}.")


@rc_context(_STYLE)
def draw_power(curves: Mapping[str, Sequence[Sequence[Value]]], edges: Sequence[float]) -> Chart:
    """Draw power over frequency, the first curve in gray; each has values and both interval ends.

    ``edges`` are the radii between which the values are.
    """
    figure = Figure(figsize=(3.6, 2.8), layout="constrained")
    axes = figure.add_subplot(xlabel="frequency, sqrt(u² + v²)", ylabel="power", yscale="log")
    centres = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
    for i, (name, (values, low, high)) in enumerate(curves.items()):
        style = i % len(_LIGHT)
        colour, dashes = _LIGHT[style], _DASHES[i // len(_LIGHT) % len(_DASHES)]
        dots: dict[str, Any] = {"marker": _SHAPES[style], "ms": 3.5, "ls": dashes, "lw": 1.4}
        axes.plot(centres, _fill(values), color=colour, label=_shorten(name), **dots)
        axes.fill_between(centres, _fill(low), _fill(high), color=colour, alpha=0.2, lw=0)
    if len(curves) > 1:
        axes.legend(fontsize=7)
    ends = [
        f"{name} {_fill(values)[0]:.2g} at the lowest to {_fill(values)[-1]:.2g} at the highest"
        for name, (values, *_) in curves.items()
    ]
    return _chart(figure, f"Power by frequency: {'; '.join(ends)}.")


@rc_context(_STYLE)
def _draw_curves(
    runs: Sequence[Run], events: Sequence[list[dict[str, Any]]], names: list[str], ylabel: str
) -> Chart:
    """Draw values over steps: runs by colour and names by dashes; one run's names by colour."""
    is_one = len(runs) == 1
    figure, axes = _new_figure((3.9, 2.9), "step", ylabel)
    for i, entries in enumerate(events):
        steps = [entry["step"] for entry in entries]
        for j, name in enumerate(names):
            style = (j + 1) % len(_LIGHT) if is_one else style_index(i, len(runs))
            turns = j // len(_LIGHT) if is_one else j
            dashes = _DASHES[turns % len(_DASHES)]
            # Later runs are thinner: where lines coincide, all of them are seen.
            width = 1.1 if j else (3.0, 1.5, 1.2)[min(i, 2)] if not is_one else 1.8
            dots = _SHAPES[style] if len(steps) < 30 else ""
            line: dict[str, Any] = {"ls": dashes, "lw": width, "marker": dots, "ms": 3.5}
            values = _fill(entry.get(name) for entry in entries)
            axes.plot(steps, values, color=_LIGHT[style], **line)
            if i == 0:
                line |= {"color": _LIGHT[style if is_one else 0], "marker": ""}
                axes.plot([], [], label=_shorten(name), **line)
    if len(names) > 1:
        axes.legend(fontsize=8, ncols=1 + len(names) // 7)
    axes.set_ylim(bottom=0)
    ends = []
    for run, entries in zip(runs, events, strict=True):
        known = [(e["step"], e[names[0]]) for e in entries if e.get(names[0]) is not None]
        if known:
            ends.append(_describe_ends(run.label, known, ".3g"))
    return _chart(figure, f"{ylabel} over training steps: {'; '.join(ends) or 'no number'}.")


def _describe_ends(name: str, points: Sequence[tuple[int, float]], digits: str) -> str:
    (first, start), (last, end) = points[0], points[-1]
    return f"{name} from {start:{digits}} at step {first} to {end:{digits}} at {last}"


def _chart(figure: Figure, alt: str) -> Chart:
    """Save a figure, and again with the colours for dark paper."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Names may be in any script: the browser has glyphs that matplotlib's font lacks.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    light = buffer.getvalue()
    pattern = "|".join(_TO_DARK)
    dark = re.sub(f'(?<=: )({pattern})(?=[;"])', lambda match: _TO_DARK[match[0]], light.decode())
    return Chart(data_uri("svg+xml", light), data_uri("svg+xml", dark.encode()), alt)


def _new_figure(inches: tuple[float, float], xlabel: str, ylabel: str = "") -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes and room for short numbers at its left."""
    width, height = inches
    figure = Figure(figsize=inches)
    left, top = (0.65 if ylabel else 0.15), height - 0.18
    figure.subplots_adjust(left / width, 0.5 / height, 1 - 0.15 / width, top / height)
    return figure, figure.add_subplot(xlabel=xlabel, ylabel=ylabel)


def _fit_labels(axis: Axis, room: float) -> tuple[int, float]:
    """Return the rotation of labels that have ``room`` inches each, and their height in inches."""
    longest = 0.075 * max(map(len, axis.values))
    return (90, longest) if longest + 0.1 > room else (0, 0.15)


def _shorten(name: str) -> str:
    return _plain(name if len(name) <= 24 else f"{name[:23]}…")


def _plain(text: str) -> str:
    """Return text that matplotlib reads neither as a formula nor as a hidden label of a legend."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def _list_runs(labels: Sequence[str], texts: Sequence[str]) -> str:
    """Return every text with the label of its run; of a single run only the text."""
    if len(labels) == 1:
        return texts[0]
    return ", ".join(f"{text} ({label})" for label, text in zip(labels, texts, strict=True))


def _fill(values: Iterable[Value]) -> np.ndarray:
    """Return values as an array, NaN for what is missing."""
    return np.array([np.nan if value is None else value for value in values], dtype=float)
