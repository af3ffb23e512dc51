"""A comparison as a table in Markdown, and as one HTML file that needs nothing but itself.

A row is a method: the mean and the standard deviation (n - 1) over seeds of the mIoU in percent of
every domain and of their mean, the difference to the reference with its interval, and what it
costs. Numbers that others published stand in columns of their own.
"""

import statistics
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from matplotlib import rc_context
from matplotlib.figure import Figure

from causalseg.engine.bootstrap import LEVEL, RESAMPLES
from causalseg.report.charts import STYLE, Chart, draw_progress, draw_svg, plain_text
from causalseg.report.comparison import (
    MEAN,
    Change,
    Comparison,
    Result,
    Row,
    Value,
    known_values,
)
from causalseg.runs.scores import (
    CHOSEN_ON_TARGET,
    describe_domain,
    describe_inference,
    is_chosen_on_target,
    size_text,
)
from causalseg.writing import write_text

ADAPTER = "adapter parameters"  # head of a column
_FEW = 20  # rows up to which all methods stand in the smaller tables
_STEPS = 8  # columns of the table of scores over steps
_DARK = {
    **{"text.color": "#e4e7eb", "axes.labelcolor": "#e4e7eb", "axes.edgecolor": "#7d858f"},
    **{"xtick.color": "#e4e7eb", "ytick.color": "#e4e7eb", "grid.color": "#343a42"},
}
_INKS = (("#1f5fa8", "#6f7881"), ("#6aa9ec", "#a3abb5"))  # method and reference; light, dark


