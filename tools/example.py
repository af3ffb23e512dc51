"""The picture of the README and the example report, from a run of a frozen backbone and another.

    python tools/example.py runs/none runs/causal_tune --data DATA --image DATA/.../IMAGE.jpg

Both runs are of one seed of the comparison race_camvid (docs/reproduce.md). IMAGE has its label PNG
in the folder `labels` beside its own.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image, ImageDraw, ImageFont

from causalseg.corruptions import corrupt

DOCS = Path(__file__).parents[1] / "docs"
WEATHER = {"fog": "fog_depth", "night": "night"}
SEVERITY, TILE, GAP, LINE = 4, (300, 225), 6, 26  # the last three in pixels
COLUMNS = ("image", "frozen backbone", "with Causal-Tune", "label")
ON_DUSK = ("data.only=[dusk]", "data.domains.dusk.every=6", "eval.pictures=1")


def run(*arguments: object) -> None:
    """Run a causalseg command."""
    subprocess.run([sys.executable, "-m", "causalseg", *map(str, arguments)], check=True)


def color(ids: np.ndarray, classes: dict[str, list]) -> Image.Image:
    """Return label ids (h, w) as an image in the colours of a run's class list."""
    table = np.zeros((256, 3), np.uint8)
    table[classes["ids"]] = classes["palette"]
    return Image.fromarray(table[ids])


def make_picture(runs: Sequence[Path], photo: Path) -> Image.Image:
    """Return the photo in fog and at night, the predictions of the runs, and the label."""
    classes = yaml.safe_load((runs[0] / "config.yaml").read_text("utf-8"))["data"]["classes"]
    label = color(np.array(Image.open(photo.parents[1] / "labels" / f"{photo.stem}.png")), classes)
    pixels = torch.from_numpy(np.array(Image.open(photo).convert("RGB"))).movedim(-1, 0) / 255
    rows: dict[str, list[Image.Image]] = {}
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images")
        images.mkdir()
        for name, corruption in WEATHER.items():
            corrupted = corrupt(pixels, corruption, SEVERITY, seed=0).movedim(0, -1)
            image = Image.fromarray((255 * corrupted).round().byte().numpy())
            image.save(images / f"{name}.png")
            rows[name] = [image]
        for index, path in enumerate(runs):
            run("predict", path, images, "--out", Path(folder, str(index)))
            for name, row in rows.items():
                file = Path(folder, str(index), "predictions", f"{name}.png")
                row.append(color(np.array(Image.open(file)), classes))
    return arrange([[*row, label] for row in rows.values()], classes)


def arrange(rows: Sequence[Sequence[Image.Image]], classes: dict[str, list]) -> Image.Image:
    """Return images in rows below the names of the columns, and a legend of the classes."""
    width, height = TILE[0] + GAP, TILE[1] + GAP
    sheet = Image.new("RGB", (len(COLUMNS) * width - GAP, len(rows) * height + 2 * LINE), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=16)
    for column, title in enumerate(COLUMNS):
        draw.text((column * width + TILE[0] / 2, LINE / 2), title, "black", font, anchor="mm")
        for row, images in enumerate(rows):
            is_photo = column == 0
            filter_ = Image.Resampling.LANCZOS if is_photo else Image.Resampling.NEAREST
            sheet.paste(images[column].resize(TILE, filter_), (column * width, LINE + row * height))
    left, middle = 0.0, LINE + len(rows) * height + LINE / 2
    for name, rgb in zip(classes["names"], classes["palette"], strict=True):
        draw.rectangle((left, middle - 7, left + 14, middle + 7), tuple(rgb))
        draw.text((left + 20, middle), name.replace("_", " "), "black", font, anchor="lm")
        left += 36 + draw.textlength(name, font)
    return sheet.quantize(256, dither=Image.Dither.FLOYDSTEINBERG)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs=2, type=Path, help="frozen backbone alone, with Causal-Tune")
    parser.add_argument("--data", type=Path, required=True, help="folder of the CamVid folders")
    parser.add_argument("--image", type=Path, required=True, help="photo of the picture")
    options = parser.parse_args()
    make_picture(options.runs, options.image).save(DOCS / "images" / "example.png", optimize=True)
    weather = ("--corrupt", ",".join(WEATHER.values()), "--severity", "3")
    page = DOCS / "example_report.html"
    output = ("--baseline", options.runs[0], "--out", page)
    run("eval", *options.runs, f"data.root={options.data}", *ON_DUSK, *weather, *output)
    page.write_text(page.read_text("utf-8").replace(str(options.data), "DATA"), "utf-8")


if __name__ == "__main__":
    main()
