"""Speed of synthetic scenes: images per second for each domain at 320 x 240, on one thread.

    python benchmarks/scenes.py [--images 30] [--json FILE]

A loader with w workers gives about w times as many.
"""

import torch

import measure
from causalseg.scenes import DOMAINS, render
from measure import Row

ABOUT = "Synthetic scenes of 320 × 240, one thread."
SIZE = (240, 320)


def measure_scenes(images: int) -> list[Row]:
    """Return a row for each domain."""
    torch.set_num_threads(1)
    rows = []
    for domain in DOMAINS:
        render(0, SIZE, domain)
        start = measure.now("cpu")
        for seed in range(images):
            render(seed, SIZE, domain)
        rate = images / (measure.now("cpu") - start)
        rows.append({"case": domain, "images/s": round(rate, 1)})
    return rows


def main() -> None:
    parser = measure.make_parser(__doc__)
    parser.add_argument("--images", type=int, default=30)
    options = parser.parse_args()
    measure.tell(ABOUT, measure_scenes(options.images), (), options.json)


if __name__ == "__main__":
    main()
