"""Results of comparisons that nobody trained, consistent in scores and counts of images."""

import numpy as np
import torch
import yaml

from causalseg.config.load import dump_config, parse_config
from causalseg.engine.bootstrap import interval
from causalseg.engine.metrics import count_pixels, read_counts, score, write_counts
from causalseg.engine.robustness import summarise_robustness
from causalseg.report.comparison import compare_results, label_result
from causalseg.report.result import Method, Result
from causalseg.runs.scores import Scores

NAMES = ["road", "sky", "car"]
PALETTE = [[128, 64, 128], [70, 130, 180], [0, 0, 142]]
DOMAINS = {"day": 12, "night": 8}


def make_confusions(share, images, seed):
    """Confusion matrices (b k k+1) of images of which about ``share`` of the pixels are right."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 500, (images, 3))
    right = (truth * np.clip(share + rng.normal(0, 0.03, truth.shape), 0, 1)).astype(int)
    confusions = np.zeros((images, 3, 4), dtype=int)
    for k in range(3):
        confusions[:, k, k] = right[:, k]
        confusions[:, k, (k + 1) % 3] = truth[:, k] - right[:, k]
    return torch.from_numpy(confusions)


def make_domain(confusions, first=0):
    names = [f"image{first + i}" for i in range(len(confusions))]
    return {
        "images": len(confusions),
        "size": [36, 48],
        "miou_interval": None,
        **score(confusions.sum(0), NAMES),
        "boundary_miou": None,
        "boundary_iou": None,
        "calibration": None,
        "per_image": {"names": names, "counts": write_counts(count_pixels(confusions))},
    }


def make_scores(domains, adapter="causal_tune", over=None, names=NAMES):
    """The content of eval.json."""
    over = over or list(domains)
    images = [domains[name]["per_image"] for name in over]
    counts = [read_counts(about["counts"]) for about in images]
    mious = [domains[name]["miou"] for name in over]
    content = {
        "version": 2,
        "model": {
            "backbone": "dinov2_vits14",
            "weights": "wheel",
            "adapter": adapter,
            "head": "linear",
            "trainable_parameters": 12345,
            "adapter_parameters": 2345,
        },
        "classes": {"names": names, "palette": PALETTE[: len(names)]},
        "domains": domains,
        "mean": {
            "miou": None if None in mious else sum(mious) / len(mious),
            "interval": interval(counts, [about["names"] for about in images]),
            "over": over,
        },
        "robustness": summarise_robustness(
            domains, over, [n for n in domains if n not in over and "corruption" not in domains[n]]
        ),
        "inference": {"mode": "whole"},
        "made_of": "IoU of one confusion matrix",
    }
    return Scores.model_validate(content).model_dump(mode="json", exclude_unset=True)


def make_result(share, seed=0, adapter="causal_tune", **train):
    """The JSON of a `Result` on two domains; ``share`` of the pixels are right."""
    options = {
        "backbone": {"name": "dinov2_vits14", "weights": "wheel"},
        "adapter": adapter,
        "head": "linear",
        "data": {
            "classes": NAMES,
            "sources": [{"images": "city/images", "labels": "city/labels"}],
            "domains": {name: {"images": name, "labels": name} for name in DOMAINS},
        },
        "train": {"steps": 7, "crop": [28, 42], **train},
        "eval": {"mode": "whole"},
    }
    config = yaml.safe_load(dump_config(parse_config(options)))
    config["run"] = {"seed": seed, "precision": "auto", "devices": 1, "threads": None}
    domains = {
        name: make_domain(make_confusions(share, images, 10 * seed + i))
        for i, (name, images) in enumerate(DOMAINS.items())
    }
    return {
        "eval": make_scores(domains, adapter),
        "config": config,
        "seconds_per_step": 0.25 + seed,
        "peak_memory_mb": 1000.0 + seed,
        "versions": {"torch": "2"},
        "machine": "Linux x86_64",
    }


METHODS = [
    Method("none", ["adapter=none"], {}, ""),
    Method("tuned", ["adapter=causal_tune"], {"night": 56.2}, "Somebody, 2025"),
    Method("<b>$odd$|_", [], {}, ""),
]
SHARES = {"none": 0.8, "tuned": 0.85, "<b>$odd$|_": 0.7}


def make_results(seeds=(0, 1, 2)):
    """JSON by name of the method and seed; each says which it is."""
    results = {}
    for seed in seeds:
        for place, method in enumerate(METHODS):
            result = Result.model_validate(make_result(SHARES[method.name], seed))
            labelled = label_result(result, method, place, "none", seeds)
            results[method.name, seed] = labelled.to_json()
    return dict(sorted(results.items(), key=lambda item: item[1]["method"]["place"]))


def compare(results, seeds=(0, 1, 2), methods=METHODS, reference="none"):
    """Compare results given as JSON; ``seeds`` of all methods, or by name."""
    planned = seeds if isinstance(seeds, dict) else {m.name: list(seeds) for m in methods}
    parsed = {key: Result.model_validate(result) for key, result in results.items()}
    return compare_results(methods, planned, reference, parsed)