def table(comparison: Comparison) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Return the heads of the columns, with what stands below them in small, and the rows."""
    scores = comparison.first["eval"]
    over = scores["mean"]["over"]
    heads = [("method", "")]
    for name, domain in scores["domains"].items():
        heads.append((name, describe_domain(domain)))
    means = [(MEAN, f"of {', '.join(over)}")] if len(over) > 1 else []
    change = (f"difference to {comparison.reference}", f"± over seeds [{LEVEL:.0%} over images]")
    costs = [(ADAPTER, "")] if _knows_adapters(comparison) else []
    costs += [("trained parameters", ""), ("s/step", ""), ("peak memory", "MB"), ("seeds", "")]
    reported = [
        name
        for name in (*scores["domains"], MEAN)
        if any(name in row.method.reported for row in comparison.rows)
    ]
    heads += [*means, change, *costs, *((f"{name}, reported", "") for name in reported)]
    shown = [*scores["domains"], *(MEAN for _ in means)]
    return heads, [_cells(comparison, row, shown, reported) for row in comparison.rows]


def to_markdown(comparison: Comparison) -> str:
    """Return the table, how it is made and what each method is."""
    heads, rows = table(comparison)
    header = [f"{head}, {small}" if small else head for head, small in heads]
    notes = "\n".join(f"- {note}" for note in notes_on(comparison))
    methods = "\n".join(f"- `{name}`: {text}" for name, text in _methods(comparison, "`"))
    changes = "What each method changes in the shared configuration:"
    tables = [markdown_table(header, rows)]
    for title, more in smaller_tables(comparison):
        tables.append(f"{title}:\n\n{markdown_table(*more)}")
    return "\n\n".join([*tables, notes, changes, methods]) + "\n"


def smaller_tables(comparison: Comparison) -> list[tuple[str, tuple[list[str], list[list[str]]]]]:
    """Return titles, heads and rows: differences by domain, and scores over steps.

    Of many methods they have those with the most seeds. A table without rows is left out.
    """
    rows = _main_rows(comparison)
    suffix = "" if len(rows) == len(comparison.rows) else ", methods with the most seeds"
    found = [
        (
            f"Difference to {comparison.reference} by domain, in points: ± over seeds "
            f"[{LEVEL:.0%} over images]",
            _changes_table(comparison, rows),
        ),
        (
            "mIoU in percent over training steps, mean over "
            f"{', '.join(comparison.first['eval']['mean']['over'])} and over seeds",
            _steps_table(rows),
        ),
    ]
    return [(title + suffix, table) for title, table in found if table[1]]


def _changes_table(
    comparison: Comparison, rows: Sequence[Row]
) -> tuple[list[str], list[list[str]]]:
    scores = comparison.first["eval"]
    domains = [*scores["domains"], *([MEAN] if len(scores["mean"]["over"]) > 1 else [])]
    lines = []
    for row in rows:
        if row.method.name != comparison.reference:
            changes = comparison.changes(row)
            lines.append([row.method.name, *(_change_text(changes[name]) for name in domains)])
    return ["method", *domains], lines if len(domains) > 1 else []


def _steps_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    curves = {row.method.name: row.curve([MEAN]) for row in rows}
    steps = sorted({step for curve in curves.values() for step in curve})
    if len(steps) > _STEPS:  # spread evenly, the last among them
        steps = [steps[round(i * (len(steps) - 1) / (_STEPS - 1))] for i in range(_STEPS)]
    lines = [
        [name, *(f"{curve[step]:.1f}" if step in curve else "-" for step in steps)]
        for name, curve in curves.items()
        if curve
    ]
    return ["method", *(f"step {step}" for step in steps)], lines


def _main_rows(comparison: Comparison) -> list[Row]:
    """All rows, or of many those with the most seeds."""
    most = max(len(row.results) for row in comparison.rows)
    is_few = len(comparison.rows) <= _FEW
    return [row for row in comparison.rows if is_few or len(row.results) == most]


def write_html(comparison: Comparison, title: str, out: Path) -> None:
    """Write table, chart and notes as one HTML file that needs nothing but itself."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = files("causalseg.report").joinpath("templates/comparison_page.html")
    source = template.read_text(encoding="utf-8")
    heads, rows = table(comparison)
    has_chart = any(known_values(row.scores(MEAN)) for row in comparison.rows)
    html = environment.from_string(source).render(
        title=title,
        heads=heads,
        rows=list(zip(comparison.rows, rows, strict=True)),
        change=next(i for i, (head, _) in enumerate(heads) if head.startswith("difference")),
        reference=comparison.reference,
        charts=[draw_chart(comparison, is_dark) for is_dark in (False, True)] if has_chart else [],
        tables=smaller_tables(comparison),
        progress=draw_curves(comparison),
        missing=comparison.missing_text,
        over=comparison.first["eval"]["mean"]["over"],
        notes=notes_on(comparison),
        methods=_methods(comparison),
    )
    write_text(out, html)


def draw_chart(comparison: Comparison, is_dark: bool = False) -> str:
    """Draw the mean over domains of every method, best first, as a data: URI of an SVG."""
    scored = [(row, known) for row in comparison.rows if (known := known_values(row.scores(MEAN)))]
    scored.sort(key=lambda pair: statistics.mean(pair[1]))
    ink, gray = _INKS[is_dark]
    style = {**STYLE, **(_DARK if is_dark else {}), "savefig.transparent": True}
    with rc_context({**style, "axes.grid.axis": "x"}):
        figure = Figure(figsize=(5.2, 0.75 + 0.34 * len(scored)), layout="constrained")
        axes = figure.add_subplot(xlabel="mean mIoU in %")
        for place, (row, values) in enumerate(scored):
            mean = statistics.mean(values)
            is_reference = row.method.name == comparison.reference
            colour = gray if is_reference else ink
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            axes.errorbar(mean, place, xerr=spread or None, fmt="o", ms=7, capsize=3, color=colour)
            axes.plot(values, [place - 0.22] * len(values), "o", ms=3, color=colour, alpha=0.75)
            axes.text(mean, place + 0.16, f"{mean:.1f}", fontsize=8, ha="center")
            if is_reference:
                axes.axvline(mean, color=gray, lw=1, ls="--", zorder=0)
        names = [row.method.name for row, _ in scored]
        names = [f"{name} (reference)" if name == comparison.reference else name for name in names]
        axes.set_yticks(range(len(names)), [plain_text(name) for name in names])
        axes.set_ylim(-0.6, len(names) - 0.3)
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.08)
        return draw_svg(figure)


