"""Submissions to test servers: a model's predictions on withheld test images, as one zip file.

A prediction becomes a PNG of one 8-bit channel at its image's own size.
"""

import io
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile, ZipFile, ZipInfo

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from rich.progress import track
from torch import Tensor

from causalseg.data.catalogue.cityscapes import CITYSCAPES_IDS
from causalseg.data.classes import CITYSCAPES19, IGNORE, ClassList
from causalseg.data.dataset import decode_image
from causalseg.data.files import Files, open_files
from causalseg.data.labels import open_image
from causalseg.data.templates import Template
from causalseg.errors import ConfigError, DataError, MissingFileError, did_you_mean
from causalseg.jobs.predict import open_model
from causalseg.runs.log import console
from causalseg.writing import replacing

_TRAIN_IDS = tuple(range(len(CITYSCAPES19.names)))
_LABEL_IDS = tuple(sorted(i for i, train_id in CITYSCAPES_IDS.items() if train_id != IGNORE))
Predictor = Callable[[Float[Tensor, "3 H W"]], Int[Tensor, "H W"]]
"""From RGB in [0, 1] to train ids."""

_READABLE = 0o644 << 16  # by all, once unpacked on the server


@dataclass(frozen=True)
class Server:
    """What a test server asks for."""

    title: str
    homepage: str
    archive: str  # the published file with the test images
    images: str  # template of the test images, below any folders
    entry: str  # template of the names in the zip; its fields are among those of `images`
    ids: tuple[int, ...]  # 0..255, written for train id 0, 1, ... of Cityscapes' 19 classes
    count: int  # of test images; the server counts missing ones as wrong or refuses the upload
    size: tuple[int, int] | None  # height and width of every test image; None where they vary
    note: str  # printed for the upload


SERVERS: Mapping[str, Server] = {
    "acdc": Server(
        title="ACDC (Sakaridis et al., ICCV 2021)",
        homepage="https://acdc.vision.ee.ethz.ch/submit",
        archive="rgb_anon_trainvaltest.zip",
        images="rgb_anon/{weather}/test/{sequence}/{frame}_rgb_anon.png",
        entry="labelTrainIds/{frame}_rgb_anon.png",
        ids=_TRAIN_IDS,
        count=2000,
        size=(1080, 1920),
        note="Choose on the page what is scored: all conditions, or one alone, with the same zip.",
    ),
    "cityscapes": Server(
        title="Cityscapes, pixel level (Cordts et al., CVPR 2016)",
        homepage="https://www.cityscapes-dataset.com/submit/",
        archive="leftImg8bit_trainvaltest.zip",
        images="leftImg8bit/test/{city}/{name}_leftImg8bit.png",
        entry="{name}_gtFine_labelIds.png",
        ids=_LABEL_IDS,
        count=1525,
        size=(1024, 2048),
        note="Choose the pixel-level task.",
    ),
    "bdd": Server(
        title="BDD100K, semantic segmentation (Yu et al., CVPR 2020)",
        homepage="https://eval.ai/web/challenges/challenge-page/1874",
        archive="10k_images_test.zip",
        images="images/10k/test/{name}.jpg",
        entry="{name}.png",
        ids=_TRAIN_IDS,
        count=2000,
        size=(720, 1280),
        note="Choose the test phase.",
    ),
    "wilddash": Server(
        title="WildDash 2, semantic segmentation (Zendel et al., CVPR 2022)",
        homepage="https://wilddash.cc/challenges/submissions",
        archive="wd_both_02.zip",
        images="images/{name}.{ending:jpg|png}",
        entry="{name}.png",
        ids=_LABEL_IDS,
        count=812,
        size=None,
        note="WildDash scores 26 classes; the seven that are not among Cityscapes' 19 score 0.",
    ),
}


def submit_run(
    path: Path | str,
    server: str,
    root: Path,
    out: Path,
    overrides: Sequence[str] = (),
    checkpoint: str = "last",
) -> int:
    """Predict the test images of a server with a run, in one process, as `write_submission`."""
    model = open_model([path], overrides, checkpoint)
    return write_submission(model.train_ids, model.classes, server, root, out)


