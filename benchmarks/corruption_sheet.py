"""Draw the contact sheet: a row for each corruption, a column for each severity.

Run: ``python benchmarks/corruption_sheet.py [docs/images/corruptions.jpg] [--seed 10]``. The
image is a synthetic scene, so no data set is needed; driving corruptions get its depth.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from causalseg.corruptions import CORRUPTIONS, corrupt
from causalseg.scenes import render

SCENE, SIZE = 5, (240, 320)  # what is corrupted
TILE = (112, 84)  # width and height on the sheet
GAP, NAMES, HEAD = 3, 124, 22  # pixels: between tiles, for names, for a line of text
INK, LINE, PAPER = (30, 30, 30), (180, 180, 180), (255, 255, 255)


def draw_sheet(seed: int) -> Image.Image:
    scene = render(SCENE, SIZE)
    image = torch.from_numpy(scene.image).movedim(-1, 0).float() / 255
    depth = torch.from_numpy(scene.depth)
    groups = set(CORRUPTIONS.values())
    columns = [NAMES + k * (TILE[0] + GAP) for k in range(5)]
    width = columns[-1] + TILE[0] + GAP
    height = HEAD + (len(CORRUPTIONS) + 1) * (TILE[1] + GAP) + len(groups) * HEAD
    sheet = Image.new("RGB", (width, height), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    draw.text((4, GAP + TILE[1] / 2), "clean", INK, font, anchor="lm")
    sheet.paste(shrink(image), (columns[0], GAP))
    top = GAP + TILE[1] + HEAD
    for severity, left in enumerate(columns, 1):
        middle = (left + TILE[0] / 2, top - HEAD / 2)
        draw.text(middle, f"severity {severity}", INK, font, anchor="mm")
    last_group = ""
    for name, group in CORRUPTIONS.items():
        if group != last_group:
            last_group = group
            draw.text((4, top + HEAD / 2), group.upper(), INK, font, anchor="lm")
            draw.line((NAMES, top + HEAD / 2, width - GAP, top + HEAD / 2), LINE)
            top += HEAD
        draw.text((4, top + TILE[1] / 2), name, INK, font, anchor="lm")
        for severity, left in enumerate(columns, 1):
            sheet.paste(shrink(corrupt(image, name, severity, seed, depth)), (left, top))
        top += TILE[1] + GAP
    return sheet


def shrink(image: Tensor) -> Image.Image:
    pixels = (255 * image).round().byte().movedim(0, -1).numpy()
    return Image.fromarray(np.ascontiguousarray(pixels)).resize(TILE, Image.Resampling.BOX)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", default="docs/images/corruptions.jpg")
    parser.add_argument("--seed", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sheet = draw_sheet(options.seed)
    sheet.save(options.out, quality=85, optimize=True)
    print(
        f"{options.out}: {sheet.width} x {sheet.height}, {options.out.stat().st_size / 1e6:.2f} MB"
    )


if __name__ == "__main__":
    main()
