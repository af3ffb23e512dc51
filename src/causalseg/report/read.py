"""Run folders as reports read them: configuration, scores, log, and a label for each."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from causalseg.engine.metrics import mean_iou, read_counts
from causalseg.errors import RunError
from causalseg.report.format import Value
from causalseg.runs.folder import RunFolder
from causalseg.runs.scores import DomainScores, ModelScored, Scores, read_scores


class Run(NamedTuple):
    """What is read of a run folder; the label distinguishes it from the others of the report."""

    folder: RunFolder
    label: str
    config: dict[str, Any]  # as the version that trained the run wrote it
    scores: Scores
    log: list[dict[str, Any]]  # empty without a log
    origin: dict[str, Any] | None  # what an imported run, or an average, was made of

    @property
    def domains(self) -> dict[str, DomainScores]:
        """The scores by domain."""
        return self.scores.domains

    def has_class(self, name: str) -> bool:
        """Whether the class occurs in the labels of any domain."""
        return any(domain.pixels.get(name) for domain in self.domains.values())

    def by_class(self, measure: str, domain: str, name: str) -> Value:
        """Return a class's score in percent; None where the domain does not have the class."""
        scores = self.domains.get(domain)
        if scores is None or not scores.pixels.get(name):
            return None
        return (getattr(scores, measure) or {}).get(name)

    def image_mious(self, domain: str) -> dict[str, float]:
        """Return the mIoU in percent of each image with any class, the lowest first."""
        if domain not in self.domains or not self.domains[domain].per_image.names:
            return {}
        (counts,), (names,) = counts_of(self.scores, [domain]), self.scores.names_of([domain])
        pairs = zip(names, mean_iou(counts).tolist(), strict=True)
        known = {name: miou for name, miou in pairs if not np.isnan(miou)}
        return dict(sorted(known.items(), key=lambda pair: pair[1]))

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of the log of a kind, such as `train` or `eval`."""
        return [entry for entry in self.log if entry["event"] == kind]


def counts_of(scores: Scores, domains: Sequence[str]) -> list[Int[np.ndarray, "b 3 k"]]:
    """Return TP, FP and FN in pixels of every image and class, for each domain."""
    return [read_counts(scores.domains[name].per_image.counts) for name in domains]


def read_runs(folders: Sequence[RunFolder], baseline: RunFolder | None = None) -> list[Run]:
    """Read runs to compare; the baseline comes first, unless it is one of them.

    Raises MissingFileError without config.yaml or eval.json, and RunError if a file is broken, a
    folder is named twice, or the class lists differ.
    """
    if not folders:
        raise RunError("a report needs at least one run: give a run folder")
    if baseline and not any(_is_same(baseline, folder) for folder in folders):
        folders = [baseline, *folders]
    if len({folder.results.resolve() for folder in folders}) < len(folders):
        raise RunError("a run folder is given twice: name each once")
    configs = [folder.read_config() for folder in folders]
    scores = [read_scores(folder) for folder in folders]
    labels = _label_runs(folders, [each.model for each in scores])
    runs = []
    for folder, label, config, each in zip(folders, labels, configs, scores, strict=True):
        if each.classes.names != scores[0].classes.names:
            raise RunError(
                f"{folder.path} and {folders[0].path} have different class lists and cannot be "
                "compared: make a report of each"
            )
        origin = folder.read_json(folder.origin) if folder.origin.is_file() else None
        runs.append(Run(folder, label, config, each, _read_log(folder), origin))
    return runs


def find_reference(runs: Sequence[Run], baseline: RunFolder | None) -> Run | None:
    """Return the run that the others are compared to: the baseline, or the first of exactly two."""
    if baseline and len(runs) > 1:
        return next(run for run in runs if _is_same(run.folder, baseline))
    return runs[0] if len(runs) == 2 else None


def _is_same(folder: RunFolder, other: RunFolder) -> bool:
    return folder.results.resolve() == other.results.resolve()


def _read_log(folder: RunFolder) -> list[dict[str, Any]]:
    return folder.read_log() if folder.log.is_file() else []


def _label_runs(folders: Sequence[RunFolder], models: Sequence[ModelScored]) -> list[str]:
    """Return adapter and head; where runs share both, also the end of the path that differs.

    A later evaluation has its name.
    """
    labels = [
        f"{'frozen backbone' if model.adapter == 'none' else model.adapter}, {model.head}"
        for model in models
    ]
    labels = [
        label if folder.results == folder.path else f"{label}, {folder.results.name}"
        for label, folder in zip(labels, folders, strict=True)
    ]
    paths = [folder.results.resolve().parts for folder in folders]
    depth = next(d for d in range(1, 1000) if len({path[-d:] for path in paths}) == len(paths))
    return [
        f"{label} ({'/'.join(path[-depth:])})" if labels.count(label) > 1 else label
        for label, path in zip(labels, paths, strict=True)
    ]