def write_submission(
    predict: Predictor, classes: ClassList, server: str, root: Path, out: Path
) -> int:
    """Predict the test images of a benchmark into the zip file of its server; return how many.

    ``root`` is the data set, unpacked or as zip files, or a zip file. The new zip file is checked
    before it replaces an older one, since servers limit uploads. The same predictions give the
    same bytes. Raises ConfigError unless the classes are Cityscapes' 19, MissingFileError without
    test images, and DataError if they are not complete, or one is broken or of another size.
    """
    if server not in SERVERS:
        raise ConfigError(f"server {server!r}: {did_you_mean(server, SERVERS)}")
    asked = SERVERS[server]
    if classes.names != CITYSCAPES19.names:
        raise ConfigError(
            f"{asked.title} scores the {len(CITYSCAPES19.names)} classes of Cityscapes, the model "
            f"has {len(classes.names)}: {', '.join(classes.names[:5])} ... Submit a model of "
            "Cityscapes' classes, in their order"
        )
    if out.suffix.lower() != ".zip" or out.is_dir():
        raise ConfigError(f"out is {out}: give the name of a zip file, such as {server}.zip")
    files = open_files(root)
    images = _find_images(files, asked)
    lookup = np.array(asked.ids, np.uint8)
    sizes: dict[str, tuple[int, int]] = {}
    with replacing(out) as temporary:
        with ZipFile(temporary, "w") as archive:
            for entry in track(sorted(images), "predicting", console=console):
                image = _read_image(files, images[entry], asked)
                sizes[entry] = (image.shape[1], image.shape[2])
                member = ZipInfo(entry)  # without a date; not compressed, which PNGs are already
                member.external_attr = _READABLE
                archive.writestr(member, _png(lookup[predict(image).cpu().numpy()]))
        check_submission(temporary, asked, sizes)
    return len(images)


def check_submission(file: Path, server: Server, sizes: Mapping[str, tuple[int, int]]) -> None:
    """Raise DataError unless a zip file has exactly the entries in ``sizes`` (height and width).

    Each is a PNG of one 8-bit channel with the ids of the server.
    """
    try:
        with ZipFile(file) as archive:
            names = Counter(archive.namelist())
            for name in sorted({*names, *sizes}):
                if names[name] != 1 or name not in sizes:
                    raise DataError(
                        f"{file} has {names[name]} entries {name}, {server.title} asks for "
                        f"{int(name in sizes)}"
                    )
                _check_prediction(archive.read(name), f"{file}: {name}", server, sizes[name])
    except (BadZipFile, zlib.error, EOFError, OSError) as error:
        raise DataError(f"cannot read {file}: {error}; write it again") from error


def _check_prediction(content: bytes, where: str, server: Server, size: tuple[int, int]) -> None:
    with open_image(content, where) as image:
        if (image.format, image.mode) != ("PNG", "L"):
            raise DataError(
                f"{where} is a {image.format} of mode {image.mode}: {server.title} asks for a PNG "
                "of one 8-bit channel (mode L)"
            )
        (W, H), histogram = image.size, image.histogram()
    if size != (H, W):
        raise DataError(f"{where} is {W} x {H} pixels, its image {size[1]} x {size[0]}")
    wrong = [i for i, pixels in enumerate(histogram) if pixels and i not in server.ids]
    if wrong:
        raise DataError(
            f"{where} has ids {wrong[:8]}: {server.title} asks for "
            f"{', '.join(map(str, server.ids))}"
        )


def _find_images(files: Files, server: Server) -> dict[str, str]:
    """Return by entry the name of its test image in the files."""
    template, entry = Template(server.images), Template(server.entry)
    matches = [(match, name) for name in files.names if (match := template.match(name))]
    images = {entry.fill(match.fields): name for match, name in matches}
    broken = "".join(f"\nnot read: {problem}" for problem in files.broken)
    if not matches:
        raise MissingFileError(
            f"{files.describe()} has no test images of {server.title}\n"
            "expected in it, below any folders, unpacked or in zip files:\n"
            f"  {template.plain}\n"
            f"give the folder that holds them as root, or get {server.archive}"
            f"{broken}"
        )
    if not len(matches) == len(images) == server.count:
        raise DataError(
            f"{files.describe()} has {len(matches)} files {template.plain} of {len(images)} names; "
            f"the test split of {server.title} has {server.count}, and the server scores all of "
            f"them. Give as root what holds the images of {server.archive}, complete and alone"
            f"{broken}"
        )
    return images


def _read_image(files: Files, name: str, server: Server) -> Float[Tensor, "3 H W"]:
    image = decode_image(files.read(name), files.where(name))
    H, W = image.shape[1:]
    if server.size and server.size != (H, W):
        raise DataError(
            f"image {files.where(name)} is {W} x {H} pixels, the test images of {server.title} are "
            f"{server.size[1]} x {server.size[0]}: give them as published"
        )
    return image


def _png(ids: Int[np.ndarray, "H W"]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(ids).save(content, format="PNG")
    return content.getvalue()
