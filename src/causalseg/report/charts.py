"""The charts of a report, each drawn twice: for light and for dark paper.

Every chart is small enough to be read on a phone. Colour is never alone: runs also differ in the
shape of their dots, or in their order.
"""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from causalseg.report.gallery import data_uri
from causalseg.report.read import Run
from causalseg.report.tables import Headline, percent

STYLE = {
    **{"font.size": 9, "axes.edgecolor": "#8a9099", "legend.frameon": False},
    **{"axes.spines.top": False, "axes.spines.right": False},
    **{"axes.grid": True, "axes.axisbelow": True, "grid.color": "#e6e8eb"},
    "axes.formatter.limits": (-3, 5),
    "svg.hashsalt": "causalseg",  # the same run gives the same file
}
# A comparison starts with a baseline, in gray; a run alone has the second colour.
COLOURS = (
    ("#626c76", "#1f5fa8", "#b8621b", "#2f7f4f", "#7d5ba6", "#b0486b", "#23808c"),
    ("#b3bbc4", "#6aa9ec", "#e59a5a", "#6cc490", "#b9a0e6", "#e583a4", "#6cc4cf"),
)
_INK = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "legend.labelcolor")
_PAPER = {
    **{**STYLE, **dict.fromkeys(_INK, "#1d2126"), "savefig.transparent": True},
    "svg.fonttype": "none",  # letters are set by the browser: a fourth of the size
}
_TO_DARK = {
    **{"#1d2126": "#e4e7eb", "#8a9099": "#7d858f", "#e6e8eb": "#343a42"},
    **dict(zip(*COLOURS, strict=True)),
}
_LIGHT = COLOURS[0]
_SHAPES = "osD^vPX"
SHAPES_AS_TEXT = "●■◆▲▼+×"
_DASHES = ("-", "--", ":", "-.")
_NOT_TERMS = ("event", "step", "loss", "lr", "seconds_per_step", "data_wait")
_WHISKERS = 12  # with more domains the dots of a row share a line and have no intervals


class Chart(NamedTuple):
    """A figure as data: URIs for light and dark paper, and its numbers in words."""

    light: str
    dark: str
    alt: str


def place_of(index: int, number: int) -> int:
    """The place of a run in the lists of colours and shapes."""
    return index % len(_SHAPES) if number > 1 else 1


def draw_headline(table: Headline, labels: Sequence[str]) -> Chart:
    """Draw the mIoU of every run in every domain, with intervals where there is room."""
    rows = {"mean": table.mean, **table.rows} if len(table.rows) > 1 else table.rows
    number = len(labels)
    has_whiskers = len(table.rows) <= _WHISKERS
    step = min(0.22, 0.75 / number) if has_whiskers else 0.0
    pitch = max(0.26, 0.13 * number + 0.1) if has_whiskers else 0.2  # inches

    with rc_context(_PAPER):
        figure, axes = _new((4.6, 0.65 + pitch * len(rows)), "mIoU in %")
        figure.set_layout_engine("constrained")  # names are of any length
        for i in range(number):
            place = place_of(i, number)
            cells = [cells[i] for cells in rows.values()]
            heights = np.arange(len(rows)) + (i - (number - 1) / 2) * step
            dots: dict[str, Any] = {"ms": 5, "mfc": _LIGHT[place], "mec": _LIGHT[place]}
            axes.plot(_values(cell.value for cell in cells), heights, _SHAPES[place], **dots)
            for cell, height in zip(cells, heights, strict=True):
                if has_whiskers and cell.interval:
                    axes.plot(cell.interval, [height] * 2, "-", lw=1.4, color=_LIGHT[place])
        axes.set_yticks(range(len(rows)), [_short(name) for name in rows])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(rows) - 0.45, -0.55)

    said = [
        f"{name}: {_listed(labels, [percent(cell.value) for cell in cells])}"
        for name, cells in list(rows.items())[:_WHISKERS]
    ]
    rest = "" if len(rows) <= _WHISKERS else "; the others are in the table"
    return _chart(figure, f"mIoU in %. {'; '.join(said)}{rest}.")


