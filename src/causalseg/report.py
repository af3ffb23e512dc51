"""A run, or several side by side, as one HTML file that needs nothing but itself.

Reads run folders only. Every figure and picture is a data: URI, so the file can be mailed, archived
and opened without a network. The numbers are those of eval.json, in percent; computed here are only
differences of two runs and the mean of runs that were averaged over other domains than the first.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from jinja2 import Environment, StrictUndefined, UndefinedError
from matplotlib import rc_context
from matplotlib.figure import Figure

from causalseg.errors import RunError
from causalseg.gallery import WRONG, Picture, data_uri, make_gallery
from causalseg.runfolder import RunFolder, write_text

Value = float | None

# A comparison starts with a baseline, in gray; a run alone has the second colour.
_COLOURS = ("#8f99a3", "#1f5fa8", "#c2702a", "#3f8f5f", "#7d5ba6", "#b0486b", "#3d8f9a")
_DASHES = ("-", "--", ":", "-.")
STYLE = {
    **{"font.size": 9, "axes.edgecolor": "#8a9099", "legend.frameon": False},
    **{"axes.spines.top": False, "axes.spines.right": False},
    **{"axes.grid": True, "axes.axisbelow": True, "grid.color": "#e6e8eb"},
    "axes.formatter.limits": (-3, 5),
    "svg.hashsalt": "causalseg",  # the same run gives the same file
}
_VALUE_HUE, _BETTER_HUE, _WORSE_HUE = (31, 95, 168), (24, 128, 104), (190, 60, 40)
_FULL_CHANGE = 20.0  # points of difference from which on the shade is at its deepest
_NOT_TERMS = ("event", "step", "loss", "lr", "seconds_per_step", "data_wait")
_EVAL_KEYS = ("model", "classes", "domains", "mean", "inference", "made_of")


class DomainTable(NamedTuple):
    """mIoU in percent of every run in every domain; None where there is no number.

    Attributes:
        domains: names, in the order of the first run.
        over: the domains that the mean is over.
        rows: run label -> one value for each domain, and last the mean.
        difference: with exactly two runs, second minus first, in the order of a row.
    """

    domains: list[str]
    over: list[str]
    rows: dict[str, list[Value]]
    difference: list[Value] | None


class _Run(NamedTuple):
    """What is read of a run folder before its pictures."""

    folder: RunFolder
    label: str
    colour: str
    config: dict[str, Any]
    results: dict[str, Any]
    log: list[dict[str, Any]]

    def iou(self, domain: str, name: str) -> Value:
        about = self.results["domains"].get(domain)
        return about and about["iou"].get(name)

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [entry for entry in self.log if entry["event"] == kind]


def write_report(runs: Sequence[RunFolder], out: Path) -> None:
    """Write one HTML file about one run, or a comparison of several.

    Args:
        runs: folders with config.yaml and eval.json; log and pictures are shown if they are there.
        out: the file, written whole or not at all.

    Raises:
        MissingFileError: if config.yaml or eval.json is missing.
        RunError: if a file is broken, or the runs have different classes.
    """
    read = _read_runs(runs)
    table, palette = _domain_table(read), _palette(read)
    shown, galleries = _galleries(read, table.domains, palette)
    columns = list(zip(*table.rows.values(), strict=True))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": _percent, "signed": _signed, "minus": _minus}
    environment.filters |= {"size": _size, "shade": _shade}
    source = files("causalseg").joinpath("report.html").read_text(encoding="utf-8")
    try:
        html = environment.from_string(source).render(
            runs=read,
            table=table,
            best=[max((v for v in c if v is not None), default=None) for c in columns],
            about={k: v for run in read[::-1] for k, v in run.results["domains"].items()},
            caveats=_caveats(read, table),
            scored=_scored_classes(read, palette),
            palette=palette,
            bars=_bar_chart(read, table),
            curves=_training_figures(read),
            shown=shown,
            galleries=galleries,
            wrong=WRONG,
        )
    except UndefinedError as error:
        raise RunError(
            f"config.yaml or eval.json is not as training and evaluation wrote it: {error}"
        ) from error
    write_text(out, html)


def domain_table(runs: Sequence[RunFolder]) -> DomainTable:
    """Return the mIoU of every run in every domain, to print or to compare.

    Raises:
        MissingFileError: if config.yaml or eval.json of a run is missing.
        RunError: if one of them is broken, or the runs have different classes.
    """
    return _domain_table(_read_runs(runs))


def _read_runs(folders: Sequence[RunFolder]) -> list[_Run]:
    if not folders:
        raise RunError("a report is about at least one run: give a run folder")
    if len({folder.path.resolve() for folder in folders}) < len(folders):
        raise RunError("a run folder is given twice: name each once")
    contents = [(_read_config(folder), _read_results(folder)) for folder in folders]
    runs = []
    labels = _labels(folders, [results["model"] for _, results in contents])
    for i, (folder, (config, results)) in enumerate(zip(folders, contents, strict=True)):
        if results["classes"]["names"] != contents[0][1]["classes"]["names"]:
            raise RunError(
                f"{folder.path} has other classes than {folders[0].path}: only runs with the same "
                "class list can be compared, make a report of each"
            )
        colour = _COLOURS[i % len(_COLOURS) if len(folders) > 1 else 1]
        log = folder.read_log() if folder.log.is_file() else []
        runs.append(_Run(folder, labels[i], colour, config, results, log))
    return runs


def _read_config(folder: RunFolder) -> dict[str, Any]:
    try:
        config = yaml.safe_load(folder.need(folder.config).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{folder.config} is not YAML: {error}") from error
    if not isinstance(config, dict):
        raise RunError(f"{folder.config} is not the configuration that training writes")
    return config


def _read_results(folder: RunFolder) -> dict[str, Any]:
    results = folder.read_json(folder.need(folder.eval))
    lacking = [key for key in _EVAL_KEYS if not isinstance(results, dict) or key not in results]
    if lacking:
        raise RunError(f"{folder.eval} has no '{lacking[0]}': run `causalseg eval` to make it anew")
    return results


def _labels(folders: Sequence[RunFolder], models: Sequence[dict[str, str]]) -> list[str]:
    """Adapter and head; where runs share both, also the folder's name, or its path if need be."""
    labels = [
        f"{'head only' if model['adapter'] == 'none' else model['adapter']}, {model['head']}"
        for model in models
    ]
    names = [folder.path.name for folder in folders]
    paths = [f.path if names.count(f.path.name) > 1 else f.path.name for f in folders]
    pairs = zip(labels, paths, strict=True)
    return [f"{label} ({path})" if labels.count(label) > 1 else label for label, path in pairs]


