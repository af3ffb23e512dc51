"""Synthetic scenes as files, in the layout of the folder form."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from causalseg import scenes
from causalseg.data.classes import CITYSCAPES19
from causalseg.writing import replacing, write_text


def write_scenes(out: Path, domain: str, seeds: Sequence[int], size: tuple[int, int]) -> None:
    """Write images/, labels/ (train ids), depth/ (16-bit, centimetres, capped) and classes.json.

    Raises DataError as `scenes.render` does, and RunError if a file cannot be written.
    """
    for seed in seeds:
        scene = scenes.render(seed, size, domain)
        centimetres = np.minimum(100 * scene.depth, 2**16 - 1).astype(np.uint16)
        arrays = {"images": scene.image, "labels": scene.label, "depth": centimetres}
        for folder, pixels in arrays.items():
            with replacing(out / folder / f"{domain}_{seed:06d}.png") as temporary:
                Image.fromarray(pixels).save(temporary, format="PNG")
    content = {"names": CITYSCAPES19.names, "palette": CITYSCAPES19.palette, "ignore_ids": [255]}
    write_text(out / "classes.json", json.dumps(content, indent=1) + "\n")
