"""Average the trained weights of runs into a new run: model soups and WiSE-FT.

With h and a the weights of head and adapter of n runs, and a_0 those that every adapter began with:

    (1) h = mean of h_i                        Wortsman et al., ICML 2022, arXiv 2203.05482
    (2) a = a_0 + f (mean of a_i - a_0)        Wortsman et al., CVPR 2022, arXiv 2109.01903

f = 1 is the average; f = 0 leaves the frozen backbone as it was. Averages make sense for runs that
began with the same weights: those with the same `run.init_seed`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from causalseg.build.data import build_domains
from causalseg.build.model import build_segmenter
from causalseg.config import Config
from causalseg.config.load import dump_config, load_config
from causalseg.config.stages import Stage
from causalseg.engine.devices import make_fabric
from causalseg.errors import ConfigError, RunError
from causalseg.jobs.eval import score_model, seen_domains, write_results
from causalseg.jobs.train import list_changes
from causalseg.jobs.tune import seen_domain
from causalseg.model import Segmenter, Weights
from causalseg.runs.checkpoint import load_weights
from causalseg.runs.folder import RunFolder
from causalseg.runs.log import logger
from causalseg.runs.seal import sealing
from causalseg.writing import write_json, write_text


class Soup(NamedTuple):
    """A run made of others: f, and the mIoU of every f that was tried, in percent."""

    run: RunFolder
    factor: float
    tried: dict[float, float | None]


def make_soup(
    paths: Sequence[Path], out: Path, factors: Sequence[float] = (1.0,), metric: str | None = None
) -> Soup:
    """Average runs into the run folder ``out`` and score it, in one process.

    Of several ``factors`` f, that with the best ``metric`` is taken: DOMAIN.miou of a domain that
    ``data.mean_over`` does not name; of equal ones the largest.

    Raises ConfigError if factors or metric are wrong, RunError if the runs differ in more than the
    seed, began with different weights, or ``out`` holds a run.
    """
    runs, target = [RunFolder(path) for path in paths], RunFolder(out)
    config = _check_runs(runs, target)
    domain = _check_factors(factors, metric, config)
    config = config.with_options("run", out=str(out), resume=False)
    fabric = make_fabric(config.run.model_copy(update={"devices": 1, "nodes": 1}))
    model = build_segmenter(config)
    begin = _copy(model)
    averaged = _average(model, runs)
    fabric.to_device(model)
    seen = seen_domains(config, config)

    tried: dict[float, float | None] = {}
    if domain is not None:
        alone = config.with_options("data", only=[domain], mean_over=[domain])
        only = build_domains(alone.data, config.inference)
        for factor in sorted(factors, reverse=True):
            _place(model, begin, averaged, factor)
            scores, _ = score_model(fabric, model, only, seen, alone, 0)
            tried[factor] = scores.miou_of(domain)
            logger.info("factor %g: %s %.2f", factor, metric, tried[factor] or 0)
    best = max(tried, key=lambda factor: tried[factor] or 0) if tried else factors[0]
    _place(model, begin, averaged, best)
    with sealing(target, target.adapter, target.head):
        model.save(target.path)
    write_text(target.config, dump_config(config))
    about: dict[str, Any] = {"soup": [str(path) for path in paths], "factor": best}
    write_json(target.origin, {**about, "metric": metric, "tried": tried})
    domains = build_domains(config.data, config.inference)
    scores, pictures = score_model(fabric, model, domains, seen, config, config.eval.pictures)
    write_results(fabric, target, config, scores, pictures, domains)
    return Soup(target, best, tried)


def _check_runs(runs: Sequence[RunFolder], out: RunFolder) -> Config:
    """Return the configuration that the runs share."""
    if out.head.exists() or out.checkpoint.exists():
        raise RunError(f"{out.path} already holds a run: choose another folder with --out")
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise RunError("a run folder is given twice: name each once")
    if adapted := [run for run in runs if run.gains.exists()]:
        raise RunError(
            f"{adapted[0].path} is adapted to target images: average the run that it was made from"
        )
    configs = [load_config(run.need(run.config)) for run in runs]
    for run in runs[1:]:
        if rows := list_changes(run, configs[0], Stage.OWN | Stage.COMPARE):
            heading = f"{run.path} was trained unlike {runs[0].path}; these options differ:"
            raise RunError(
                "\n".join([heading, *rows, "average runs that differ in the seed alone"])
            )
    if len(seeds := {config.run.first_seed for config in configs}) > 1:
        raise RunError(
            f"the runs began with different weights, of the seeds {sorted(seeds)}: their average "
            "means nothing. Train them with the same run.init_seed, such as run.init_seed=0"
        )
    return configs[0]


def _check_factors(factors: Sequence[float], metric: str | None, config: Config) -> str | None:
    """Return the domain that decides between factors."""
    if not factors or not all(0 <= factor <= 1 for factor in factors):
        raise ConfigError(f"factors {list(factors)}: give numbers from 0 to 1, such as 0.5,0.75,1")
    if config.adapter.name == "none" and list(factors) != [1]:
        raise ConfigError("factors have no effect on runs without an adapter: leave them out")
    if len(factors) == 1:
        if metric is not None:
            raise ConfigError("a metric has no effect on a single factor: give several")
        return None
    if metric is None:
        raise ConfigError("several factors need a metric to choose by, such as --metric val.miou")
    return seen_domain(metric, config)


def _average(model: Segmenter, runs: Sequence[RunFolder]) -> Weights:
    """Return the mean weights of the runs; what is no floating-point number is the first's."""
    total: Weights = {}
    for run in runs:
        load_weights(run, model)
        for name, part in _copy(model).items():
            sums = total.setdefault(name, part)
            if sums is not part:
                for key, value in part.items():
                    if value.is_floating_point():
                        sums[key] += value
    return {
        name: {k: _divide(v, len(runs)) for k, v in part.items()} for name, part in total.items()
    }


def _divide(total: Tensor, count: int) -> Tensor:
    return total / count if total.is_floating_point() else total


def _copy(model: Segmenter) -> Weights:
    parts = model.trainable().items()
    return {
        name: {key: value.detach().cpu().clone() for key, value in part.state_dict().items()}
        for name, part in parts
    }


@torch.no_grad()
def _place(model: Segmenter, begin: Weights, averaged: Weights, factor: float) -> None:
    """Load the averaged head, and the adapter of (2)."""
    for name, part in model.trainable().items():
        weights = dict(averaged[name])
        if name == "adapter":
            for key, value in weights.items():
                if value.is_floating_point():
                    weights[key] = torch.lerp(begin[name][key], value, factor)
        part.load_state_dict(weights)
