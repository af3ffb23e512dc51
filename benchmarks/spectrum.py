"""Time and memory of `causalseg spectrum` on images of 252 x 336: power, shift and classes.

    python benchmarks/spectrum.py [--images 24] [--json FILE]

Synthetic scenes, the same in noise, and as many at night; ViT-S/14, 12 blocks, one thread. The
ratio is over the forward passes alone; memory is the growth of the peak from a quarter of the
images of each set to all.
"""

import torch

import measure
from causalseg.backbones.timm import build_backbone
from causalseg.config.backbone import BackboneConfig
from causalseg.config.load import parse_config
from causalseg.engine.meter import peak_memory
from causalseg.jobs.spectrum.features import BlockFeatures
from causalseg.jobs.spectrum.measure import measure_sets
from causalseg.jobs.spectrum.sets import Plan, Sets, open_sets
from measure import Row

ABOUT = "`causalseg spectrum`, one thread: CPU time over that of the forward passes, and memory."
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


def measure_spectrum(images: int) -> list[Row]:
    """Return one row."""
    torch.set_num_threads(1)
    blocks = BlockFeatures(build_backbone(BackboneConfig(weights="random")))
    memory = []
    for number in (images // 4, images):
        sets = open_scenes(number)
        start = measure.now("cpu")
        measure_sets(blocks, sets, RINGS, CLASSES)
        seconds = measure.now("cpu") - start
        memory.append(peak_memory(torch.device("cpu")))
    image, repetitions = sets.reference[0].image[None], 10
    start = measure.now("cpu")
    for _ in range(repetitions):
        blocks(image)
    forward = (measure.now("cpu") - start) / repetitions * 3 * images
    row: Row = {"case": f"{images} images a set", "s": round(seconds, 1)}
    row["/forward"] = round(seconds / forward, 2)
    return [row | {"growth, MB": round(memory[1] - memory[0], 1)}]


def main() -> None:
    parser = measure.make_parser(__doc__)
    parser.add_argument("--images", type=int, default=24)
    options = parser.parse_args()
    measure.tell(ABOUT, measure_spectrum(options.images), (), options.json)


if __name__ == "__main__":
    main()