def _domain_table(runs: Sequence[_Run]) -> DomainTable:
    domains = list(dict.fromkeys(name for run in runs for name in run.results["domains"]))
    over = runs[0].results["mean"]["over"]
    rows: dict[str, list[Value]] = {}
    for run in runs:
        values = {name: run.results["domains"].get(name, {}).get("miou") for name in domains}
        known = [values[name] for name in over if values[name] is not None]
        mean = sum(known) / len(known) if len(known) == len(over) else None
        rows[run.label] = [*values.values(), mean]
    columns = list(zip(*rows.values(), strict=True))
    changes = [_minus(second, first) for first, second in columns] if len(runs) == 2 else None
    return DomainTable(domains, over, rows, changes)


def _caveats(runs: Sequence[_Run], table: DomainTable) -> list[str]:
    """Reasons why numbers that stand side by side are not alike."""
    first, found = runs[0].results, []
    if any(run.results["inference"] != first["inference"] for run in runs):
        found.append("The runs were not predicted in the same way (see the last section).")
    if any(run.results["mean"]["over"] != table.over for run in runs):
        found.append("The runs name different domains for the mean; here all have the first's.")
    for name in table.domains:
        abouts = [run.results["domains"][name] for run in runs if name in run.results["domains"]]
        if len(abouts) < len(runs):
            found.append(f"Not every run was scored in {name}.")
        counted = [(about["images"], about["size"], about["pixels"]) for about in abouts]
        if any(content != counted[0] for content in counted):
            found.append(f"The runs were scored on different images in {name}.")
        counts = [about["classes_scored"] for about in abouts]
        if len(set(counts)) > 1:
            found.append(
                f"In {name} mIoU is over {' and '.join(map(str, counts))} classes: a class that "
                "never occurs there counts with 0 once a run predicts it."
            )
    return found


def _palette(runs: Sequence[_Run]) -> dict[str, Sequence[int]]:
    """The colour of every class by name; of a name in two class lists, the model's."""
    lists = [run.results["classes"] for run in runs]
    domains = [about for run in runs for about in run.results["domains"].values()]
    lists += [about["classes"] for about in domains if "classes" in about]
    palette: dict[str, Sequence[int]] = {}
    for classes in lists:
        for name, colour in zip(classes["names"], classes["palette"], strict=True):
            palette.setdefault(name, colour)
    return palette


def _galleries(
    runs: Sequence[_Run], domains: Sequence[str], palette: Mapping[str, Sequence[int]]
) -> tuple[list[str], dict[str, list[list[Picture | None]]]]:
    """Return the classes that occur in the pictures, and by domain the rows of pictures."""
    seen: set[str] = set()
    galleries = {}
    for domain in domains:
        scored = [run for run in runs if domain in run.results["domains"]]
        names = scored[0].results["domains"][domain].get("classes", runs[0].results["classes"])
        colours = [palette[name] for name in names["names"]]
        folders = [run.folder.pictures / domain for run in runs]
        ids, rows = make_gallery(folders, np.array(colours, np.uint8))
        if rows:
            galleries[domain] = rows
        seen |= {names["names"][i] for i in ids}
    return [name for name in palette if name in seen], galleries


def _scored_classes(runs: Sequence[_Run], names: Iterable[str]) -> list[str]:
    """The classes that any run has an IoU for in any domain."""
    pairs = [(run, domain) for run in runs for domain in run.results["domains"]]
    return [
        name for name in names if any(run.iou(domain, name) is not None for run, domain in pairs)
    ]


