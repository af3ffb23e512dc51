"""A finished run as one JSON file, from which tables and comparisons are made."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError, field_validator

from causalseg.config.block import Block
from causalseg.errors import RunError
from causalseg.report.format import Value
from causalseg.runs.folder import RunFolder
from causalseg.runs.origin import describe_platform, list_versions
from causalseg.runs.scores import Scores, describe_mistake, read_scores


class Method(NamedTuple):
    """A row of a comparison."""

    name: str
    overrides: list[str]  # changes to the shared configuration, as key=value
    reported: dict[str, float]  # published mIoU in percent, by domain or for the mean
    source: str  # where it was published


class MethodLabel(Block):
    """The method and the comparison that a result belongs to."""

    name: str
    overrides: list[str]
    reported: dict[str, float]
    source: str
    place: int
    """Row of the method in the comparison."""
    reference: str
    seeds: list[int]
    """All seeds planned for the method."""

    @property
    def method(self) -> Method:
        """The method by itself."""
        return Method(self.name, self.overrides, self.reported, self.source)


class Result(Block):
    """What a table may need of a finished run."""

    method: MethodLabel | None = None
    eval: Scores
    config: dict[str, Any]
    """As the version that trained the run wrote it."""
    curve: list[tuple[int, dict[str, Value]]] | None = None
    """Training steps, each with the mIoU in percent of every domain and of the mean."""
    seconds_per_step: float
    """Median over training."""
    peak_memory_mb: float | None = None
    versions: dict[str, str]
    machine: str
    device: str | None = None
    precision: str | None = None

    @field_validator("config")
    @classmethod
    def _has_seed(cls, config: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(config.get("run"), dict) or "seed" not in config["run"]:
            raise ValueError("run.seed is missing")
        return config

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.config["run"]["seed"]

    @property
    def label(self) -> MethodLabel:
        """The method; RunError for a result that belongs to no comparison."""
        if self.method is None:
            raise RunError("no result of a comparison: take those that `causalseg compare` wrote")
        return self.method

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        return self.model_dump(mode="json", exclude_unset=True)


def read_result(file: Path) -> Result:
    """Read a result. Raises RunError if the file is broken."""
    try:
        return Result.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise RunError(
            f"{file} is no result of a run ({describe_mistake(error)}): remove it, or replace "
            "it by one that `causalseg compare` or tools/tables.py wrote"
        ) from error


def collect_result(run: RunFolder) -> Result:
    """Return the result of a finished run, without paths of this machine.

    Versions, machine, device and precision come from the log; if it lacks them, versions and
    machine are the current ones, the precision is the configured one, and the device is None.
    """
    config = run.read_config()
    config["data"]["root"] = None
    config["run"] = {key: config["run"][key] for key in ("seed", "precision", "devices", "threads")}
    scores = read_scores(run)
    if scores.overrides is not None:
        kept = [o for o in scores.overrides if not o.startswith("data.root")]
        scores = scores.model_copy(update={"overrides": kept})
    log = run.read_log()
    rates = [event["seconds_per_step"] for event in log if event["event"] == "train"]
    peaks = [event["peak_memory_mb"] for event in log if event["event"] == "memory"]
    curve = [[event["step"], event["miou"]] for event in log if event["event"] == "eval"]
    content = {
        "eval": scores,
        "config": config,
        "seconds_per_step": round(statistics.median(rates), 3),
        "peak_memory_mb": max(peaks, default=None),
    }
    if len(curve) > 1:  # not scored only at the end
        content["curve"] = curve
    return Result.model_validate(content | _read_origin(log, config["run"]["precision"]))


def _read_origin(log: Sequence[dict[str, Any]], precision: str) -> dict[str, Any]:
    """Join versions, machine, device and precision of all attempts at a run, usually one."""
    starts = [event for event in log if event["event"] == "start"]
    if not starts:
        now = {"versions": list_versions(), "machine": describe_platform()}
        return {**now, "device": None, "precision": precision}
    if starts[0]["step"] > 0:  # only a later attempt was logged
        unknown = {"device": "not recorded", "precision": precision}
        starts = [{**starts[0], **unknown}, *starts]

    def join(contents: Sequence[dict[str, str]], keys: Iterable[str]) -> dict[str, str]:
        return {key: " then ".join(dict.fromkeys(c[key] for c in contents)) for key in keys}

    versions = [start["versions"] for start in starts]
    origin = join(starts, ("machine", "device", "precision"))
    return {"versions": join(versions, versions[0]), **origin}
