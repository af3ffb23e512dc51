"""How the numbers of a comparison were made, in sentences."""

from collections.abc import Mapping
from typing import Any

from causalseg.engine.bootstrap import LEVEL, RESAMPLES
from causalseg.report.comparison import Comparison
from causalseg.report.result import Result
from causalseg.runs.scores import CHOSEN_ON_TARGET, MEAN, size_text


def list_notes(comparison: Comparison) -> list[str]:
    """Return notes on training, scoring and intervals, one sentence or two each."""
    runs = {
        f"{row.method.name} seed {seed}": result
        for row in comparison.rows
        for seed, result in row.results.items()
    }
    notes = [*_describe_training(comparison), *_describe_scoring(comparison), _list_origins(runs)]
    limit = comparison.first.config["eval"]["limit"]
    if limit is not None and any(row.curve([MEAN]) for row in comparison.rows):
        notes.append(f"Scores before the last step are of at most {limit} images a domain.")
    notes += [
        f"Reported for {row.method.name}, not measured here: {row.method.source}."
        for row in comparison.rows
        if row.method.reported
    ]
    if chosen := [run for run, result in runs.items() if result.eval.is_chosen_on_target]:
        notes.insert(0, f"{', '.join(chosen)}: {CHOSEN_ON_TARGET}.")
    return notes + ([f"Missing: {comparison.missing_text}."] if comparison.missing else [])


def describe_sources(data: Mapping[str, Any]) -> str:
    """Say what was trained on, from the content of the option `data`."""
    texts = []
    for source in data["sources"]:
        match source["type"]:
            case "folder":
                texts.append(source["images"])
            case "layout":
                texts.append(f"{source['layout']} {source['split']}")
            case _:
                texts.append(f"{source['count']} synthetic scenes ({source['domain']})")
    return " and ".join(texts)


def _describe_training(comparison: Comparison) -> list[str]:
    config = comparison.first.config
    train, backbone = config["train"], config["backbone"]
    results = [result for row in comparison.rows for result in row.results.values()]
    rates = {result.config["train"]["adapter_lr"] for result in results} - {None}
    return [
        f"Trained on {describe_sources(config['data'])}. The head of the table names the domains "
        "scored, their number of images and the label size (width × height).",
        f"Backbone {backbone['name']} (weights: {backbone['weights']}), head "
        f"{config['head']['name']}, {train['steps']} steps, batch {train['batch']}, crop "
        f"{size_text(train['crop'])} px, learning rate {train['lr']:g}"
        + "".join(f", of the adapter {rate:g}" for rate in sorted(rates))
        + f", photometric distortion {'on' if train['augment']['photometric'] else 'off'}: for all "
        "methods unless they change it.",
    ]


def _describe_scoring(comparison: Comparison) -> list[str]:
    return [
        "mIoU in percent, one confusion matrix a domain over all labelled pixels, predicted from "
        f"{comparison.first.eval.inference.describe()}: mean ± standard deviation (n − 1) "
        f"over seeds {_list_seeds(comparison)}. Runs of one seed share the order of data, "
        "augmentation and the initialisation of the head.",
        f"Difference: of the mean over {', '.join(comparison.over)} to that of "
        f"{comparison.reference} with the same seed, mean ± standard deviation (n − 1) over the "
        f"seeds that both have. In brackets the {LEVEL:.0%} interval of the mean by a paired "
        f"bootstrap: {RESAMPLES} draws of images, the same for both methods, all seeds, and all "
        "domains that show the same images. It covers the choice of images, not that of seeds.",
        "Images of a video are not independent: for such domains the intervals are too narrow. "
        "Every method has an interval of its own, not corrected for their number: with many, some "
        "exclude 0 by chance.",
        "s/step: median over training. Peak memory: of the training process, on CUDA of the "
        "device. Both depend on the machine and on what else ran there.",
    ]


def _list_seeds(comparison: Comparison) -> str:
    """List the seeds of all methods, or of each group of methods with the same."""
    groups: dict[str, list[str]] = {}
    for row in comparison.rows:
        groups.setdefault(", ".join(map(str, row.seeds)), []).append(row.method.name)
    texts = [f"{seeds} ({', '.join(names)})" for seeds, names in groups.items()]
    return "; ".join(texts if len(groups) > 1 else groups)


def _list_origins(runs: Mapping[str, Result]) -> str:
    """Say where and with what versions the runs were trained; by run if they differ."""
    origins: dict[str, list[str]] = {}
    for name, result in runs.items():
        precision = result.precision or result.config["run"]["precision"]
        versions = ", ".join(f"{key} {number}" for key, number in result.versions.items())
        device = result.device or "device not recorded"
        text = f"{result.machine}, {device}, precision {precision}; {versions}"
        origins.setdefault(text, []).append(name)
    if len(origins) == 1:
        return f"Trained on {next(iter(origins))}."
    listed = "; ".join(f"{', '.join(names)}: {origin}" for origin, names in origins.items())
    return (
        "Machine, device, precision or versions differ, or are not known of all runs, which may be "
        f"part of the differences. {listed}."
    )
