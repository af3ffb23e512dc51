"""Speed of corruptions: images per second of CPU time at 480x360 and severity 3, on one thread.

    python benchmarks/corruptions.py [--images 8] [--severity 3] [--json FILE]

A warm-up run fills the caches; its time is in a column of its own.
"""

import torch
from torch import Tensor

import measure
from causalseg.corruptions import CORRUPTIONS, corrupt
from causalseg.scenes import render
from measure import Row, Target

ABOUT = "Corruptions of images of 480 × 360 at severity 3, one thread; ms of CPU time."
SIZE = (360, 480)
TARGETS = (Target("slowest", "ms an image", 67),)  # 15 images a second


def draw(seed: int) -> Tensor:
    return torch.from_numpy(render(seed, SIZE).image).movedim(-1, 0).float().contiguous() / 255


def seconds(name: str, images: list[Tensor], severity: int, first_seed: int) -> float:
    """Return the CPU time an image."""
    start = measure.now("cpu")
    for seed, image in enumerate(images, first_seed):
        corrupt(image, name, severity, seed)
    return (measure.now("cpu") - start) / len(images)


def measure_corruptions(count: int, severity: int) -> list[Row]:
    """Return a row for each corruption."""
    torch.set_num_threads(1)
    images = [draw(seed) for seed in range(4)]
    many = [images[index % len(images)] for index in range(count)]
    rows = []
    for name in CORRUPTIONS:
        first = seconds(name, many[:1], severity, 0)
        each = seconds(name, many, severity, 0)
        row = {"case": name, "ms an image": round(1e3 * each, 1)}
        rows.append(row | {"the first, ms": round(1e3 * first)})
    return [*rows, {"case": "slowest", "ms an image": max(row["ms an image"] for row in rows)}]


def main() -> None:
    parser = measure.make_parser(__doc__)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--severity", type=int, default=3)
    options = parser.parse_args()
    rows = measure_corruptions(options.images, options.severity)
    measure.tell(ABOUT, rows, TARGETS, options.json)


if __name__ == "__main__":
    main()
