"""The images that a command is given: a file, a folder, a pattern or a zip file."""

import functools
import glob
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from causalseg.data.files import open_files, read_bytes
from causalseg.data.folders import IMAGE_ENDINGS, list_images
from causalseg.errors import DataError, MissingFileError


class Picture(NamedTuple):
    """An image file that has not been read.

    ``name`` is its path below the folder, the pattern's fixed part or the zip, without the ending;
    ``changed`` is when the file, or the zip around it, last changed, in ns.
    """

    name: str
    where: str
    changed: int
    read: Callable[[], bytes]


def find_pictures(images: str, own: list[Path], is_recursive: bool) -> list[Picture]:
    """Return the images of a path or pattern, without those in the folders ``own``.

    Raises MissingFileError if the path is not there, DataError if it holds no image, two have one
    name, or a zip file is broken.
    """
    path = Path(images)
    if path.is_file() and path.suffix.lower() == ".zip":
        found = list(_in_zip(path))
    elif path.is_file():
        found = [_on_disk(path, path.stem)]
    elif path.is_dir():
        found = list(_below(path, list_images(path, is_recursive), own))
    elif glob.has_magic(images):
        matching = [Path(file) for file in sorted(glob.glob(images, recursive=True))]  # noqa: PTH207
        found = list(_below(_fixed_part(path), matching, own))
    else:
        raise MissingFileError(f"no image, folder or zip file {path}: check the path")
    if not found:
        where = "; subfolders were left out" if path.is_dir() and not is_recursive else ""
        raise DataError(f"{images} has no images ({', '.join(IMAGE_ENDINGS)}){where}")
    places: dict[str, str] = {}
    for picture in found:
        other = places.setdefault(picture.name, picture.where)
        if other != picture.where:
            raise DataError(f"{other} and {picture.where} have one name: rename one of them")
    return found


def changed_at(file: Path) -> int:
    """Return when a file last changed, in ns; a copy may keep its mtime."""
    status = file.stat()
    return max(status.st_mtime_ns, status.st_ctime_ns)


def _below(root: Path, files: list[Path], own: list[Path]) -> Iterator[Picture]:
    for file in files:
        is_own = any(file.resolve().is_relative_to(folder) for folder in own)
        if file.suffix.lower() in IMAGE_ENDINGS and file.is_file() and not is_own:
            yield _on_disk(file, file.relative_to(root).with_suffix("").as_posix())


def _on_disk(file: Path, name: str) -> Picture:
    return Picture(name, str(file), changed_at(file), functools.partial(read_bytes, file))


def _in_zip(path: Path) -> Iterator[Picture]:
    files, changed = open_files(path), changed_at(path)
    for name in files.names:
        member = PurePosixPath(name)
        if member.suffix.lower() in IMAGE_ENDINGS and ".." not in member.parts:
            stem = str(member.with_suffix("")).lstrip("/")
            yield Picture(stem, files.where(name), changed, functools.partial(files.read, name))


def _fixed_part(pattern: Path) -> Path:
    """Return the folders of a pattern before its first wildcard."""
    parts = pattern.parts
    count = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:count])
