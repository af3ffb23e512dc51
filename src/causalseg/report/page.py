"""A run, or several side by side, as one HTML file that needs nothing but itself.

Reads run folders only. Every figure and picture is a data: URI, so the file can be mailed, archived
and opened without a network. It says everything without its script, which only names the class
under the pointer.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError

from causalseg.errors import RunError
from causalseg.report import charts, tables
from causalseg.report.gallery import WRONG, GalleryImage, make_example, picture_names
from causalseg.report.read import Run, Value, read_runs, reference_of
from causalseg.report.tables import Confusion
from causalseg.runs.folder import RunFolder
from causalseg.runs.scores import describe_inference, size_text
from causalseg.writing import write_text

_FIGURES = 12  # domains that have a figure of their own
_EXAMPLES = 60  # rows of pictures, shared by all domains; each has at least one
_WORST = 5
_ROLES = ("median", "best", "worst")
Palette = dict[str, Sequence[int]]


class Gallery(NamedTuple):
    """Examples of a domain, each with what every run says of it, and how many are left out."""

    examples: list[tuple[GalleryImage, list[str]]]
    left_out: int


class Matrix(NamedTuple):
    """A confusion matrix in percent of its rows; only classes that occur or are predicted."""

    columns: list[str]
    rows: list[tuple[str, list[float]]]
    largest: list[Confusion]


def write_report(runs: Sequence[RunFolder], out: Path, baseline: RunFolder | None = None) -> None:
    """Write one HTML file about one run, or a comparison of several.

    Args:
        runs: folders with config.yaml and eval.json; log and pictures are shown if they are there.
        out: the file, written whole or not at all.
        baseline: the run that the others are compared to; shown first if it is none of them.
            Without it, the second of exactly two is compared to the first.

    Raises:
        MissingFileError: if config.yaml or eval.json is missing.
        RunError: if a file is broken, or the runs have different classes.
    """
    read = read_runs(runs, baseline)
    reference = reference_of(read, baseline)
    try:
        html = _environment().get_template("page.html").render(_content(read, reference))
    except UndefinedError as error:
        raise RunError(
            f"config.yaml or origin.json is not as causalseg writes it: {error}"
        ) from error
    write_text(out, html)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("causalseg.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {
        "percent": tables.percent,
        "signed": tables.signed,
        "minus": tables.minus,
        "size": size_text,
        "best": tables.best_of,
        "other": tables.other_score,
        "inference": describe_inference,
        "place": charts.place_of,
    }
    environment.globals |= {"shapes": charts.SHAPES_AS_TEXT, "colours": charts.COLOURS}
    environment.globals |= {"others": tables.OTHERS, "wrong": WRONG}
    return environment


def _content(runs: Sequence[Run], reference: Run | None) -> dict[str, Any]:
    """Everything that the template shows."""
    headline, palette = tables.headline(runs, reference), _palette(runs)
    domains = list(headline.rows)
    losses = tables.losses(runs, reference)
    shown, galleries = _galleries(runs, domains, palette)
    content = {
        "runs": runs,
        "reference": reference,
        "table": headline,
        "domains": domains,
        "about": tables.all_about(runs),
        "caveats": tables.caveats(runs, headline.over),
        "losses": losses,
        "mean_losses": tables.mean_losses(losses.values()),
        "scored": [n for n in palette if any(_occurs(run, n) for run in runs)],
        "palette": palette,
        "by_colour": _names_by_colour(palette),
        "measures": _measures(runs),
        "confusions": _confusions(runs, domains),
        "limits": _limits(runs),
        "charts": _charts(runs, headline, domains),
        "errors": {name: _errors(runs, name) for name in domains},
        "worst": _worst(runs, domains),
        "shown": shown,
        "galleries": galleries,
    }
    return content | {"sections": _sections(content)}


def _sections(content: Mapping[str, Any]) -> dict[str, str]:
    """Titles of the sections that there is something to show in, by id."""
    drawn = content["charts"]
    titles = {
        "miou": ("mIoU by domain", True),
        "robustness": ("Robustness", tables.has_robustness(content["runs"])),
        "classes": ("Classes", True),
        "confusion": ("Confusion", content["confusions"]),
        "training": ("Training", drawn["training"]),
        "calibration": ("Calibration", drawn["reliability"]),
        "images": ("Single images", drawn["images"]),
        "pictures": ("Pictures", content["galleries"]),
        "method": ("How these numbers are made", True),
    }
    return {name: title if is_there else "" for name, (title, is_there) in titles.items()}


def _charts(
    runs: Sequence[Run], headline: tables.Headline, domains: Sequence[str]
) -> dict[str, Any]:
    labels = [run.label for run in runs]
    calibrated = [name for name in domains if _errors(runs, name)]
    counted = [name for name in domains if any(_ranked(run, name) for run in runs)]
    return {
        "headline": charts.draw_headline(headline, labels),
        "training": charts.draw_training(runs),
        "reliability": {n: charts.draw_reliability(runs, n) for n in calibrated[:_FIGURES]},
        "images": {n: charts.draw_images(runs, n) for n in counted[:_FIGURES]},
    }


def _palette(runs: Sequence[Run]) -> Palette:
    """The colour of every class by name; of a name in two class lists, the model's."""
    lists = [run.scores["classes"] for run in runs]
    lists += [run.classes(domain) for run in runs for domain in run.domains]
    palette: Palette = {}
    for classes in lists:
        for name, colour in zip(classes["names"], classes["palette"], strict=True):
            palette.setdefault(name, colour)
    return palette