def draw_curves(comparison: Comparison) -> list[Chart]:
    """Draw mIoU over training steps: the mean, and that of the domains seen in training.

    Of many methods those with the most seeds, the reference first; nothing of runs that were scored
    only at their end.
    """
    rows = sorted(_main_rows(comparison), key=lambda r: r.method.name != comparison.reference)
    scores = comparison.first["eval"]
    groups = {f"mean over {', '.join(scores['mean']['over'])}": [MEAN]}
    if source := scores["robustness"]["source"]:
        groups[f"source validation ({', '.join(source['domains'])})"] = source["domains"]
    charts = []
    for what, domains in groups.items():
        curves = {row.method.name: curve for row in rows if (curve := row.curve(domains))}
        if curves:
            charts.append(draw_progress(curves, what))
    return charts


def notes_on(comparison: Comparison) -> list[str]:
    """Say how everything in the table is made, one sentence or two each."""
    first = comparison.first
    config, how = first["config"], first["eval"]["inference"]
    train, backbone = config["train"], config["backbone"]
    results = [result for row in comparison.rows for result in row.results.values()]
    rates = {result["config"]["train"]["adapter_lr"] for result in results} - {None}
    notes = [
        f"Trained on {sources_text(config['data'])}. The head of the table names the domains "
        "scored, their number of images and the label size (width × height).",
        f"Backbone {backbone['name']} (weights: {backbone['weights']}), head "
        f"{config['head']['name']}, {train['steps']} steps, batch {train['batch']}, crop "
        f"{size_text(train['crop'])} px, learning rate {train['lr']:g}"
        + "".join(f", of the adapter {rate:g}" for rate in sorted(rates))
        + f", photometric distortion {'on' if train['augment']['photometric'] else 'off'}: for all "
        "methods unless they change it.",
        f"mIoU in percent, one confusion matrix a domain over all labelled pixels, predicted from "
        f"{describe_inference(how)}: mean ± standard deviation (n − 1) over seeds "
        f"{_seeds(comparison)}. Runs of one seed share the order of data, "
        "augmentation and the start of the head.",
        f"Difference: of the mean over {', '.join(first['eval']['mean']['over'])} to that of "
        f"{comparison.reference} with the same seed, mean ± standard deviation (n − 1) over the "
        f"seeds that both have. In brackets the {LEVEL:.0%} interval of the mean by a paired "
        f"bootstrap: {RESAMPLES} draws of images, the same for both methods, all seeds, and all "
        "domains that show the same images. It covers the choice of images, not that of seeds.",
        "Images of a video are not independent: for such domains the intervals are too narrow. "
        "Every method has an interval of its own, not corrected for their number: with many, some "
        "exclude 0 by chance.",
        "s/step: median over training. Peak memory: of the training process, on CUDA of the "
        "device. Both depend on the machine and on what else ran there.",
        _origins(comparison),
    ]
    limit = config["eval"]["limit"]
    if limit is not None and any(row.curve([MEAN]) for row in comparison.rows):
        notes.append(f"Scores before the last step are of at most {limit} images a domain.")
    notes += [
        f"Reported for {row.method.name}, not measured here: {row.method.source}."
        for row in comparison.rows
        if row.method.reported
    ]
    chosen = [
        f"{row.method.name} seed {seed}"
        for row in comparison.rows
        for seed, result in row.results.items()
        if is_chosen_on_target(result["eval"])
    ]
    if chosen:
        notes.insert(0, f"{', '.join(chosen)}: {CHOSEN_ON_TARGET}.")
    return notes + ([f"Missing: {comparison.missing_text}."] if comparison.missing else [])


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def spread_text(values: Sequence[Value]) -> str:
    """Return the mean and, of several values, the standard deviation; a dash if one is missing."""
    known = known_values(values)
    if not known:
        return "-"
    mean = f"{statistics.mean(known):.1f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.1f}"


