"""How fast training images come: crops of 512 from PNGs of 2048 x 1024, with 1 and 2 workers.

Run: ``python benchmarks/loader.py [batches] [--json FILE]``. Images are noise over drawn scenes, as
hard to decode as photos; the augmentation is the protocol's. Each worker computes on one thread.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from causalseg.data.augment import Augment
from causalseg.data.classes import CITYSCAPES19
from causalseg.data.folders import FolderData, Location, read_ids
from causalseg.data.loader import AugmentedData, PermutedDraws, StepSampler, make_loader
from causalseg.scenes import render

SIZE, CROP, BATCH, FILES = (1024, 2048), (512, 512), 4, 4


def write_files(folder: Path) -> None:
    """Write images and labels of Cityscapes' size."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for seed in range(FILES):
        scene = render(seed, (256, 512))
        image, label = (
            np.kron(x, np.ones((4, 4, 1)[: x.ndim], x.dtype)) for x in (scene.image, scene.label)
        )
        noisy = np.clip(image + rng.normal(0, 6, image.shape), 0, 255)
        Image.fromarray(noisy.astype(np.uint8)).save(folder / "images" / f"{seed}.png")
        Image.fromarray(label.astype(np.uint8)).save(folder / "labels" / f"{seed}.png")


def measure(data: AugmentedData, workers: int, batches: int) -> float:
    """Return images a second, after the first batch of every worker."""
    first = max(1, workers)
    sampler = StepSampler(PermutedDraws(len(data), 0), BATCH, (0, first + batches), seed=0)
    start = 0.0
    for index, _ in enumerate(make_loader(data, sampler, workers)):
        if index == first - 1:
            start = time.perf_counter()
    return batches * BATCH / (time.perf_counter() - start)


def main() -> None:
    """Print a table; write it as JSON where asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("batches", nargs="?", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        plain = FolderData(
            Location(Path(folder, "images")),
            Location(Path(folder, "labels")),
            read_ids(CITYSCAPES19),
        )
        data = AugmentedData(plain, Augment(CROP))
        for workers in (0, 1, 2):
            rates[workers] = round(measure(data, workers, options.batches), 2)
            print(f"{workers} workers {rates[workers]:6.2f} images/s")
    if options.json:
        content = {"size": SIZE, "crop": CROP, "batch": BATCH, "images_per_second": rates}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
