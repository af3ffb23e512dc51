"""Speed of synthetic scenes: images per second for each domain at 320x240, on one thread.

Run: ``python benchmarks/scenes.py [images a domain]``. A loader with w workers gives about w times
as many.
"""

import json
import sys
import time

import torch

from causalseg.scenes import DOMAINS, render

SIZE = (240, 320)


def main(count: int) -> None:
    """Print a table, then the same as one line of JSON."""
    torch.set_num_threads(1)
    rates = {}
    for domain in DOMAINS:
        render(0, SIZE, domain)
        start = time.perf_counter()
        for seed in range(count):
            render(seed, SIZE, domain)
        rates[domain] = round(count / (time.perf_counter() - start), 1)
        print(f"{domain:8} {rates[domain]:6.1f} images/s")
    print(json.dumps({"size": SIZE, "images": count, "images_per_second": rates}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
