"""A small published data set of one's own: its layout, its tree, and what is read from it."""

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from causalseg.data.classes import ClassList
from causalseg.data.dataset import Sample
from causalseg.data.layouts import Ids, Layout, Split

LAYOUT = Layout(
    title="Toytown (Doe et al., 2020)",
    homepage="https://toytown.example",
    license="free",
    encoding=Ids({7: 0, 8: 1, 0: 255}),
    splits={
        split: Split(
            f"img/{split}/{{city}}/{{name}}_img.png", f"gt/{split}/{{city}}/{{name}}_id.png"
        )
        for split in ("train", "val")
    },
    classes=ClassList(("road", "car"), ((128, 64, 128), (0, 0, 142))),
    archives=("img.zip", "gt.zip"),
)


def with_split(layout=LAYOUT, **changes) -> Layout:
    """The layout with another ``val``."""
    return replace(layout, splits={"val": replace(layout.splits["val"], **changes)})


def save(path: Path, pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def plant(root: Path) -> Path:
    """Write three pairs of ``val``: image n is n everywhere, ids 7, 8, 0 in columns."""
    for number, place in enumerate(("bonn/a", "ulm/a", "ulm/b")):
        save(root / f"img/val/{place}_img.png", np.full((4, 6, 3), number))
        save(root / f"gt/val/{place}_id.png", np.tile(np.repeat([7, 8, 0], 2), (4, 1)))
    return root


def zipped(folder: Path, out: Path, above: str = "") -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, f"{above}{file.relative_to(folder.parent).as_posix()}")


def names(data) -> list[str]:
    return [name.removesuffix("_img") for name in data.names]


def expect(data) -> None:
    assert names(data) == ["bonn__a", "ulm__a", "ulm__b"]
    for number in range(3):
        image, label, name = data[number]
        assert (image.shape, image.dtype, name) == ((3, 4, 6), torch.float32, data.names[number])
        assert (image * 255 == number).all()
        assert label.tolist() == [[0, 0, 1, 1, 255, 255]] * 4


def halves(H: int = 60, W: int = 80) -> Sample:
    """An image whose right half is of class 1."""
    label = torch.zeros(H, W, dtype=torch.int64)
    label[:, W // 2 :] = 1
    return Sample(torch.stack([label * 0.5, label * 0.2, label * 0.1]), label, "x")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
