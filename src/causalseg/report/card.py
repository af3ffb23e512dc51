"""What a finished run leaves for others: the model card and one JSON for the tables.

The card is the run folder's README.md. The result is everything a table needs to be trusted:
configuration, scores, size, seeds, speed, versions.
"""

import statistics
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from causalseg.backbones.presets import PRESETS
from causalseg.config import Config
from causalseg.data.catalogue import LAYOUTS
from causalseg.report.gain import find_gain
from causalseg.runs.folder import RunFolder
from causalseg.runs.origin import describe_platform, list_versions
from causalseg.runs.scores import (
    CHOSEN_ON_TARGET,
    describe_domain,
    describe_inference,
    is_chosen_on_target,
    read_scores,
    size_text,
)
from causalseg.writing import write_text

_MANY = 6  # domains, more of which are counted and not named
_WEAK = 20  # percent of IoU below which a class is named among the limits


def write_card(run: RunFolder, scored: Config) -> None:
    """Write the run folder's README.md from its scores and the configuration scored with."""
    config, scores = scored.model_dump(mode="json"), read_scores(run)
    environment = Environment(undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": _percent, "between": _between}
    source = files("causalseg.report").joinpath("templates/card.md").read_text(encoding="utf-8")
    card = environment.from_string(source).render(
        model=scores["model"],
        classes=scores["classes"]["names"],
        state="finetuned" if "full" in scores["model"]["adapter"].split(" + ") else "frozen",
        path=run.path.name,
        rows=[_row(name, domain) for name, domain in scores["domains"].items()],
        mean=scores["mean"],
        over=_few(scores["mean"]["over"]),
        robustness=scores["robustness"],
        made_of=scores["made_of"],
        marked=CHOSEN_ON_TARGET if is_chosen_on_target(scores) else "",
        gain=find_gain(run),
        overrides=[f"`{override}`" for override in scores.get("overrides") or []],
        data=list(_describe_data(config)),
        training=_describe_training(run, config),
        how=describe_inference(scores["inference"]),
        limits=list(_list_limits(scores)),
    )
    write_text(run.card, card)


def collect_result(run: RunFolder) -> dict[str, Any]:
    """Return everything about a finished run that a table may need, as plain JSON.

    Of a run that was scored on the way, ``curve`` has the steps with the mIoU of every domain and
    of their mean.

    Versions, machine, device and precision are those of training, as its log has them. Of a log
    that does not say, versions and machine are those of now, the precision is the configured one,
    and the device is None.
    """
    config = run.read_config()
    scores = read_scores(run)
    config["data"]["root"] = None  # a place on one machine
    if "overrides" in scores:
        scores["overrides"] = [o for o in scores["overrides"] if not o.startswith("data.root")]
    config["run"] = {key: config["run"][key] for key in ("seed", "precision", "devices", "threads")}
    log = run.read_log()
    rates = [event["seconds_per_step"] for event in log if event["event"] == "train"]
    peaks = [event["peak_memory_mb"] for event in log if event["event"] == "memory"]
    scored = [[event["step"], event["miou"]] for event in log if event["event"] == "eval"]
    return {
        "eval": scores,
        "config": config,
        **({"curve": scored} if len(scored) > 1 else {}),
        "seconds_per_step": round(statistics.median(rates), 3),
        "peak_memory_mb": max(peaks, default=None),
        **_read_origin(log, config["run"]["precision"]),
    }


def _read_origin(log: Sequence[dict[str, Any]], precision: str) -> dict[str, Any]:
    """Join what the attempts of a run were made with; most runs have one."""
    starts = [event for event in log if event["event"] == "start"]
    if not starts:
        now = {"versions": list_versions(), "machine": describe_platform()}
        return {**now, "device": None, "precision": precision}
    if starts[0]["step"] > 0:  # the log says it of a later attempt alone
        unknown = {"device": "not recorded", "precision": precision}
        starts = [{**starts[0], **unknown}, *starts]

    def joined(values: Sequence[str]) -> str:
        return " then ".join(dict.fromkeys(values))

    versions = [start["versions"] for start in starts]
    origin = {"versions": {name: joined([v[name] for v in versions]) for name in versions[0]}}
    keys = ("machine", "device", "precision")
    return origin | {key: joined([start[key] for start in starts]) for key in keys}


def _row(name: str, domain: dict[str, Any]) -> list[str]:
    known = {key: value for key, value in domain["iou"].items() if value is not None}
    weakest = min(known, key=lambda key: known[key], default=None)
    calibration = domain["calibration"]
    return [
        name,
        describe_domain(domain),
        _percent(domain["miou"]),
        _between(domain["miou_interval"]).strip() or "-",
        "-" if weakest is None else f"{weakest} {_percent(known[weakest])}",
        _percent(domain["boundary_miou"]),
        _percent(calibration and calibration["ece"]),
    ]


def _describe_data(config: dict[str, Any]) -> Iterator[list[str]]:
    """What the model was made from and scored on, with the terms of each."""
    backbone = config["backbone"]["name"]
    terms = PRESETS[backbone].license if backbone in PRESETS else "see where the weights come from"
    yield ["backbone", f"{backbone}, weights: {config['backbone']['weights']}", terms]
    data = config["data"]
    for source in data["sources"]:
        yield ["trained on", *_describe_source(source)]
    for name in data["only"] or data["domains"]:
        yield [f"scored on {name}", *_describe_source(data["domains"][name])]


def _describe_source(source: dict[str, Any]) -> tuple[str, str]:
    changed = f", under {source['corrupt']['name']}" if source.get("corrupt") else ""
    match source["type"]:
        case "layout":
            layout = LAYOUTS[source["layout"]]
            where = f"[{layout.title}]({layout.homepage}), split {source['split']}"
            return where + changed, layout.license
        case "folder":
            images = source["images"].replace("|", r"\|")
            return f"folder `{images}`{changed}", "not known to causalseg"
        case _:
            return (
                f"{source['count']} drawn scenes ({source['domain']}){changed}",
                "drawn by this package",
            )


def _describe_training(run: RunFolder, config: dict[str, Any]) -> str:
    if run.origin.is_file():
        origin = run.read_json(run.origin)
        return (
            f"Not trained here: imported with `causalseg import {origin['code']}` from "
            f"`{origin['checkpoint']}` (sha256 {origin['sha256']}), which does not say how it was "
            "trained."
        )
    train, crop = config["train"], size_text(config["train"]["crop"])
    return (
        f"Trained for {train['steps']} steps{_stopped(run)}, batch {train['batch']}, crop {crop} "
        f"px, seed {config['run']['seed']}."
    )


def _stopped(run: RunFolder) -> str:
    """Say after how many of its steps training ended early, if it did."""
    events = run.read_log() if run.log.is_file() else []
    last = max((event["step"] for event in events), default=0)
    stops = [event["step"] for event in events if event["event"] == "stop"]
    return f" at most, stopped early after {last}" if stops and stops[-1] == last else ""


def _list_limits(scores: dict[str, Any]) -> Iterator[str]:
    over, domains = scores["mean"]["over"], scores["domains"]
    yield (
        f"What is known of it is what the table says; the mean is over {_few(over)}. "
        "Other places, seasons, cameras and weathers were not looked at."
    )
    yield "One training run with one seed; another seed gives other numbers."
    for name, domain in domains.items():
        if "corruption" in domain:
            continue
        absent = [key for key, pixels in domain["pixels"].items() if not pixels]
        weak = [
            f"{key} {_percent(iou)}"
            for key, iou in domain["iou"].items()
            if iou is not None and iou < _WEAK
        ]
        if weak:
            yield f"In {name} IoU is below {_WEAK} % for {', '.join(weak)}."
        if absent:
            yield f"{name} has no {', '.join(absent)}: nothing is known of them there."
    yield (
        "Images of a video are not independent, so the intervals are too narrow there. They cover "
        "the choice of images, not that of seeds or places."
    )
    yield "Not a safety component: do not let it alone decide about people."


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= _MANY else f"{len(names)} domains"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _between(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" [{interval[0]:.1f}, {interval[1]:.1f}]"
