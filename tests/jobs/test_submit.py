"""Submissions: every server gets what it asks for, from folders and zips, whole or not at all."""

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from causalseg.data.catalogue.camvid import CAMVID11
from causalseg.data.classes import CITYSCAPES19
from causalseg.errors import ConfigError, DataError, MissingFileError
from causalseg.jobs import submit
from causalseg.jobs.submit import SERVERS, check_submission, write_submission

SIZE = (2, 20)
TRAIN_IDS = [*range(19), 0]
LABEL_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33, 7]
# Test images in the publishers' trees, in the order of the entries that they become; then what
# else lies there; then the entries, and the ids of train ids 0..18 and 0.
TREES = {
    "acdc": (
        (
            "rgb_anon/fog/test/GOPR0475/GOPR0475_frame_000041_rgb_anon.png",
            "rgb_anon/night/test/GP010376/GP010376_frame_000129_rgb_anon.png",
        ),
        (
            "rgb_anon/fog/val/GOPR0476/GOPR0476_frame_000854_rgb_anon.png",
            "rgb_anon/fog/test_ref/GOPR0475/GOPR0475_frame_000041_rgb_ref_anon.png",
        ),
        (
            "labelTrainIds/GOPR0475_frame_000041_rgb_anon.png",
            "labelTrainIds/GP010376_frame_000129_rgb_anon.png",
        ),
        TRAIN_IDS,
    ),
    "cityscapes": (
        (
            "leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png",
            "leftImg8bit/test/munich/munich_000397_000019_leftImg8bit.png",
        ),
        (
            "leftImg8bit/val/frankfurt/frankfurt_000000_000294_leftImg8bit.png",
            "gtFine/test/berlin/berlin_000000_000019_gtFine_labelIds.png",
        ),
        ("berlin_000000_000019_gtFine_labelIds.png", "munich_000397_000019_gtFine_labelIds.png"),
        LABEL_IDS,
    ),
    "bdd": (
        (
            "bdd100k/images/10k/test/ac6d4f42-00000000.jpg",
            "bdd100k/images/10k/test/d6a288b4-5ec72a0e.jpg",
        ),
        (
            "bdd100k/images/10k/val/7d06fefd-f7be05a6.jpg",
            "bdd100k/images/100k/test/cabc30fc-e7726578.jpg",
        ),
        ("ac6d4f42-00000000.png", "d6a288b4-5ec72a0e.png"),
        TRAIN_IDS,
    ),
    "wilddash": (
        ("images/ae0005_100000.jpg", "images/us0042_100000.jpg"),
        ("readme.txt", "license.txt"),
        ("ae0005_100000.png", "us0042_100000.png"),
        LABEL_IDS,
    ),
}


def encode(pixels, kind="PNG", mode=None) -> bytes:
    content = io.BytesIO()
    image = Image.fromarray(np.asarray(pixels, np.uint8))
    image.convert(mode or image.mode).save(content, format=kind)
    return content.getvalue()


@pytest.fixture
def make_tree(tmp_path, monkeypatch):
    """Make the tree of a server whose test split has two images; the n-th has the grey 10 n."""

    def make(server: str, size=SIZE) -> Path:
        changes = {"count": 2, "size": SERVERS[server].size and SIZE}
        monkeypatch.setitem(submit.SERVERS, server, replace(SERVERS[server], **changes))
        images, others, *_ = TREES[server]
        for number, name in enumerate((*images, *others)):
            file = tmp_path / server / name
            file.parent.mkdir(parents=True, exist_ok=True)
            kind = "JPEG" if name.endswith("jpg") else "PNG"
            file.write_bytes(encode(np.full((*size, 3), 10 * number), kind))
        return tmp_path / server

    return make


def predict(image):
    """Every class in turn along a row, from the grey of the image / 10 on."""
    start = int((25.5 * image[0, 0, 0]).round())
    return (torch.arange(image.shape[2]) + start).remainder(19).expand(image.shape[1], -1)


def submission(server, root, out, predict=predict, classes=CITYSCAPES19):
    return write_submission(predict, classes, server, root, out)


