"""A user's own data: images and labels in two folders, paired by stem or by fields of templates.

day/images                        a folder: its files, each named by its stem, the field `name`
day/{city}/{name}_photo.jpg       a template (`templates`): matching files, in folders and zips
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from causalseg.data.classes import IGNORE, ClassList, Colour
from causalseg.data.dataset import Decoding, PairData, check_train_ids
from causalseg.data.files import Files, is_utf8, miss_folder, open_files, read_bytes
from causalseg.data.labels import ColourLabels, IdLabels, LabelReader
from causalseg.data.templates import Template, pair_by_fields
from causalseg.errors import ConfigError, DataError, list_some

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
_LATER = (".tif", ".tiff", ".bmp")  # read if there is no other file of the same stem
LABEL_ENDINGS = (".png", ".webp", ".tif", ".tiff", ".bmp")  # not JPEG: it changes ids
_DEFAULT = Decoding()
_SHOWN = 5  # names in a message


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

    A sample's name is its stem, or for a template the values of its fields joined by ``__``; its
    label has the same stem or fields. Every k-th image is used. Unpaired images and labels are
    refused or, unless strict, skipped.

    Raises MissingFileError without a folder, ConfigError if a template is wrong, has an ending that
    is not read or a field that images lack, and DataError if there is no image, two have one name,
    or, where strict, an image or a label is unpaired.
    """

    def __init__(
        self,
        images: Location,
        labels: Location,
        reader: LabelReader,
        every: int = 1,
        is_strict: bool = True,
        decoding: Decoding = _DEFAULT,
    ):
        self._trees: dict[str, tuple[Files, str]] = {}  # of a file of a template: tree, name there
        template, image_files = self._find(images, IMAGE_ENDINGS, {})
        label_template, label_files = self._find(labels, LABEL_ENDINGS, template.patterns)
        lacking = [field for field in label_template.patterns if field not in template.patterns]
        if lacking:
            raise ConfigError(
                f"labels {labels} have the field {lacking[0]}, images {images} only "
                f"{', '.join(template.patterns)}: a label is found by the fields of its image"
            )
        if not image_files:
            raise DataError(f"{images} has no images: {', '.join(IMAGE_ENDINGS)} are read")
        fields = {path: file.fields for path, file in image_files.items()}
        label_of, unlabelled, unused = pair_by_fields(fields, label_files, label_template)
        unpaired = [
            *_describe_unpaired(labels, "label", [image_files[path] for path in unlabelled]),
            *_describe_unpaired(images, "image", [label_files[path] for path in unused]),
        ]
        if unpaired and is_strict:
            trees = {files: None for files, _ in self._trees.values()}
            raise DataError(unpaired[0] + "".join(files.describe_broken() for files in trees))
        pairs = sorted((image_files[path].name, path) for path in label_of)[::every]
        for (name, _), (other, _) in itertools.pairwise(pairs):
            if name == other:
                raise DataError(f"two images of {images} have the name {name}: choose other fields")
        super().__init__(
            [(image_files[path].where, label_files[label_of[path]].where) for _, path in pairs],
            [name for name, _ in pairs],
            reader,
            unpaired=unpaired,
            decoding=decoding,
        )

    def read(self, file: str) -> bytes:
        """Return the content of a file."""
        if file in self._trees:
            files, name = self._trees[file]
            return files.read(name)
        return read_bytes(Path(file))

    def where(self, file: str) -> str:
        """Return the path of a file, or ``zip: member``."""
        return file

    def _find(
        self, location: Location, endings: tuple[str, ...], patterns: Mapping[str, str]
    ) -> tuple[Template, dict[str, "_File"]]:
        """Return the template of a location, and its files by the paths that the template gives."""
        if not location.template:
            stems = _list_stems(location.folder, endings).items()
            return Template("{name}"), {
                stem: _File(str(file), {"name": stem}) for stem, file in stems
            }
        if Path(location.template).suffix.lower() not in endings:
            raise ConfigError(f"template {location} has to end in {' or '.join(endings)}")
        folder, text = _look_in_zips(location)
        template, tree = Template(text, patterns), open_files(folder)
        for name in tree.not_utf8:
            if template.match(name):
                raise _not_utf8(name, folder)
        files = {}
        for name in tree.names:
            match = template.match(name)
            if match and not match.above:
                files[name] = _File(tree.where(name), match.fields)
                self._trees[tree.where(name)] = tree, name
        if not files:
            raise DataError(
                f"{location} matches no file; in {tree.describe()} there is "
                f"{list_some(tree.names, _SHOWN) or 'nothing'}{tree.describe_broken()}"
            )
        return template, files


