"""How fast training images come: crops of 512 from PNGs of 2048 x 1024, with 1 and 2 workers.

    python benchmarks/loader.py [--batches 4] [--json FILE]

Images are noise over synthetic scenes, as hard to decode as photos; the augmentation is the
protocol's. Each worker computes on one thread. The time is the clock's: other processes slow it.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import measure
from causalseg.data.augment import Augment
from causalseg.data.classes import CITYSCAPES19
from causalseg.data.folders import FolderData, Location, read_ids
from causalseg.data.loader import AugmentedData, PermutedDraws, StepSampler, make_loader
from causalseg.scenes import render
from measure import Row

ABOUT = "Loading crops of 512 × 512 from PNG images of 2048 × 1024, in batches of 4."

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


def measure_rate(data: AugmentedData, workers: int, batches: int) -> float:
    """Return images a second, after the first batch of every worker."""
    first = max(1, workers)
    sampler = StepSampler(PermutedDraws(len(data), 0), BATCH, (0, first + batches), seed=0)
    start = 0.0
    for index, _ in enumerate(make_loader(data, sampler, workers)):
        if index == first - 1:
            start = time.perf_counter()
    return batches * BATCH / (time.perf_counter() - start)


def measure_loader(batches: int) -> list[Row]:
    """Return a row for each number of workers."""
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        plain = FolderData(
            Location(Path(folder, "images")),
            Location(Path(folder, "labels")),
            read_ids(CITYSCAPES19),
        )
        data = AugmentedData(plain, Augment(CROP))
        for workers in (0, 1, 2):
            rate = measure_rate(data, workers, batches)
            rows.append({"case": f"{workers} workers", "images/s": round(rate, 2)})
    return rows


def main() -> None:
    parser = measure.make_parser(__doc__)
    parser.add_argument("--batches", type=int, default=4)
    options = parser.parse_args()
    measure.tell(ABOUT, measure_loader(options.batches), (), options.json)


if __name__ == "__main__":
    main()
