"""A run, or several side by side, as one HTML file that needs nothing but itself.

Figures and images are data: URIs. The script only names the class under the pointer.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from jinja2 import UndefinedError

from causalseg.errors import CausalsegError, RunError
from causalseg.report import charts, tables
from causalseg.report.format import Value
from causalseg.report.gallery import WRONG, Gallery, build_gallery
from causalseg.report.read import Run, find_reference, read_runs
from causalseg.report.tables import Confusion
from causalseg.report.template import load_template
from causalseg.runs.folder import RunFolder
from causalseg.runs.log import logger
from causalseg.runs.scores import Scores, read_scores
from causalseg.runs.seal import sum_of
from causalseg.writing import write_text

_FIGURES = 12  # domains that have a figure of their own
_SHOWN = 8  # classes in a sentence
_EXAMPLES = 60  # rows of images, shared by all domains; each has at least one
Colour = tuple[int, int, int]
Ranking = list[tuple[str, float]]


class Matrix(NamedTuple):
    """A confusion matrix in percent of its rows."""

    columns: list[str]
    rows: list[tuple[str, list[float]]]
    largest: list[Confusion]


def write_report(runs: Sequence[RunFolder], out: Path, baseline: RunFolder | None = None) -> None:
    """Write one HTML file about one run, or a comparison of several.

    The others are compared to the baseline, which is added in front if it is none of them; without
    it, to the first of exactly two. Raises what `read_runs` does, and RunError for broken files.
    """
    read = read_runs(runs, baseline)
    content = _build_content(read, find_reference(read, baseline))
    content["evaluations"] = _list_evaluations(read, out)
    try:
        html = load_template("page.html").render(content)
    except UndefinedError as error:
        text = f"config.yaml or origin.json is not as causalseg writes it: {error}"
        raise RunError(text) from error
    write_text(out, html)


def _build_content(runs: Sequence[Run], reference: Run | None) -> dict[str, Any]:
    headline, palette = tables.build_headline(runs, reference), _collect_palette(runs)
    domains = tables.collect_domains(runs)
    losses = tables.list_losses(runs, reference)
    rankings = {n: [list(run.image_mious(n).items()) for run in runs] for n in domains}
    ranked = {name: each for name, each in rankings.items() if any(each)}
    errors = {name: each for name in domains if (each := _list_errors(runs, name))}
    shown, galleries = _build_galleries(runs, rankings, palette)
    drawn = {
        "headline": charts.draw_headline(headline, [run.label for run in runs]),
        "training": charts.draw_training(runs),
        "reliability": {n: charts.draw_reliability(runs, n) for n in list(errors)[:_FIGURES]},
        "images": {n: charts.draw_images(runs, n) for n in list(ranked)[:_FIGURES]},
    }
    return {
        "runs": runs,
        "reference": reference,
        "table": headline,
        "domains": domains,
        "metric": tables.describe_metric(runs),
        "inference": tables.describe_inference(runs),
        "gaps": _list_gaps(runs),
        "caveats": tables.list_caveats(runs, headline.over),
        "has_robustness": tables.has_robustness(runs),
        "robustness": tables.list_robustness(runs),
        "losses": losses,
        "mean_losses": tables.average_losses(losses.values()),
        "scored": [name for name in palette if any(run.has_class(name) for run in runs)],
        "palette": palette,
        "by_colour": _names_by_colour(palette),
        "measures": _list_measures(runs),
        "confusions": _build_confusions(runs, domains),
        "limits": _list_limits(runs),
        "charts": drawn,
        "errors": errors,
        "ranked": ranked,
        "shown": shown,
        "galleries": galleries,
        "best": tables.find_best,
        "note_images": tables.note_images,
        "style_index": charts.style_index,
        "shapes": charts.SHAPES_AS_TEXT,
        "colours": charts.COLOURS,
        "others": _list_others(runs),
        "wrong": WRONG,
    }


def _list_others(runs: Sequence[Run]) -> dict[str, str]:
    """Return titles of the scores beside the mIoU that some domain has."""
    scored = [entry for run in runs for entry in run.domains.values()]
    return {
        key: title
        for key, title in tables.OTHERS.items()
        if any(getattr(entry, key) is not None for entry in scored)
    }


def _list_evaluations(runs: Sequence[Run], out: Path) -> list[tuple[str, str, Scores, bool]]:
    """Return what else one run was scored on: name, link to the report, scores.

    Last, whether the run was trained on since.
    """
    run = runs[0].folder
    if len(runs) > 1 or run.results != run.path:
        return []
    found = []
    for name in run.list_evaluations():
        scored = RunFolder(run.path, name)
        link = quote(os.path.relpath(scored.report, out.parent).replace(os.sep, "/"))
        try:
            scores, now = read_scores(scored), sum_of(run, run.head)
            used = scores.checkpoint and scores.checkpoint.weights
            found.append((name, link, scores, bool(used and now and used != now)))
        except CausalsegError as error:  # it does not keep the report of the run from being made
            logger.warning("%s", error)
    return found


def _list_gaps(runs: Sequence[Run]) -> list[str]:
    """Return what the scores cannot say: classes and domains without a labelled pixel."""
    domains = {name: domain for run in runs for name, domain in run.domains.items()}
    gaps = [
        f"{name} has no labelled pixel, so it has no score."
        for name, domain in domains.items()
        if domain.miou is None
    ]
    counts = [domain.pixels for domain in domains.values() if domain.classes is None]
    names = runs[0].scores.classes.names if counts else []
    absent = [name for name in names if not any(each.get(name) for each in counts)]
    if absent:
        text = f"{', '.join(absent[:_SHOWN])}{', ...' if len(absent) > _SHOWN else ''}"
        gaps.append(f"Classes without a pixel in any domain, so without a score: {text}.")
    return gaps


def _collect_palette(runs: Sequence[Run]) -> dict[str, Colour]:
    """Return the colour of every class; of a name in two class lists, the model's."""
    palette: dict[str, Colour] = {}
    lists = [run.scores.classes_of(domain) for run in runs for domain in run.domains]
    for classes in [*(run.scores.classes for run in runs), *lists]:
        for name, colour in zip(classes.names, classes.palette, strict=True):
            palette.setdefault(name, colour)
    return palette


