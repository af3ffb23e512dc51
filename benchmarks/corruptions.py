"""Speed of corruptions: images per second of CPU time at 480x360 and severity 3, on one thread.

Run: ``python benchmarks/corruptions.py [--images 12] [--severity 3] [--json FILE]``. A warm-up run
fills the caches; its time is in a column of its own.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor

from causalseg.corruptions import CORRUPTIONS, corrupt
from causalseg.scenes import render

SIZE = (360, 480)
TARGET = 15.0  # images a second


def draw(seed: int) -> Tensor:
    return torch.from_numpy(render(seed, SIZE).image).movedim(-1, 0).float().contiguous() / 255


def seconds(name: str, images: list[Tensor], severity: int, first_seed: int) -> float:
    """Return the CPU time an image."""
    start = time.process_time()
    for seed, image in enumerate(images, first_seed):
        corrupt(image, name, severity, seed)
    return (time.process_time() - start) / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--severity", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = [draw(seed) for seed in range(4)]
    many = [images[index % len(images)] for index in range(options.images)]
    rows = []
    print(f"{'corruption':18s} {'group':8s} images/s  ms an image  first ones, ms")
    for name, group in CORRUPTIONS.items():
        first = len(many) * seconds(name, many, options.severity, 0)
        each = seconds(name, many, options.severity, 0)
        row = {"name": name, "group": group, "images_per_second": round(1 / each, 1)}
        rows.append(row | {"ms": round(1e3 * each, 2), "ms_first_images": round(1e3 * first)})
        slow = "" if 1 / each >= TARGET else "  too slow"
        print(
            f"{name:18s} {group:8s} {1 / each:8.1f} {1e3 * each:12.1f} {1e3 * first:15.0f}{slow}",
            flush=True,
        )
    slowest = min(rows, key=lambda row: row["images_per_second"])
    rate = slowest["images_per_second"]
    print(f"slowest: {slowest['name']}, {rate} images/s; target {TARGET:g}")
    if options.json:
        about = {"size": SIZE, "severity": options.severity, "images": options.images}
        about |= {"torch": torch.__version__, "threads": 1, "target": TARGET}
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