def draw_reliability(runs: Sequence[Run], domain: str) -> Chart:
    """Draw the share of right pixels over confidence, and below it the share of all pixels."""
    scored = [
        (run.label, place_of(i, len(runs)), run.domains[domain]["calibration"])
        for i, run in enumerate(runs)
        if run.domains.get(domain, {}).get("calibration")
    ]

    with rc_context(_PAPER):
        figure = Figure(figsize=(3.2, 3.5))
        figure.subplots_adjust(left=0.17, right=0.96, bottom=0.12, top=0.98, hspace=0.12)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        upper.plot([0, 100], [0, 100], "--", lw=1, color=_LIGHT[0], alpha=0.7)
        for _, place, found in scored:
            x, y = _values(found["confidence"]), _values(found["accuracy"])
            upper.plot(x, y, f"-{_SHAPES[place]}", ms=4, lw=1.5, color=_LIGHT[place])
            shares = 100 * np.array(found["pixels"]) / max(1, sum(found["pixels"]))
            edges = np.linspace(0, 100, len(shares) + 1)
            lower.stairs(shares, edges, fill=len(scored) == 1, lw=1.5, color=_LIGHT[place])
        upper.set(xlim=(0, 100), ylim=(0, 100), ylabel="right in %")
        lower.set(xlabel="confidence in %", ylabel="pixels in %")

    errors = _listed(
        [label for label, *_ in scored], [f"{found['ece']:.1f}" for *_, found in scored]
    )
    return _chart(figure, f"Reliability in {domain}. Calibration error in points: {errors}.")


def draw_images(runs: Sequence[Run], domain: str) -> Chart:
    """Draw how the mIoU of single images is distributed: a histogram and the median of each run."""
    found = [
        [v for v in run.image_mious(domain).values() if v is not None]
        if domain in run.domains
        else []
        for run in runs
    ]

    with rc_context(_PAPER):
        figure, axes = _new((3.2, 0.7 + 0.55 * len(runs)), "mIoU of an image in %")
        for i, values in enumerate(found):
            if not values:
                continue
            place = place_of(i, len(runs))
            counts, edges = np.histogram(values, bins=40, range=(0, 100))
            base = len(runs) - 1 - i
            heights = base + 0.8 * counts / counts.max()
            axes.stairs(heights, edges, baseline=base, fill=True, color=_LIGHT[place], alpha=0.55)
            middle = float(np.median(values))
            axes.plot([middle] * 2, [base, base + 0.85], lw=1.5, color=_LIGHT[place])
            dot: dict[str, Any] = {"ms": 5, "mfc": _LIGHT[place], "mec": _LIGHT[place]}
            axes.plot([middle], [base], _SHAPES[place], clip_on=False, **dot)
        axes.set(xlim=(0, 100), ylim=(0, len(runs)), yticks=[])
        axes.spines.left.set_visible(False)

    said = [
        f"lowest {min(v):.1f}, median {np.median(v):.1f}, highest {max(v):.1f}" if v else "no image"
        for v in found
    ]
    labels = [run.label for run in runs]
    return _chart(figure, f"mIoU of single images of {domain} in %: {_listed(labels, said)}.")


def draw_training(runs: Sequence[Run]) -> dict[str, Chart]:
    """Loss, learning rate and, where it was measured more than once, mIoU over steps; by title."""
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


