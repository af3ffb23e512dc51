"""A user's own data: images and labels in two folders, paired by stem or by fields of templates.

day/images                        a folder: its files, each named by its stem, the field `name`
day/{city}/{name}_photo.jpg       a template (`templates`): matching files, in folders and zips
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from causalseg.data.classes import IGNORE, ClassList, Colour
from causalseg.data.dataset import PairData, check_train_ids, read_bytes
from causalseg.data.files import Files, describe_nearest, is_utf8, open_files
from causalseg.data.labels import ColourLabels, IdLabels, LabelReader
from causalseg.data.templates import ANY, Template
from causalseg.errors import ConfigError, DataError, MissingFileError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
LABEL_ENDINGS = (".png", ".webp")  # not JPEG: it changes ids


class Location(NamedTuple):
    """A folder, or the files below it that match a template."""

    folder: Path
    template: str = ""

    def __str__(self) -> str:
        return str(self.folder / self.template)


def parse_location(text: str) -> Location:
    """Return the location that an option gives: a path, or one with fields in braces."""
    head, brace, _ = text.partition("{")
    cut = head.rfind("/") + 1
    return Location(Path(text[:cut] or "."), text[cut:]) if brace else Location(Path(text))


class FolderData(PairData):
    """Images and labels in two folders, in the order of names.

    A sample's name is its stem, or for a template the values of its fields joined by ``__``.

    Args:
        images: location of the images.
        labels: location of the labels: an image's label has the same stem or fields.
        reader: reads the label files.
        every: use every k-th image.
        is_strict: refuse unpaired images and labels; else skip them.

    Raises:
        MissingFileError: if a folder does not exist.
        ConfigError: if a template is wrong, has an ending that is not read, or a field that
            images lack.
        DataError: if there is no image, two have one name, or, where strict, an image or a label
            is unpaired.
    """

    def __init__(
        self,
        images: Location,
        labels: Location,
        reader: LabelReader,
        every: int = 1,
        is_strict: bool = True,
    ):
        sources = _find(images, IMAGE_ENDINGS, {})
        masks = _find(labels, LABEL_ENDINGS, sources.patterns)
        lacking = [field for field in masks.patterns if field not in sources.patterns]
        if lacking:
            raise ConfigError(
                f"labels {labels} have the field {lacking[0]}, images {images} only "
                f"{', '.join(sources.patterns)}: a label is found by the fields of its image"
            )
        if not sources.files:
            raise DataError(f"{images} has no images: {', '.join(IMAGE_ENDINGS)} are read")
        fields = {key: file.fields for key, file in sources.files.items()}
        label_of = {
            key: masks.key(fields[key]) for key in sorted(fields, key=lambda k: _name(fields[k]))
        }
        unlabelled = [_name(fields[k]) for k, label in label_of.items() if label not in masks.files]
        unused = [_name(masks.files[k].fields) for k in masks.files.keys() - {*label_of.values()}]
        unpaired = [
            *_describe_unpaired(labels, "label", unlabelled),
            *_describe_unpaired(images, "image", sorted(unused)),
        ]
        if unpaired and is_strict:
            raise DataError(unpaired[0] + masks.broken + sources.broken)
        paired = [key for key, label in label_of.items() if label in masks.files][::every]
        pairs = [(sources.files[key], masks.files[label_of[key]]) for key in paired]
        self._listed = {each.where: each.listed for pair in pairs for each in pair if each.listed}
        super().__init__(
            [(image.where, label.where) for image, label in pairs],
            _make_names(images, [fields[key] for key in paired]),
            reader,
            unpaired=unpaired,
        )

    def read(self, file: str) -> bytes:
        """Return the content of a file."""
        if file in self._listed:
            files, name = self._listed[file]
            return files.read(name)
        return read_bytes(Path(file), file)

    def where(self, file: str) -> str:
        """Return the path of a file, or ``zip: member``."""
        return file


def read_ids(
    classes: ClassList, ignore: int = IGNORE, id_map: Mapping[int, int] | None = None
) -> LabelReader:
    """Return the reader of labels that are ids.

    Args:
        classes: the class list, with the label ids of its classes.
        ignore: one more label id that means `no class`.
        id_map: label id -> train id (255 to ignore), in place of the class list's ids.

    Raises:
        ConfigError: if ``id_map`` names an unknown class, or ``ignore`` is the label id of a class.
    """
    pairs = dict(zip(classes.ids, range(len(classes.ids)), strict=True))
    pairs = pairs if id_map is None else dict(id_map)
    if pairs.get(ignore, IGNORE) != IGNORE:
        raise ConfigError(
            f"data.ignore = {ignore} is also the label id of class "
            f"{classes.names[pairs[ignore]]!r}: a label id is a class or ignored, not both"
        )
    check_train_ids({str(i): train_id for i, train_id in pairs.items()}, classes, "id_map")
    for label_id in pairs:
        if not 0 <= label_id < 2**16:
            raise ConfigError(f"id_map names label id {label_id}: label ids are 0..65535")
    table = dict.fromkeys([*classes.ignore, ignore], IGNORE) | pairs
    return IdLabels(table, "correct the file, the class list or id_map")


def read_colours(classes: ClassList) -> LabelReader:
    """Return the reader of labels that are colours of the class list.

    Raises:
        ConfigError: if the class list has no palette of its own, or a colour means two classes, or
            a class and no class.
    """
    if not classes.has_palette:
        raise ConfigError(
            "labels of colours need a palette: give the classes one, with a colour for each name"
        )
    train_ids: dict[Colour, int] = {}
    for train_id, colour in enumerate(classes.palette):
        if colour in train_ids:
            raise ConfigError(
                f"the classes {classes.names[train_ids[colour]]!r} and {classes.names[train_id]!r} "
                f"have the same colour {colour}: labels of colours need one for each class"
            )
        train_ids[colour] = train_id
    for colour in classes.ignore_colours:
        if colour in train_ids:
            raise ConfigError(
                f"{colour} is the colour of class {classes.names[train_ids[colour]]!r} and of no "
                "class: a colour is a class or ignored, not both"
            )
    table = train_ids | dict.fromkeys(classes.ignore_colours, IGNORE)
    return ColourLabels(table, "correct the file, or palette and ignore_colours of the classes")


def list_images(folder: Path) -> list[Path]:
    """Return the image files of a folder in the order of names."""
    return [file for _, file in sorted(_list_stems(folder, IMAGE_ENDINGS).items())]


class _File(NamedTuple):
    """A file: its path, the values of its fields, and for a template its tree and name there."""

    where: str
    fields: Mapping[str, str]
    listed: tuple[Files, str] | None = None


class _Files(NamedTuple):
    """The files of a location by a key made of their fields.

    Attributes:
        patterns: the regular expression of every field.
        key: makes the key from fields.
        files: the files.
        broken: a clause about zip files that cannot be opened.
    """

    patterns: Mapping[str, str]
    key: Callable[[Mapping[str, str]], str]
    files: dict[str, _File]
    broken: str = ""


def _find(location: Location, endings: tuple[str, ...], patterns: Mapping[str, str]) -> _Files:
    if not location.template:
        stems = _list_stems(location.folder, endings).items()
        files = {stem: _File(str(file), {"name": stem}) for stem, file in stems}
        return _Files({"name": ANY}, lambda fields: fields["name"], files)
    if Path(location.template).suffix.lower() not in endings:
        raise ConfigError(f"template {location} has to end in {' or '.join(endings)}")
    folder, text = _look_in_zips(location)
    template, listed = Template(text, patterns), open_files(folder)
    for name in listed.not_utf8:
        if template.match(name) is not None:
            raise _not_utf8(name, folder)
    files = {}
    for name in listed.names:
        match = template.match(name)
        if match is not None and not match.above:
            files[name] = _File(listed.where(name), match.fields, (listed, name))
    broken = "".join(f"; it may be in a broken zip file: {each}" for each in listed.broken)
    if not files:
        some = ", ".join(listed.names[:5]) or "nothing"
        raise DataError(
            f"{location} matches no file; in {listed.describe()} there is {some}{broken}"
        )
    return _Files(template.patterns, template.fill, files, broken)


def _look_in_zips(location: Location) -> tuple[Path, str]:
    """Return an existing folder and the rest of the template.

    A missing folder may be in a zip file beside it.
    """
    folder, text = location
    above = next(each for each in (folder, *folder.parents) if each.is_dir())
    if above == folder or not any(above.glob("*.zip")):
        return _need_folder(folder), text
    return above, f"{folder.relative_to(above).as_posix()}/{text}"


def _list_stems(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    """Return the files of a folder by stem, without hidden ones."""
    files = [
        file
        for file in _need_folder(folder).iterdir()
        if file.suffix.lower() in endings and not file.name.startswith(".") and not file.is_dir()
    ]
    stems: dict[str, Path] = {}
    for file in sorted(files):
        if not is_utf8(file.name):
            raise _not_utf8(file.name, folder)
        if file.stem in stems:
            raise DataError(f"{stems[file.stem]} and {file} have the same stem: keep one of them")
        stems[file.stem] = file
    return stems


def _not_utf8(name: str, folder: Path) -> DataError:
    return DataError(f"the file name {name!r} in {folder} is not UTF-8: rename it")


def _need_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise MissingFileError(
            f"no folder {folder}: check the path, and data.root if it is set; "
            f"{describe_nearest(folder)}"
        )
    return folder


def _describe_unpaired(location: Location, kind: str, names: Sequence[str]) -> list[str]:
    """Return a message if images or labels are missing for some names."""
    if not names:
        return []
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    hint = "; if a field matches too much, narrow it, such as {name:[a-z0-9]+}"
    return [
        f"{location} has no {kind} for {', '.join(names[:5])}{more}: every image needs a label of "
        "the same stem or fields, PNG or lossless WebP, and every label an image"
        + (hint if location.template else "")
    ]


def _name(fields: Mapping[str, str]) -> str:
    return "__".join(fields.values()).replace("/", "__")


def _make_names(images: Location, samples: Iterable[Mapping[str, str]]) -> list[str]:
    names = [_name(fields) for fields in samples]
    if len(set(names)) < len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise DataError(f"two images of {images} have the name {name}: choose other fields")
    return names