def _names_by_colour(palette: Palette) -> dict[str, str]:
    """Class names by `red,green,blue`; those that share a colour together."""
    names: dict[str, list[str]] = {"0,0,0": ["no class"]}
    for name, colour in palette.items():
        names.setdefault(",".join(map(str, colour)), []).append(name)
    return {colour: " or ".join(several) for colour, several in names.items()}


def _limits(runs: Sequence[Run]) -> list[int]:
    """How many images of a domain were scored during training, where that was limited."""
    options = [run.config.get("eval") for run in runs]
    return sorted({x["limit"] for x in options if isinstance(x, dict) and x.get("limit")})


def _occurs(run: Run, name: str) -> bool:
    return any(about["pixels"].get(name) for about in run.domains.values())


def _measures(runs: Sequence[Run]) -> dict[str, str]:
    """Titles of the scores by class that any run has."""
    abouts = [about for run in runs for about in run.domains.values()]
    return {k: title for k, title in tables.MEASURES.items() if any(about[k] for about in abouts)}


def _confusions(runs: Sequence[Run], domains: Sequence[str]) -> dict[str, list[tuple[Run, Matrix]]]:
    found = {}
    for domain in domains:
        known = [run for run in runs if run.domains.get(domain, {}).get("confusion")]
        matrices = [(run, matrix) for run in known if (matrix := _matrix(run, domain)).rows]
        if matrices:
            found[domain] = matrices
    return found


def _matrix(run: Run, domain: str) -> Matrix:
    names = [*run.classes(domain)["names"], tables.NONE]
    counts = tables.confusion_counts(run, domain)
    true = counts.sum(axis=1)
    columns = [i for i in range(counts.shape[1]) if counts[:, i].any() or true[i : i + 1].any()]
    rows = [
        (names[i], (100 * counts[i, columns] / true[i]).tolist())
        for i in range(len(true))
        if true[i]
    ]
    largest = tables.largest_confusions(run, domain) if rows else []
    return Matrix([names[i] for i in columns], rows, largest)


def _errors(runs: Sequence[Run], domain: str) -> list[tuple[int, Value]]:
    """The calibration error of the runs that have one, with their places."""
    abouts = [run.domains.get(domain, {}).get("calibration") for run in runs]
    return [(i, about["ece"]) for i, about in enumerate(abouts) if about]


def _ranked(run: Run, domain: str) -> list[tuple[str, float]]:
    """Names and mIoU of the images that have one, the lowest first."""
    if domain not in run.domains:
        return []
    found = [(name, v) for name, v in run.image_mious(domain).items() if v is not None]
    return sorted(found, key=lambda pair: pair[1])


def _worst(
    runs: Sequence[Run], domains: Sequence[str]
) -> dict[str, list[tuple[Run, list[tuple[str, float]]]]]:
    lists = {
        name: [(run, ranked[:_WORST]) for run in runs if (ranked := _ranked(run, name))]
        for name in domains
    }
    return {name: several for name, several in lists.items() if several}


def _roles(run: Run, domain: str) -> dict[str, str]:
    """What there is to say of each image: its mIoU, and whether it is the best, median or worst."""
    ranked = _ranked(run, domain)
    said = {name: f"mIoU {value:.1f}" for name, value in ranked}
    for place, role in zip((len(ranked) // 2, -1, 0), _ROLES, strict=True):
        if ranked:
            name, value = ranked[place]
            said[name] = f"mIoU {value:.1f}, {role}"
    return said


def _galleries(
    runs: Sequence[Run], domains: Sequence[str], palette: Palette
) -> tuple[list[str], dict[str, Gallery]]:
    """Return the classes that occur in the pictures, and by domain the examples."""
    seen: set[str] = set()
    galleries = {}
    limit = max(1, _EXAMPLES // max(1, len(domains)))
    for domain in domains:
        folders = [run.folder.pictures / domain for run in runs]
        found = picture_names(folders)
        if not found:
            continue
        roles = [_roles(run, domain) for run in runs]
        # Those that stand out in some run come first if not all are shown.
        extreme = {n for n in found if any(said.get(n, "").endswith(_ROLES) for said in roles)}
        chosen = set(sorted(found, key=lambda name: name not in extreme)[:limit])
        names = next(run for run in runs if domain in run.domains).classes(domain)["names"]
        colours = np.array([palette[name] for name in names], np.uint8)
        examples = []
        for name in (name for name in found if name in chosen):
            example, ids = make_example(folders, name, names, colours)
            examples.append((example, [said.get(name, "") for said in roles]))
            seen |= {names[i] for i in ids if i < len(names)}
        galleries[domain] = Gallery(examples, len(found) - len(chosen))
    return [name for name in palette if name in seen], galleries
