"""What a finished run leaves for others: the model card and one JSON for the tables.

The card is the run folder's README.md. The result is everything a table needs to be trusted:
configuration, scores, size, seeds, speed, versions.
"""

import statistics
from collections.abc import Sequence
from typing import Any

import yaml

from causalseg.engine.log import describe_platform, list_versions
from causalseg.runfolder import RunFolder, write_text

ORIGIN = "origin.json"  # beside config.yaml: of a run that was not trained here

_CARD = """# {adapter} on {backbone}, {head} head

A segmentation model of {num_classes} classes: a {state} {backbone} ({weights}), the adapter
`{adapter}` and a `{head}` head, {parameters:,} trained parameters. These lie in this folder;
the backbone's own weights come from where `config.yaml` says.

| domain | images | mIoU % |
|---|---|---|
{rows}

Mean over {over}: {mean}. {made_of}.{overrides}

{training} Everything else is in `config.yaml`, the full scores in `eval.json`, pictures in
`report.html`.

    causalseg eval {path}
    causalseg predict {path} IMAGES --out PREDICTIONS

Classes: {names}.
"""


def write_card(run: RunFolder) -> None:
    """Write the run folder's README.md from its configuration and scores."""
    config, scores = _read_config(run), run.read_json(run.eval)
    given = [f"`{override}`" for override in scores.get("overrides", [])]
    rows = "\n".join(
        f"| {name} | {domain['images']} | {_percent(domain['miou'])} |"
        for name, domain in scores["domains"].items()
    )
    card = _CARD.format(
        adapter=scores["model"]["adapter"],
        backbone=scores["model"]["backbone"],
        weights=f"weights: {scores['model']['weights']}",
        head=scores["model"]["head"],
        state="finetuned" if "full" in scores["model"]["adapter"].split(" + ") else "frozen",
        parameters=scores["model"]["trainable_parameters"],
        num_classes=len(scores["classes"]["names"]),
        names=", ".join(scores["classes"]["names"]),
        rows=rows,
        over=", ".join(scores["mean"]["over"]),
        mean=_percent(scores["mean"]["miou"]),
        made_of=scores["made_of"],
        overrides=f"\n\nScored with {', '.join(given)} on top of `config.yaml`." if given else "",
        training=_describe_training(run, config),
        path=run.path.name,
    )
    write_text(run.card, card)


def collect_result(run: RunFolder) -> dict[str, Any]:
    """Return everything about a finished run that a table may need, as plain JSON.

    Versions, machine, device and precision are those of training, as its log has them. Of a log
    that does not say, versions and machine are those of now, the precision is the configured one,
    and the device is None.
    """
    config = _read_config(run)
    scores = run.read_json(run.eval)
    config["data"]["root"] = None  # a place on one machine
    if "overrides" in scores:
        scores["overrides"] = [o for o in scores["overrides"] if not o.startswith("data.root")]
    config["run"] = {key: config["run"][key] for key in ("seed", "precision", "devices", "threads")}
    log = run.read_log()
    rates = [event["seconds_per_step"] for event in log if event["event"] == "train"]
    peaks = [event["peak_memory_mb"] for event in log if event["event"] == "memory"]
    return {
        "eval": scores,
        "config": config,
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


def _describe_training(run: RunFolder, config: dict[str, Any]) -> str:
    if (run.path / ORIGIN).is_file():
        origin = run.read_json(run.path / ORIGIN)
        return (
            f"Not trained here: imported with `causalseg import {origin['code']}` from "
            f"`{origin['checkpoint']}` (sha256 {origin['sha256']}), which does not say how it was "
            "trained."
        )
    train, crop = config["train"], " x ".join(map(str, config["train"]["crop"]))
    return (
        f"Trained for {train['steps']} steps, batch {train['batch']}, crop {crop}, seed "
        f"{config['run']['seed']}."
    )


def _read_config(run: RunFolder) -> dict[str, Any]:
    return yaml.safe_load(run.need(run.config).read_text(encoding="utf-8"))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