def content(file: Path) -> dict[str, list[list[int]]]:
    """The pixels of every entry of a zip, in its order."""
    shown = {}
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            with Image.open(archive.open(name)) as picture:
                assert (picture.format, picture.mode) == ("PNG", "L")
                shown[name] = np.array(picture).tolist()
    return shown


@pytest.mark.parametrize("server", TREES)
def test_the_zip_has_the_names_sizes_and_ids_that_the_server_asks_for(make_tree, server, tmp_path):
    out = tmp_path / "new" / "upload.zip"
    assert submission(server, make_tree(server), out) == 2
    *_, entries, ids = TREES[server]
    first, second = [ids] * 2, [[*ids[1:], ids[1]]] * 2
    assert content(out) == dict(zip(entries, (first, second), strict=True))
    assert list(content(out)) == sorted(entries)
    check_submission(out, SERVERS[server], dict.fromkeys(entries, SIZE))
    assert list(out.parent.iterdir()) == [out]
    with zipfile.ZipFile(out) as archive:  # entries are readable once unpacked and have no date
        assert {member.external_attr >> 16 for member in archive.infolist()} == {0o644}
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("server", TREES)
def test_published_zips_give_the_same_bytes_as_folders(make_tree, server, tmp_path):
    root = make_tree(server)
    submission(server, root, tmp_path / "folder.zip")
    published = tmp_path / "zips" / SERVERS[server].archive
    published.parent.mkdir()
    with zipfile.ZipFile(published, "w") as archive:
        for file in root.rglob("*.*"):
            archive.write(file, file.relative_to(root).as_posix())
    for number, source in enumerate((published, published.parent)):
        submission(server, source, tmp_path / f"{number}.zip")
        same = (tmp_path / f"{number}.zip").read_bytes()
        assert same == (tmp_path / "folder.zip").read_bytes()


def test_images_of_wilddash_may_be_of_any_size(make_tree, tmp_path):
    root = make_tree("wilddash", size=(3, 5))
    (root / "images/us0042_100000.jpg").write_bytes(encode(np.full((4, 7, 3), 10), "JPEG"))
    submission("wilddash", root, tmp_path / "a.zip")
    shapes = [np.shape(pixels) for pixels in content(tmp_path / "a.zip").values()]
    assert shapes == [(3, 5), (4, 7)]


def use_a_folder(root):
    (root.parent / "folder.zip").mkdir()
    return {"out": root.parent / "folder.zip"}


def lose_an_image(root):
    (root / TREES["acdc"][0][1]).unlink()


def copy_an_image(root, sequence, name):
    first = root / TREES["acdc"][0][0]
    copy = root / "rgb_anon/rain/test" / sequence / (name or first.name)
    copy.parent.mkdir(parents=True)
    copy.write_bytes(first.read_bytes())


def add_an_image(root):
    copy_an_image(root, "GOPR0400", "GOPR0400_frame_000001_rgb_anon.png")


def name_two_alike(root):
    lose_an_image(root)
    copy_an_image(root, "GOPR0475", None)


def resize_an_image(root):
    (root / TREES["acdc"][0][0]).write_bytes(encode(np.zeros((4, 40, 3))))


def break_an_image(root):
    (root / TREES["acdc"][0][1]).write_bytes(b"PNG")