def draw_progress(curves: Mapping[str, Mapping[int, float]], what: str) -> Chart:
    """Draw the mIoU in % of methods over training steps.

    Args:
        curves: by name of the method, steps and scores; the first is drawn in gray.
        what: whose scores they are, such as `mean of night, fog`.
    """
    with rc_context(_PAPER):
        figure = Figure(figsize=(5.6, 2.9), layout="constrained")
        axes = figure.add_subplot(xlabel="step", ylabel="mIoU in %")
        for i, (name, curve) in enumerate(curves.items()):
            place, turn = i % len(_LIGHT), i // len(_LIGHT)
            line: dict[str, Any] = {"ls": _DASHES[turn % len(_DASHES)], "lw": 1.4, "ms": 3.5}
            line |= {"color": _LIGHT[place], "marker": _SHAPES[place]}
            axes.plot(list(curve), list(curve.values()), label=_short(name), **line)
        figure.legend(loc="outside right upper", fontsize=7, ncols=1 + (len(curves) - 1) // 14)
    ends = [
        f"{name} from {curve[min(curve)]:.1f} at step {min(curve)} to {curve[max(curve)]:.1f} at "
        f"{max(curve)}"
        for name, curve in curves.items()
    ]
    return _chart(figure, f"mIoU in % over training steps, {what}: {'; '.join(ends)}.")


def _draw_curves(
    runs: Sequence[Run], events: Sequence[list[dict[str, Any]]], names: list[str], ylabel: str
) -> Chart:
    """Draw values over steps: runs by colour and names by dashes; one run's names by colour."""
    is_one = len(runs) == 1

    with rc_context(_PAPER):
        figure, axes = _new((3.9, 2.9), "step", ylabel)
        for i, entries in enumerate(events):
            steps = [entry["step"] for entry in entries]
            for j, name in enumerate(names):
                place = (j + 1) % len(_LIGHT) if is_one else place_of(i, len(runs))
                turns = j // len(_LIGHT) if is_one else j
                dashes = _DASHES[turns % len(_DASHES)]
                # Later runs are thinner: where lines coincide, all of them are seen.
                width = 1.1 if j else (3.0, 1.5, 1.2)[min(i, 2)] if not is_one else 1.8
                dots = _SHAPES[place] if len(steps) < 30 else ""
                line: dict[str, Any] = {"ls": dashes, "lw": width, "marker": dots, "ms": 3.5}
                values = _values(entry.get(name) for entry in entries)
                axes.plot(steps, values, color=_LIGHT[place], **line)
                if i == 0:
                    line |= {"color": _LIGHT[place if is_one else 0], "marker": ""}
                    axes.plot([], [], label=_short(name), **line)
        if len(names) > 1:
            axes.legend(fontsize=8, ncols=1 + len(names) // 7)
        axes.set_ylim(bottom=0)

    ends = []
    for run, entries in zip(runs, events, strict=True):
        known = [(e["step"], e[names[0]]) for e in entries if e.get(names[0]) is not None]
        if known:
            (first, start), (last, end) = known[0], known[-1]
            ends.append(f"{run.label} from {start:.3g} at step {first} to {end:.3g} at {last}")
    return _chart(figure, f"{ylabel} over training steps: {'; '.join(ends) or 'no number'}.")


def draw_svg(figure: Figure) -> str:
    """Return a figure as a data: URI; the same figure gives the same text."""
    return data_uri("svg+xml", _svg(figure))


def plain_text(text: str) -> str:
    """Text that matplotlib neither reads as a formula nor, in a legend, as a hidden label."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def _chart(figure: Figure, alt: str) -> Chart:
    """Save a figure, and once more with the colours for dark paper."""
    with rc_context(_PAPER):
        light = _svg(figure)
    pattern = "|".join(_TO_DARK)
    dark = re.sub(f'(?<=: )({pattern})(?=[;"])', lambda found: _TO_DARK[found[0]], light.decode())
    return Chart(data_uri("svg+xml", light), data_uri("svg+xml", dark.encode()), alt)


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Names may be in any script: the browser has letters that matplotlib's font lacks.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _new(inches: tuple[float, float], xlabel: str, ylabel: str = "") -> tuple[Figure, Axes]:
    """A figure with one pair of axes, with room for short numbers left of it."""
    width, height = inches
    figure = Figure(figsize=inches)
    left, top = (0.65 if ylabel else 0.15), height - 0.18
    figure.subplots_adjust(left / width, 0.5 / height, 1 - 0.15 / width, top / height)
    return figure, figure.add_subplot(xlabel=xlabel, ylabel=ylabel)


def _short(name: str) -> str:
    return plain_text(name if len(name) <= 24 else f"{name[:23]}…")


def _listed(labels: Sequence[str], texts: Sequence[str]) -> str:
    """Every text with the label of its run; of a single run the text alone."""
    if len(labels) == 1:
        return texts[0]
    return ", ".join(f"{text} ({label})" for label, text in zip(labels, texts, strict=True))


def _values(numbers: Any) -> np.ndarray:
    return np.array([np.nan if number is None else number for number in numbers], dtype=float)
