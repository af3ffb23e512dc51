"""The files below a root as one tree: those on disk and those inside zip files.

A zip file counts as unpacked into the folder that contains it, so a data set is read as it was
downloaded. A file on disk hides a member of a zip with the same path.
"""

import lzma
import os
import stat
import time
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile, ZipFile

from causalseg.errors import DataError, MissingFileError, list_some

_SHOWN = 8  # entries of a folder in a message
_SETTLED = 1_000_000_000  # ns; a folder changed more recently may change again at the same mtime
_MOST_BYTES = 2_000_000_000
_ENCRYPTED = 0x1  # bit of a member's flags
_opened: dict[Path, "Files"] = {}


def open_files(root: Path) -> "Files":
    """Return the `Files` below a folder or in a zip file; scan again only after a change."""
    root = root.resolve()
    if root not in _opened or not _opened[root].is_current():
        _opened[root] = Files(root)
    return _opened[root]


class Files:
    """All files below a root by their path relative to it, ``/`` between folders.

    Links to folders are followed. Hidden files, macOS' additions to zip files, and names that are
    not UTF-8 are left out. Copies in other processes open the zip files again on first use.

    Attributes:
        names: the paths, sorted, without zip files.
        zips: the zip files, relative to the root.
        not_utf8: paths on disk that are left out for their name.
        broken: the error of each zip file that cannot be opened.

    Raises MissingFileError without a root, DataError if a folder cannot be listed or the root is a
    broken zip file.
    """

    def __init__(self, root: Path):
        if not root.exists():
            raise miss_folder("folder or zip file", root)
        self.root = root
        self._scanned, self._stamps = time.time_ns(), {str(root): root.stat().st_mtime_ns}
        self._archives: dict[str, ZipFile] = {}
        self._process = os.getpid()
        self._zip_of: dict[str, str | None] = {}  # of every name: its zip; None on disk
        self._conflicts: dict[str, str] = {}  # another zip with different content for this name
        try:
            names = sorted(self._walk(str(root), "", ())) if root.is_dir() else [""]
        except OSError as error:
            raise DataError(f"cannot list {root}: {error}") from error
        listed = list(filter(is_utf8, names))
        self.not_utf8 = tuple(name for name in names if not is_utf8(name))
        self.zips = tuple(filter(_is_zip, listed))
        self.broken: list[str] = []
        self._zip_of.update({name: None for name in listed if not _is_zip(name)})
        for each in self.zips:
            try:
                self._add_zip(each)
            except (DataError, OSError) as error:
                if root.is_file():
                    raise
                self.broken.append(str(error))
        self.names = tuple(sorted(self._zip_of))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archives": {}}

    def is_current(self) -> bool:
        """Whether folders and zip files are unchanged since the scan."""
        try:
            now = {path: Path(path).stat().st_mtime_ns for path in self._stamps}
        except OSError:
            return False
        return now == self._stamps and max(now.values()) < self._scanned - _SETTLED

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises MissingFileError if no file has this name, DataError if it is broken or encrypted.
        """
        if name not in self._zip_of:
            raise MissingFileError(f"no file {name} in {self.describe()}")
        zip_name, where = self._zip_of[name], self.where(name)
        if zip_name is None:
            return read_bytes(self.root / name)
        if name in self._conflicts:
            zips = f"{self.root / zip_name} and {self.root / self._conflicts[name]}"
            raise DataError(f"{name} is in {zips} with different content: keep one of them")
        archive = self._archive(zip_name)
        try:
            member = archive.getinfo(_member(name, zip_name))
            _check_size(where, member.file_size)
            if not member.flag_bits & _ENCRYPTED:
                return archive.read(member)
            problem = f"{where} is encrypted: unpack the zip with its password"
        except DataError:
            raise
        except KeyError:
            problem = f"{where} is gone: the zip was replaced while in use; start again"
        except NotImplementedError as error:
            problem = f"cannot read {where}: {error}; unpack the zip"
        except (BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError) as error:
            problem = f"cannot read {where}: {error}; the zip is broken, download it again"
        raise DataError(problem)

    def names_in_zip_folders(self) -> dict[str, str]:
        """Return the names of members by their paths if zips count as folders of their names."""
        stems = {each: PurePosixPath(each or self.root.name).with_suffix("") for each in self.zips}
        members = [(name, each) for name, each in self._zip_of.items() if each is not None]
        return {f"{stems[each]}/{_member(name, each)}": name for name, each in members}

    def where(self, name: str) -> str:
        """Return where a file is: its path, or ``zip: member``."""
        zip_name = self._zip_of.get(name)
        if zip_name is None:
            return str(self.root / name)
        return f"{self.root / zip_name}: {_member(name, zip_name)}"

    def describe(self) -> str:
        """Return the kind and path of the root, and its zip files."""
        if self.root.is_file():
            return f"zip file {self.root}"
        zips = f" with {list_some(self.zips, 3)}" if self.zips else ""
        return f"folder {self.root}{zips}"

    def describe_broken(self) -> str:
        """Return a clause about zip files that cannot be opened and may contain missing files."""
        return "".join(f"; it may be in a broken zip file: {each}" for each in self.broken)

    def _walk(self, folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
        """Yield the files below a folder; ``above`` are its parent folders."""
        status = os.stat(folder)  # noqa: PTH116
        this = (status.st_dev, status.st_ino)
        if this in above:  # a link back to a folder around it
            return
        self._stamps[folder] = status.st_mtime_ns
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_hidden(entry.name):
                    continue
                if entry.is_dir():
                    yield from self._walk(entry.path, f"{prefix}{entry.name}/", (*above, this))
                else:
                    yield prefix + entry.name

    def _add_zip(self, zip_name: str) -> None:
        path = self.root / zip_name
        self._stamps[str(path)] = path.stat().st_mtime_ns
        for member in self._archive(zip_name).infolist():
            if member.is_dir() or any(map(_is_hidden, member.filename.split("/"))):
                continue
            name = _folder(zip_name) + member.filename
            other = self._zip_of.setdefault(name, zip_name)
            if other not in (zip_name, None):
                same = self._archive(other).getinfo(_member(name, other))
                if (same.CRC, same.file_size) != (member.CRC, member.file_size):
                    self._conflicts[name] = zip_name

    def _archive(self, zip_name: str) -> ZipFile:
        """Return a zip file opened by this process: processes must not share a file position."""
        if self._process != os.getpid():
            self._archives, self._process = {}, os.getpid()
        if zip_name not in self._archives:
            path = self.root / zip_name
            try:
                self._archives[zip_name] = ZipFile(path)
            except (BadZipFile, OSError, NotImplementedError, UnicodeDecodeError) as error:
                raise DataError(
                    f"cannot open zip file {path}: {error}; download it again, or move it away"
                ) from error
        return self._archives[zip_name]


def read_bytes(file: Path) -> bytes:
    """Return the content of a regular file of bounded size; raise DataError on failure."""
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever, a device never end
            raise DataError(f"cannot read {file}: it is no regular file")
        _check_size(str(file), status.st_size)
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error}") from error


def _check_size(where: str, size: int) -> None:
    if size > _MOST_BYTES:
        raise DataError(
            f"cannot read {where}: it has {size / 1e9:.1f} GB, the limit is "
            f"{_MOST_BYTES / 1e9:.0f}; cut it into tiles"
        )


def miss_folder(what: str, path: Path) -> MissingFileError:
    """Return the error about a folder that is not there."""
    hint = f"check the path, and data.root if it is set; {describe_nearest(path)}"
    return MissingFileError(f"no {what} {path}: {hint}")


def describe_nearest(path: Path) -> str:
    """Return a clause with the contents of the nearest existing folder above a path."""
    if path.is_symlink():
        return f"it is a link to {path.readlink()}, which is not there"
    folder = next(above for above in path.absolute().parents if above.is_dir())
    try:
        names = sorted(name for name in os.listdir(folder) if not _is_hidden(name))  # noqa: PTH208
    except OSError:
        return f"{folder} cannot be listed"
    names[:_SHOWN] = [name + "/" * (folder / name).is_dir() for name in names[:_SHOWN]]
    return f"in {folder} there is {list_some(names, _SHOWN) or 'nothing'}"


def is_utf8(name: str) -> bool:
    """Whether a file's name can be written into a report; on Linux a name may be any bytes."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _is_zip(name: str) -> bool:
    return not name or name.lower().endswith(".zip")  # without a name: the root itself


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _folder(zip_name: str) -> str:
    """Return the folder of a zip file, with a slash unless it is the root."""
    return zip_name[: zip_name.rfind("/") + 1]


def _member(name: str, zip_name: str) -> str:
    return name.removeprefix(_folder(zip_name))