def read_ids(
    classes: ClassList, ignore: int = IGNORE, id_map: Mapping[int, int] | None = None
) -> LabelReader:
    """Return the reader of labels that are ids.

    ``ignore`` is one more label id without a class; ``id_map`` replaces those of the class list.
    Raises ConfigError if ``id_map`` names an unknown class, or ``ignore`` is the id of a class.
    """
    pairs = {label_id: i for i, label_id in enumerate(classes.ids)} if id_map is None else id_map
    # A map may say what 255 means, which is ignored by default.
    is_mapped = id_map is not None and ignore == IGNORE
    if pairs.get(ignore, IGNORE) != IGNORE and not is_mapped:
        raise ConfigError(
            f"data.ignore = {ignore} is also the label id of class "
            f"{classes.names[pairs[ignore]]!r}: a label id is a class or ignored, not both; set "
            "data.ignore to an id that no pixel has, such as 254"
        )
    check_train_ids(pairs, classes, "id_map")
    for label_id in pairs:
        if not 0 <= label_id < 2**16:
            raise ConfigError(f"id_map names label id {label_id}: label ids are 0..65535")
    table = dict.fromkeys([*classes.ignore, ignore], IGNORE)
    return IdLabels(table | dict(pairs), "correct the file, the class list or id_map")


def read_colours(classes: ClassList) -> LabelReader:
    """Return the reader of colours; ConfigError without a palette or if one means two things."""
    if not classes.has_palette:
        raise ConfigError(
            "labels of colours need a palette: give the classes one, with a colour for each name"
        )
    name_of: dict[Colour, str] = {}
    for name, colour in zip(classes.names, classes.palette, strict=True):
        if colour in name_of:
            raise ConfigError(
                f"the classes {name_of[colour]!r} and {name!r} have the same colour {colour}: "
                "labels of colours need one for each class"
            )
        name_of[colour] = name
    for colour in classes.ignore_colours:
        if colour in name_of:
            raise ConfigError(
                f"{colour} is the colour of class {name_of[colour]!r} and of no class: a colour is "
                "a class or ignored, not both"
            )
    train_ids = {colour: train_id for train_id, colour in enumerate(classes.palette)}
    table = train_ids | dict.fromkeys(classes.ignore_colours, IGNORE)
    return ColourLabels(table, "correct the file, or palette and ignore_colours of the classes")


def list_images(folder: Path, is_recursive: bool = False) -> list[Path]:
    """Return the image files of a folder in the order of names, then those of its subfolders."""
    files = list(_list_stems(folder, IMAGE_ENDINGS).values())
    if is_recursive:
        for inside in sorted(folder.iterdir()):
            if inside.is_dir() and not inside.name.startswith("."):
                files += list_images(inside, is_recursive)
    return files


class _File(NamedTuple):
    """Where a file is, and the values of its fields."""

    where: str
    fields: Mapping[str, str]

    @property
    def name(self) -> str:
        return "__".join(self.fields.values()).replace("/", "__")


def _look_in_zips(location: Location) -> tuple[Path, str]:
    """Return an existing folder and the rest of the template: the others may be in a zip file."""
    folder, text = location
    above = next(each for each in (folder, *folder.parents) if each.is_dir())
    if above == folder or not any(above.glob("*.zip")):
        return _need_folder(folder), text
    return above, f"{folder.relative_to(above).as_posix()}/{text}"


def _list_stems(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    """Return the files of a folder by stem, in its order, without hidden ones."""
    stems: dict[str, Path] = {}
    for file in sorted(_need_folder(folder).iterdir(), key=lambda file: file.stem):
        if file.suffix.lower() not in endings or file.name.startswith(".") or file.is_dir():
            continue
        if not is_utf8(file.name):
            raise _not_utf8(file.name, folder)
        if file.stem in stems:
            first = stems[file.stem]
            later = [each.suffix.lower() in _LATER for each in (first, file)]
            if later.count(True) == 1:  # such as a TIFF beside the PNG made of it
                stems[file.stem] = file if later[0] else first
                continue
            raise DataError(f"{stems[file.stem]} and {file} have the same stem: keep one of them")
        stems[file.stem] = file
    return stems


def _not_utf8(name: str, folder: Path) -> DataError:
    return DataError(f"the file name {name!r} in {folder} is not UTF-8: rename it")


def _need_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise miss_folder("folder", folder)
    return folder


def _describe_unpaired(location: Location, kind: str, files: Sequence[_File]) -> list[str]:
    """Return a message if images or labels are missing for some files."""
    if not files:
        return []
    hint = "; if a field matches too much, narrow it, such as {name:[a-z0-9]+}"
    return [
        f"{location} has no {kind} for {list_some(sorted(file.name for file in files), _SHOWN)}: "
        "every image needs a label of the same stem or fields, PNG or lossless WebP, and every "
        f"label an image{hint if location.template else ''}"
    ]