def _cells(
    comparison: Comparison, row: Row, domains: Sequence[str], reported: Sequence[str]
) -> list[str]:
    results = list(row.results.values())
    seconds = [result["seconds_per_step"] for result in results]
    peaks = known_values([result.get("peak_memory_mb") for result in results])
    count, wanted = len(results), len(row.seeds)
    model = results[0]["eval"]["model"] if results else {}
    sizes = [model.get("adapter_parameters")] if _knows_adapters(comparison) else []
    sizes.append(model.get("trainable_parameters"))
    return [
        row.method.name,
        *(spread_text(row.scores(domain)) for domain in domains),
        "reference" if row.method.name == comparison.reference else _change_text(row),
        *("-" if size is None else f"{size:,}" for size in sizes),
        f"{statistics.median(seconds):.2f}" if seconds else "-",
        f"{max(peaks):,.0f}" if peaks else "-",
        str(count) if count == wanted else f"{count} of {wanted}",
        *(
            f"{row.method.reported[name]:.1f}" if name in row.method.reported else ""
            for name in reported
        ),
    ]


def _change_text(change: Row | Change) -> str:
    if not change.differences:
        return "-"
    mean = _signed(statistics.mean(change.differences))
    several = len(change.differences) > 1
    spread = f" ± {statistics.stdev(change.differences):.1f}" if several else ""
    ends = f" [{', '.join(map(_signed, change.interval))}]" if change.interval else ""
    return mean + spread + ends


def _knows_adapters(comparison: Comparison) -> bool:
    """Whether a result says how many parameters its adapter has; earlier versions did not."""
    results = (result for row in comparison.rows for result in row.results.values())
    return any("adapter_parameters" in result["eval"]["model"] for result in results)


def _signed(value: float) -> str:
    """One decimal with its sign; what rounds to zero has none."""
    return "0.0" if round(value, 1) == 0 else f"{value:+.1f}".replace("-", "−")


def _methods(comparison: Comparison, quote: str = "") -> list[tuple[str, str]]:
    return [
        (
            row.method.name,
            ", ".join(f"{quote}{override}{quote}" for override in row.method.overrides)
            or "nothing",
        )
        for row in comparison.rows
    ]


def sources_text(data: dict[str, Any]) -> str:
    """What was trained on, from the options of the data."""
    named = []
    for source in data["sources"]:
        match source["type"]:
            case "folder":
                named.append(source["images"])
            case "layout":
                named.append(f"{source['layout']} {source['split']}")
            case _:
                named.append(f"{source['count']} drawn scenes ({source['domain']})")
    return " and ".join(named)


def _seeds(comparison: Comparison) -> str:
    """The seeds of all methods, or of each group of methods that has the same."""
    groups: dict[str, list[str]] = {}
    for row in comparison.rows:
        groups.setdefault(", ".join(map(str, row.seeds)), []).append(row.method.name)
    if len(groups) == 1:
        return next(iter(groups))
    return "; ".join(f"{seeds} ({', '.join(names)})" for seeds, names in groups.items())


def _origins(comparison: Comparison) -> str:
    """Where and with what the runs were trained; which ones where, if they differ."""
    origins: dict[str, list[str]] = {}
    for row in comparison.rows:
        for seed, result in row.results.items():
            origins.setdefault(_origin(result), []).append(f"{row.method.name} seed {seed}")
    if len(origins) == 1:
        return f"Trained on {next(iter(origins))}."
    listed = "; ".join(f"{', '.join(runs)}: {origin}" for origin, runs in origins.items())
    return (
        "Machine, device, precision or versions differ, or are not known of all runs, which may be "
        f"part of the differences. {listed}."
    )


def _origin(result: Result) -> str:
    device = result.get("device") or "device not recorded"
    precision = result.get("precision") or result["config"]["run"]["precision"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return f"{result['machine']}, {device}, precision {precision}; {versions}"