def _bar_chart(runs: Sequence[_Run], table: DomainTable) -> str:
    count, height = len(table.domains), 0.8 / len(runs)
    with rc_context({**STYLE, "axes.grid.axis": "x"}):
        inches = 0.55 + count * (0.14 + 0.2 * len(runs))
        figure = Figure(figsize=(8.5, inches), layout="constrained")
        axes = figure.add_subplot(xlabel="mIoU in %")
        for i, run in enumerate(runs):
            values = table.rows[run.label][:count]
            places = np.arange(count) + (i - (len(runs) - 1) / 2) * height
            bars = axes.barh(places, [v or 0.0 for v in values], 0.9 * height, color=run.colour)
            axes.bar_label(bars, [_percent(value) for value in values], padding=3)
        axes.set_yticks(range(count), [plain_text(name) for name in table.domains])
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.08)
        axes.invert_yaxis()
        return draw_svg(figure)


def _training_figures(runs: Sequence[_Run]) -> dict[str, str]:
    """Loss, learning rate and, where it was measured more than once, mIoU over steps; by title."""
    training, scoring = ([run.events(kind) for run in runs] for kind in ("train", "eval"))
    terms = [[k for k in events[-1] if k not in _NOT_TERMS] for events in training if events]
    figures = {}
    if terms:
        several = dict.fromkeys(k for own in terms if len(own) > 1 for k in own)
        figures["Loss"] = _curves(runs, training, ["loss", *several], "loss")
        figures["Learning rate of the head"] = _curves(runs, training, ["lr"], "learning rate")
    if any(len(events) > 1 for events in scoring):
        scores = [[{"step": e["step"], **e["miou"]} for e in events] for events in scoring]
        if len(runs) == 1:
            names = ["mean", *(name for name in scores[0][-1] if name not in ("step", "mean"))]
            figures["mIoU during training"] = _curves(runs, scores, names, "mIoU in %")
        else:
            figures["Mean mIoU during training"] = _curves(runs, scores, ["mean"], "mIoU in %")
    return figures


def _curves(
    runs: Sequence[_Run], events: Sequence[list[dict[str, Any]]], names: list[str], ylabel: str
) -> str:
    """Draw values over steps: runs by colour and names by dashes; one run's names by colour."""
    with rc_context(STYLE):
        figure = Figure(figsize=(3.9, 2.9), layout="constrained")
        axes = figure.add_subplot(xlabel="step", ylabel=ylabel)
        for i, (run, entries) in enumerate(zip(runs, events, strict=True)):
            steps = [entry["step"] for entry in entries]
            for j, name in enumerate(names):
                values = np.array([entry.get(name) for entry in entries], dtype=float)
                dashes = _DASHES[j % len(_DASHES)] if len(runs) > 1 else "-"
                colour = _COLOURS[(j + 1) % len(_COLOURS)] if len(runs) == 1 else run.colour
                # Later runs are thinner: where lines coincide, all of them are seen.
                width = 1.1 if j else (3.0, 1.5, 1.2)[min(i, 2)] if len(runs) > 1 else 1.8
                dots = "o" if len(steps) < 30 else ""
                axes.plot(steps, values, ls=dashes, lw=width, marker=dots, ms=3, color=colour)
                if i == 0:
                    shown = colour if len(runs) == 1 else "#444444"
                    axes.plot([], [], ls=dashes, lw=width, color=shown, label=plain_text(name))
        if len(names) > 1:
            axes.legend(fontsize=8, ncols=1 + len(names) // 7)
        axes.set_ylim(bottom=0)
        return draw_svg(figure)


def draw_svg(figure: Figure) -> str:
    """Return a figure as a data: URI; the same figure gives the same text."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return data_uri("svg+xml", buffer)


def plain_text(text: str) -> str:
    """Text that matplotlib neither reads as a formula nor, in a legend, as a hidden label."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def _minus(value: Value, other: Value) -> Value:
    return None if value is None or other is None else value - other


def _percent(value: Value) -> str:
    return "–" if value is None else f"{value:.1f}"


def _signed(value: Value) -> str:
    """One decimal with its sign; what rounds to zero has none."""
    if value is None or round(value, 1) == 0:
        return "–" if value is None else "0.0"
    return f"{value:+.1f}".replace("-", "−")


def _size(size: Sequence[int]) -> str:
    """(H, W) as the width × height that people expect."""
    return f"{size[1]} × {size[0]}"


def _shade(value: Value, is_change: bool = False) -> str:
    """The background of an IoU in percent, or of a change of it: the stronger, the deeper."""
    value = value or 0.0
    hue = (_BETTER_HUE if value > 0 else _WORSE_HUE) if is_change else _VALUE_HUE
    depth = min(1.0, abs(value) / (_FULL_CHANGE if is_change else 100.0))
    return f"rgba({hue[0]}, {hue[1]}, {hue[2]}, {0.5 * depth:.2f})"