def _names_by_colour(palette: dict[str, Colour]) -> dict[str, str]:
    """Return class names by `red,green,blue`; those that share a colour together."""
    names: dict[str, list[str]] = {"0,0,0": ["no class"]}
    for name, colour in palette.items():
        names.setdefault(",".join(map(str, colour)), []).append(name)
    return {colour: " or ".join(several) for colour, several in names.items()}


def _list_limits(runs: Sequence[Run]) -> list[int]:
    """Return how many images of a domain were scored during training, where it was limited."""
    options = [run.config.get("eval") for run in runs]
    return sorted({x["limit"] for x in options if isinstance(x, dict) and x.get("limit")})


def _list_measures(runs: Sequence[Run]) -> dict[str, str]:
    """Return the titles of the scores by class that any run has."""
    scores = [domain for run in runs for domain in run.domains.values()]
    measures = tables.MEASURES.items()
    return {name: title for name, title in measures if any(getattr(d, name) for d in scores)}


def _build_confusions(
    runs: Sequence[Run], domains: Iterable[str]
) -> dict[str, list[tuple[Run, Matrix]]]:
    confusions = {}
    for name in domains:
        known = [run for run in runs if name in run.domains and run.domains[name].confusion]
        matrices = [(run, _build_matrix(run, name)) for run in known]
        confusions[name] = [(run, matrix) for run, matrix in matrices if matrix.rows]
    return {name: matrices for name, matrices in confusions.items() if matrices}


def _build_matrix(run: Run, domain: str) -> Matrix:
    """Leave out classes that neither occur nor are predicted."""
    names = [*run.scores.classes_of(domain).names, tables.NONE]
    counts = tables.read_confusion(run, domain)
    true = counts.sum(axis=1)
    columns = [i for i in range(counts.shape[1]) if counts[:, i].any() or true[i : i + 1].any()]
    occurring = [i for i in range(len(true)) if true[i]]
    rows = [(names[i], (100 * counts[i, columns] / true[i]).tolist()) for i in occurring]
    largest = tables.find_largest_confusions(run, domain) if rows else []
    return Matrix([names[i] for i in columns], rows, largest)


def _list_errors(runs: Sequence[Run], domain: str) -> list[tuple[int, Value]]:
    """Return the calibration error of the runs that have one, with their indices."""
    scores = [run.domains.get(domain) for run in runs]
    return [(i, x.calibration.ece) for i, x in enumerate(scores) if x and x.calibration]


def _build_galleries(
    runs: Sequence[Run], rankings: dict[str, list[Ranking]], palette: dict[str, Colour]
) -> tuple[list[str], dict[str, Gallery]]:
    """Return the classes that occur in the example images, and the galleries by domain."""
    seen: set[str] = set()
    galleries = {}
    limit = max(1, _EXAMPLES // max(1, len(rankings)))
    for domain, each in rankings.items():
        names = next(run for run in runs if domain in run.domains).scores.classes_of(domain).names
        folders = [run.folder.pictures / domain for run in runs]
        colours = {name: palette[name] for name in names}
        if gallery := build_gallery(folders, each, colours, limit):
            galleries[domain] = gallery
            seen |= gallery.classes
    return [name for name in palette if name in seen], galleries
