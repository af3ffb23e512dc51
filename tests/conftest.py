"""Shared fixtures: one thread, a tiny model, fabricated folders."""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may download; read once, on import

import numpy as np
import pytest
import torch
from PIL import Image

from causalseg.config.load import parse_config

torch.set_num_threads(1)


@pytest.fixture
def golden() -> Path:
    """The folder of reference numbers; its README says where each comes from."""
    return Path(__file__).parent / "golden"


def write_folder(root: Path, count: int = 3, size=(48, 64), ids=(0, 1, 2)) -> Path:
    """Make root/images and root/labels: blocks of colour, one class each."""
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        label = np.kron(rng.choice(ids, (size[0] // 16, size[1] // 16)), np.ones((16, 16)))
        label = label.astype(np.uint8)
        image = np.stack([60 * label, 255 - 60 * label, 0 * label], axis=-1).astype(np.uint8)
        Image.fromarray(image).save(root / "images" / f"{index:03d}.png")
        Image.fromarray(label).save(root / "labels" / f"{index:03d}.png")
    return root


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three image and label pairs with the classes 0, 1, 2."""
    return write_folder(tmp_path / "data")


def tiny_run(folder: Path, out: Path) -> dict:
    """Plain options of a run that takes a second: a random ViT of 64 channels, patch 16."""
    pair = {"images": "images", "labels": "labels"}
    return {
        "backbone": {"name": "test_vit", "weights": "random"},
        "adapter": {"name": "causal_tune", "num_tokens": 4, "rank": 2},
        "head": "linear",
        "data": {
            "root": str(folder),
            "classes": ["flat", "thing", "sky"],
            "sources": [pair],
            "domains": {"here": pair, "there": {**pair, "every": 2}},
        },
        "train": {"steps": 4, "batch": 2, "crop": [32, 48], "workers": 0},
        "eval": {"mode": "whole", "pictures": 1},
        "run": {
            "out": str(out),
            "precision": "32-true",
            "log_every": 1,
            "save_every": 2,
            "threads": 1,
        },
    }


@pytest.fixture
def tiny_options(folder, tmp_path):
    """Options of `tiny_run` on the fabricated folder."""
    return tiny_run(folder, tmp_path / "run")


@pytest.fixture
def tiny(tiny_options):
    """Make the tiny configuration with overrides."""
    return lambda *overrides: parse_config(tiny_options, overrides)


SMALL_MASK2FORMER = (
    "head={name: mask2former, hidden: 32, num_queries: 4, encoder_layers: 1, decoder_layers: 1, "
    "feedforward: 32, num_points: 64}"
)
SMALL_QUERIES = "head={name: queries, num_queries: 4, num_points: 64}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
