"""The notes of a comparison on training, scoring and intervals."""

from collections.abc import Mapping
from typing import Any

from causalseg.engine.bootstrap import LEVEL, RESAMPLES
from causalseg.report.comparison import Comparison
from causalseg.report.result import Result
from causalseg.report.template import load_template
from causalseg.runs.scores import MEAN


def list_notes(comparison: Comparison) -> list[str]:
    """Return the notes, one or two sentences each."""
    runs, seeds = dict[str, Result](), dict[str, list[str]]()
    origins, marks = dict[str, list[str]](), dict[str, list[str]]()
    for row in comparison.rows:
        seeds.setdefault(", ".join(map(str, row.seeds)), []).append(row.method.name)
        for seed, result in row.results.items():
            name = f"{row.method.name} seed {seed}"
            runs[name] = result
            origins.setdefault(_describe_origin(result), []).append(name)
            if mark := result.eval.mark:
                marks.setdefault(mark, []).append(name)
    groups = [f"{numbers} ({', '.join(names)})" for numbers, names in seeds.items()]
    config = comparison.first.config
    has_curves = any(row.curve([MEAN]) for row in comparison.rows)
    text = load_template("comparison_notes.md").render(
        comparison=comparison,
        config=config,
        sources=describe_sources(config["data"]),
        rates=sorted({run.config["train"]["adapter_lr"] for run in runs.values()} - {None}),
        seeds="; ".join(groups if len(groups) > 1 else seeds),
        origins=origins,
        limit=config["eval"]["limit"] if has_curves else None,
        marks=marks,
        level=f"{LEVEL:.0%}",
        resamples=RESAMPLES,
    )
    return [line for line in text.splitlines() if line]


def describe_sources(data: Mapping[str, Any]) -> str:
    """Describe the training data, from the content of the option `data`."""
    texts = []
    for source in data["sources"]:
        if source["type"] == "folder":
            texts.append(source["images"])
        elif source["type"] == "layout":
            texts.append(f"{source['layout']} {source['split']}")
        else:
            texts.append(f"{source['count']} synthetic scenes ({source['domain']})")
    return " and ".join(texts)


def _describe_origin(result: Result) -> str:
    precision = result.precision or result.config["run"]["precision"]
    versions = ", ".join(f"{key} {number}" for key, number in result.versions.items())
    device = result.device or "device not recorded"
    return f"{result.machine}, {device}, precision {precision}; {versions}"
