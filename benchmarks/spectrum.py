"""Time and memory of `causalseg spectrum` on 100 images of 252 x 336: power, shift and classes.

    python benchmarks/spectrum.py [--weights random] [--threads 2] [--json FILE]

Synthetic scenes, the same in noise, and as many at night; ViT-S/14, 12 blocks. The ratio is over
the forward passes alone; memory is the growth of the peak from 25 to 100 images of each set.
"""

import argparse
import time
from pathlib import Path

import torch

from causalseg.backbones.timm import build_backbone
from causalseg.config.backbone import BackboneConfig
from causalseg.config.load import parse_config
from causalseg.engine.meter import peak_memory
from causalseg.jobs.spectrum.features import BlockFeatures
from causalseg.jobs.spectrum.measure import measure_sets
from causalseg.jobs.spectrum.sets import Plan, Sets, open_sets
from causalseg.writing import write_json

SIZE = (252, 336)
RINGS, CLASSES = 8, 19


def open_scenes(number: int) -> Sets:
    """Open scenes by day, the same with noise, and others at night."""
    scenes = {"type": "scenes", "size": list(SIZE), "count": number}
    data = {
        "sources": [{**scenes, "first": 10_000}],
        "domains": {"night": {**scenes, "domain": "night"}},
    }
    config = parse_config({"data": data})
    plan = Plan(config, against=["night"], corrupt=["gaussian_noise"], images=number)
    return open_sets(plan, SIZE)


def main() -> None:
    """Print the figures; write them as JSON where asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", default="random")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    blocks = BlockFeatures(build_backbone(BackboneConfig(weights=options.weights)))
    memory = []
    for number in (25, 100):
        sets = open_scenes(number)
        start = time.perf_counter()
        measure_sets(blocks, sets, RINGS, CLASSES)
        seconds = time.perf_counter() - start
        memory.append(peak_memory(torch.device("cpu")))
    image = sets.reference[0].image[None]
    start = time.perf_counter()
    for _ in range(30):
        blocks(image)
    forward = (time.perf_counter() - start) / 30 * 300
    figures = {
        "threads": options.threads,
        "seconds": round(seconds, 1),
        "over_forward": round(seconds / forward, 2),
        "memory_growth_MB": round(memory[1] - memory[0], 1),
    }
    print(figures)
    if options.json:
        write_json(options.json, figures)


if __name__ == "__main__":
    main()