REVERSED = replace(CITYSCAPES19, names=CITYSCAPES19.names[::-1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda root: {"server": "acdcs"}, ConfigError, "server 'acdcs': did you mean 'acdc'"),
        (lambda root: {"classes": CAMVID11}, ConfigError, "the 19 classes .*, the model has 11"),
        (lambda root: {"classes": REVERSED}, ConfigError, "in their order"),
        (lambda root: {"out": root.parent / "x.tar"}, ConfigError, "a zip file, such as acdc.zip"),
        (use_a_folder, ConfigError, "give the name of a zip file"),
        (
            lambda root: {"root": root / "rgb_anon/fog/val"},
            MissingFileError,
            "no test images of ACDC .*\n.*\n  rgb_anon/{weather}/test",
        ),
        (lambda root: {"root": root / "elsewhere"}, MissingFileError, "no folder or zip file"),
        (lose_an_image, DataError, r"has 1 files .* of 1 names; .* has 2, .* all of them"),
        (add_an_image, DataError, r"has 3 files .* of 3 names; .* has 2, .* alone"),
        (name_two_alike, DataError, r"has 2 files .* of 1 names; .* has 2"),
        (resize_an_image, DataError, r"000041_rgb_anon.png is 40 x 4 pixels, .* 20 x 2"),
        (break_an_image, DataError, r"cannot read image .*000129_rgb_anon.png"),
    ],
)
def test_a_mistake_is_one_error_before_any_prediction_and_leaves_the_earlier_zip(
    make_tree, tmp_path, change, error, message
):
    root, out, images = make_tree("acdc"), tmp_path / "upload.zip", []
    out.write_bytes(b"earlier")
    arguments = {"server": "acdc", "root": root, "out": out, **(change(root) or {})}

    def count(image):
        images.append(image)
        return predict(image)

    with pytest.raises(error, match=message):
        submission(**arguments, predict=count)
    # Only reading all images shows that one of them is broken.
    assert len(images) == (1 if change is break_an_image else 0)
    assert out.read_bytes() == b"earlier"
    assert not [*tmp_path.glob(".*"), *tmp_path.glob("*.tar")]


def test_an_interruption_or_a_failed_check_leaves_the_earlier_zip(make_tree, tmp_path, monkeypatch):
    root, out = make_tree("acdc"), tmp_path / "upload.zip"
    out.write_bytes(b"earlier")

    def interrupted(image):
        if image.max() > 0:  # the second image
            raise KeyboardInterrupt
        return predict(image)

    with pytest.raises(KeyboardInterrupt):
        submission("acdc", root, out, predict=interrupted)
    monkeypatch.setattr(submit, "_png", lambda ids: encode(ids, "JPEG"))
    with pytest.raises(DataError, match="is a JPEG of mode L"):
        submission("acdc", root, out)
    assert out.read_bytes() == b"earlier"
    assert not list(tmp_path.glob(".*"))


GOOD = encode(np.full(SIZE, 18))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("a.png", GOOD)], "0 entries b.png, ACDC .* asks for 1"),
        ([("a.png", GOOD), ("b.png", GOOD), ("c.png", GOOD)], "1 entries c.png, .* asks for 0"),
        ([("a.png", GOOD), ("a.png", GOOD), ("b.png", GOOD)], "2 entries a.png, .* asks for 1"),
        ([("a.png", encode(np.zeros((2, 19)))), ("b.png", GOOD)], "a.png is 19 x 2 .* 20 x 2"),
        ([("a.png", GOOD), ("b.png", encode(np.full(SIZE, 19)))], r"b.png has ids \[19\]"),
        ([("a.png", encode(np.zeros((*SIZE, 3)))), ("b.png", GOOD)], "a PNG of mode RGB"),
        ([("a.png", GOOD), ("b.png", encode(np.zeros(SIZE), mode="P"))], "a PNG of mode P"),
        ([("a.png", GOOD), ("b.png", encode(np.zeros(SIZE), "JPEG"))], "b.png is a JPEG"),
        ([("a.png", GOOD), ("b.png", b"")], "cannot read .*b.png"),
        (None, "cannot read .*is not a zip file"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_the_checker_names_the_first_wrong_entry(tmp_path, entries, message):
    file = tmp_path / "upload.zip"
    file.write_bytes(b"no zip")
    if entries is not None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, picture in entries:
                archive.writestr(name, picture)
    with pytest.raises(DataError, match=message):
        check_submission(file, SERVERS["acdc"], {"a.png": SIZE, "b.png": SIZE})


def test_the_page_tells_what_the_servers_ask_for():
    page = (Path(__file__).parents[2] / "docs" / "submissions.md").read_text()
    for name, server in SERVERS.items():
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` "))
        for fact in (f" {server.count} ", server.archive, server.entry, server.homepage):
            assert fact in row, fact
