"""Run folders as a report reads them: configuration, scores, log, and a label of each."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from causalseg.engine.metrics import mean_iou, read_counts
from causalseg.errors import RunError
from causalseg.runs.folder import RunFolder
from causalseg.runs.scores import read_scores

Value = float | None


class Run(NamedTuple):
    """What is read of a run folder before its pictures.

    Attributes:
        folder: where it is.
        label: tells it from the other runs of the report.
        config: content of config.yaml.
        scores: content of eval.json.
        log: events of log.jsonl; none if there is no log.
        origin: what an imported run was made of; None of a run that was trained.
    """

    folder: RunFolder
    label: str
    config: dict[str, Any]
    scores: dict[str, Any]
    log: list[dict[str, Any]]
    origin: dict[str, str] | None

    @property
    def domains(self) -> dict[str, dict[str, Any]]:
        """The scores by domain."""
        return self.scores["domains"]

    def classes(self, domain: str) -> dict[str, Any]:
        """Names and palette of the classes of a domain's labels."""
        return self.domains.get(domain, {}).get("classes") or self.scores["classes"]

    def by_class(self, measure: str, domain: str, name: str) -> Value:
        """A class's score in percent; None where the domain does not have the class."""
        about = self.domains.get(domain)
        if about is None or not about["pixels"].get(name):
            return None
        return (about[measure] or {}).get(name)

    def counts(self, domain: str) -> Int[np.ndarray, "b 3 k"]:
        """TP, FP and FN in pixels of every image and class."""
        return read_counts(self.domains[domain]["per_image"]["counts"])

    def image_mious(self, domain: str) -> dict[str, Value]:
        """The mIoU in percent of each image, over the classes that occur in it."""
        names = self.domains[domain]["per_image"]["names"]
        if not names:
            return {}
        values: Float[np.ndarray, " b"] = mean_iou(self.counts(domain))
        return {n: None if np.isnan(v) else float(v) for n, v in zip(names, values, strict=True)}

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Events of the log, such as `train` or `eval`."""
        return [entry for entry in self.log if entry["event"] == kind]


def read_runs(folders: Sequence[RunFolder], baseline: RunFolder | None = None) -> list[Run]:
    """Read runs that stand side by side.

    Args:
        folders: with config.yaml and eval.json; the log is read if it is there.
        baseline: read too, as the first, unless it is one of them.

    Raises:
        MissingFileError: if config.yaml or eval.json is missing.
        RunError: if a file is broken, a folder is named twice, or the runs' classes differ.
    """
    if not folders:
        raise RunError("a report is about at least one run: give a run folder")
    if baseline and not any(_is_same(baseline, folder) for folder in folders):
        folders = [baseline, *folders]
    if len({folder.path.resolve() for folder in folders}) < len(folders):
        raise RunError("a run folder is given twice: name each once")
    contents = [(folder.read_config(), _read_scores(folder)) for folder in folders]
    labels = _labels(folders, [scores["model"] for _, scores in contents])
    runs = []
    for folder, label, (config, scores) in zip(folders, labels, contents, strict=True):
        if scores["classes"]["names"] != contents[0][1]["classes"]["names"]:
            raise RunError(
                f"{folder.path} has other classes than {folders[0].path}: only runs with the same "
                "class list can be compared, make a report of each"
            )
        beside = folder.origin
        origin = folder.read_json(beside) if beside.is_file() else None
        runs.append(Run(folder, label, config, scores, _read_log(folder), origin))
    return runs


def reference_of(runs: Sequence[Run], baseline: RunFolder | None) -> Run | None:
    """Return the run that the others are compared to: the baseline, or the first of exactly two."""
    if baseline and len(runs) > 1:
        return next(run for run in runs if _is_same(run.folder, baseline))
    return runs[0] if len(runs) == 2 else None


def _is_same(folder: RunFolder, other: RunFolder) -> bool:
    return folder.path.resolve() == other.path.resolve()


def _read_scores(folder: RunFolder) -> dict[str, Any]:
    """Read eval.json, and check that its lists are as long as they must be."""
    scores = read_scores(folder)
    for name, about in scores["domains"].items():
        k, images = len((about.get("classes") or scores["classes"])["names"]), about["per_image"]
        lengths = {len(row.split()) for row in images["counts"]}
        widths = {len(row.split()) for row in about["confusion"] or []}
        if (
            len(images["names"]) != len(images["counts"])
            or not lengths <= {3 * k}
            or not widths <= {k, k + 1}
            or len(about["confusion"] or []) not in (0, k)
        ):
            raise RunError(
                f"{folder.eval}: the counts of domain {name!r} do not fit its {k} classes and "
                f"{len(images['names'])} images: make it anew with `causalseg eval {folder.path}`"
            )
    strange = [name for name in scores["mean"]["over"] if name not in scores["domains"]]
    if strange:
        raise RunError(
            f"{folder.eval}: the mean is over {strange[0]!r}, which was not scored: make it anew "
            f"with `causalseg eval {folder.path}`"
        )
    return scores


def _read_log(folder: RunFolder) -> list[dict[str, Any]]:
    events = folder.read_log() if folder.log.is_file() else []
    for event in events:
        if not isinstance(event, dict) or not {"event", "step"} <= event.keys():
            raise RunError(f"{folder.log} is not the log that training writes: {event}; remove it")
        if event["event"] == "eval" and not isinstance(event.get("miou"), dict):
            raise RunError(f"{folder.log} has an evaluation without mIoU: {event}; remove it")
    return events


def _labels(folders: Sequence[RunFolder], models: Sequence[dict[str, str]]) -> list[str]:
    """Adapter and head; where runs share both, also as much of the path as tells them apart."""
    labels = [
        f"{'head only' if model['adapter'] == 'none' else model['adapter']}, {model['head']}"
        for model in models
    ]
    paths = [folder.path.resolve().parts for folder in folders]
    depth = next(d for d in range(1, 1000) if len({path[-d:] for path in paths}) == len(paths))
    return [
        f"{label} ({'/'.join(path[-depth:])})" if labels.count(label) > 1 else label
        for label, path in zip(labels, paths, strict=True)
    ]
