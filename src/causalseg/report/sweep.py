"""A sweep: one configuration at every combination of values of some options.

A cell is a combination. It is finished once every planned seed is; then its score in a domain is
the mean over seeds, with the standard deviation (n - 1). Nothing is chosen.
"""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from causalseg.report.format import OptionValue, Value, known_values, mean_of
from causalseg.report.result import Result
from causalseg.runs.scores import MEAN


class Cell(NamedTuple):
    """Values by option, and the results of finished seeds."""

    values: dict[str, OptionValue]
    results: dict[int, Result]


class Sweep(NamedTuple):
    """All cells of swept options, of which at least one has a result."""

    title: str
    options: dict[str, list[OptionValue]]
    seeds: list[int]
    cells: list[Cell]

    @property
    def first(self) -> Result:
        """A result, for what all results share."""
        return next(result for cell in self.cells for result in cell.results.values())

    @property
    def over(self) -> list[str]:
        """The domains that the mean is over."""
        return self.first.eval.mean.over

    @property
    def domains(self) -> list[str]:
        """All scored domains."""
        return list(self.first.eval.domains)

    def is_finished(self, cell: Cell) -> bool:
        """Whether a cell has the results of all seeds."""
        return all(seed in cell.results for seed in self.seeds)

    def scores(self, cell: Cell, domain: str) -> list[float]:
        """Return mIoU in percent of a domain, or of `MEAN`, by seed; none until it is finished."""
        if not self.is_finished(cell):
            return []
        return known_values(cell.results[seed].eval.miou_of(domain) for seed in self.seeds)

    def score_at(self, values: dict[str, OptionValue], domain: str) -> Value:
        """Return the mean over the cells with these values; None if a score is missing."""
        cells = [cell for cell in self.cells if values.items() <= cell.values.items()]
        return mean_of(mean_of(self.scores(cell, domain)) for cell in cells)

    def to_json(self) -> dict[str, Any]:
        """Return the content of sweep.json; numbers of unfinished cells are null."""
        cells = []
        for cell in self.cells:
            by_domain = {name: self._summarise(cell, name) for name in self.domains}
            scores = {MEAN: self._summarise(cell, MEAN), "domains": by_domain}
            cells.append({"values": cell.values, "finished": self.is_finished(cell), **scores})
        swept = {"options": self.options, "seeds": self.seeds}
        return {**swept, "mean_over": self.over, "domains": self.domains, "cells": cells}

    def _summarise(self, cell: Cell, domain: str) -> dict[str, Any]:
        by_seed = {
            seed: cell.results[seed].eval.miou_of(domain)
            for seed in self.seeds
            if seed in cell.results
        }
        scores = self.scores(cell, domain)
        return {"miou": mean_of(scores), "std": deviation_of(scores), "seeds": by_seed}


def deviation_of(scores: Sequence[float]) -> Value:
    """Return the standard deviation (n - 1); None of fewer than two."""
    return statistics.stdev(scores) if len(scores) > 1 else None
