"""A user's own data: images and labels in two folders, paired by stem or by fields of templates.

day/images                        a folder: its files, each named by its stem, the field `name`
day/{city}/{name}_photo.jpg       a template (`templates`): what matches, in folders and zips
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from causalseg.data.classes import IGNORE, ClassList, Colour
from causalseg.data.dataset import PairData, check_train_ids, read_bytes
from causalseg.data.files import Files, describe_nearest, is_utf8, open_files
from causalseg.data.labels import ColourLabels, IdLabels, LabelReader
from causalseg.data.templates import Template
from causalseg.errors import ConfigError, DataError, MissingFileError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
LABEL_ENDINGS = (".png", ".webp")  # not JPEG: it changes ids

Values = tuple[str, ...]
"""The values of fields."""


class FolderData(PairData):
    """Images and labels in two folders, in the order of names.

    A sample's name is its stem; of a template the values of its fields, ``__`` between them.

    Args:
        images: folder or template of images.
        labels: folder or template of labels, whose fields are among those of the images.
        reader: reads the label files.
        every: use every k-th image.
        is_strict: refuse images without label and labels without image; else leave them out.

    Raises:
        MissingFileError: if a folder is not there.
        ConfigError: if a template is wrong, or has another ending than images or labels have.
        DataError: if there is no image, two have one name, or, where strict, an image is without
            label or the other way round.
    """

    def __init__(
        self,
        images: Path,
        labels: Path,
        reader: LabelReader,
        every: int = 1,
        is_strict: bool = True,
    ):
        pictures, masks = _find(images, IMAGE_ENDINGS), _find(labels, LABEL_ENDINGS)
        lacking = [field for field in masks.fields if field not in pictures.fields]
        if lacking:
            raise ConfigError(
                f"labels {labels} have the field {lacking[0]}, images {images} only "
                f"{', '.join(pictures.fields)}: a label is found by the fields of its image"
            )
        if not pictures.files:
            raise DataError(f"{images} has no images: {', '.join(IMAGE_ENDINGS)} are read")
        places = [pictures.fields.index(field) for field in masks.fields]
        wanted = {values: tuple(values[i] for i in places) for values in sorted(pictures.files)}
        lonely = [
            *_lonely(labels, "label", {key for key in wanted.values() if key not in masks.files}),
            *_lonely(images, "image", masks.files.keys() - set(wanted.values())),
        ]
        if lonely and is_strict:
            raise DataError(lonely[0])
        paired = [values for values, key in wanted.items() if key in masks.files][::every]
        self._in_files = pictures.in_files | masks.in_files
        super().__init__(
            [(pictures.files[values], masks.files[wanted[values]]) for values in paired],
            _names(images, paired),
            reader,
            lonely=lonely,
        )

    def read(self, file: str) -> bytes:
        """Return the content of a file."""
        if file in self._in_files:
            files, name = self._in_files[file]
            return files.read(name)
        return read_bytes(Path(file), file)

    def where(self, file: str) -> str:
        """Return the path of a file, or ``zip: member``."""
        return file


def read_ids(
    classes: ClassList, ignore: int = IGNORE, id_map: Mapping[int, int] | None = None
) -> LabelReader:
    """Return the reader of labels that hold ids.

    Args:
        classes: the class list; its ids say what the label files hold.
        ignore: one more label id that means `no class`.
        id_map: label id -> train id (255 to ignore), in place of the class list's ids.

    Raises:
        ConfigError: if ``id_map`` leads to no class, or ``ignore`` is the label id of a class.
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
    return IdLabels(table, "Mend the file, the class list or id_map")


def read_colours(classes: ClassList, ignored: Iterable[Colour] = ()) -> LabelReader:
    """Return the reader of labels that hold the colours of the class list.

    Args:
        classes: the class list; its palette says what the label files hold.
        ignored: colours that mean `no class`.

    Raises:
        ConfigError: if a colour stands for two classes, or for a class and none.
    """
    train_ids: dict[Colour, int] = {}
    for train_id, colour in enumerate(classes.palette):
        if colour in train_ids:
            raise ConfigError(
                f"the classes {classes.names[train_ids[colour]]!r} and {classes.names[train_id]!r} "
                f"have the same colour {colour}: labels of colours need one for each class"
            )
        train_ids[colour] = train_id
    for colour in ignored:
        if colour in train_ids:
            raise ConfigError(
                f"ignore_colours has {colour}, the colour of class "
                f"{classes.names[train_ids[colour]]!r}: a colour is a class or ignored, not both"
            )
    table = train_ids | dict.fromkeys(ignored, IGNORE)
    return ColourLabels(table, "Mend the file, the palette of the classes or ignore_colours")


def list_images(folder: Path) -> list[Path]:
    """Return the image files of a folder in the order of names."""
    return [file for _, file in sorted(_stems(folder, IMAGE_ENDINGS).items())]


class _Found(NamedTuple):
    """The fields of a folder or template, and its files by their values.

    Those of a template are read from ``in_files``, by the path that stands for them.
    """

    fields: tuple[str, ...]
    files: dict[Values, str]
    in_files: dict[str, tuple[Files, str]]


def _find(place: Path, endings: tuple[str, ...]) -> _Found:
    if "{" not in str(place):
        stems = _stems(place, endings).items()
        return _Found(("name",), {(stem,): str(file) for stem, file in stems}, {})
    whole = Template(str(place))
    if place.suffix.lower() not in endings:
        raise ConfigError(f"template {place} has to end in {' or '.join(endings)}")
    listed = open_files(_need_folder(Path(whole.folder or ".")))
    below = Template(str(place)[len(whole.folder) :])
    found = _Found(tuple(below.patterns), {}, {})
    for name in listed.names:
        match = below.match(name)
        if match is not None and not match.above:
            where = listed.where(name)
            found.files[tuple(match.fields.values())] = where
            found.in_files[where] = (listed, name)
    if not found.files:
        some = ", ".join(listed.names[:5]) or "nothing"
        raise DataError(f"{place} matches no file; in {listed.describe()} there is {some}")
    return found


def _stems(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    """Return the files of a folder by stem; those are left out that are hidden, as macOS's are."""
    files = [
        file
        for file in _need_folder(folder).iterdir()
        if file.suffix.lower() in endings and not file.name.startswith(".") and not file.is_dir()
    ]
    stems: dict[str, Path] = {}
    for file in sorted(files):
        if not is_utf8(file.name):
            raise DataError(f"the file name {file.name!r} in {folder} is not UTF-8: rename it")
        if file.stem in stems:
            raise DataError(f"{stems[file.stem]} and {file} have the same stem: keep one of them")
        stems[file.stem] = file
    return stems


def _need_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise MissingFileError(
            f"no folder {folder}: check the path, and data.root if it is set; "
            f"{describe_nearest(folder)}"
        )
    return folder


def _lonely(place: Path, kind: str, missing: Iterable[Values]) -> list[str]:
    """Say that there is no image or no label for some values."""
    names = ["/".join(values) for values in sorted(missing)]
    if not names:
        return []
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return [
        f"{place} has no {kind} for {', '.join(names[:5])}{more}: every image needs a label of the "
        "same stem or fields, PNG or lossless WebP, and every label an image"
    ]


def _names(images: Path, samples: Sequence[Values]) -> list[str]:
    names = ["__".join(values).replace("/", "__") for values in samples]
    if len(set(names)) < len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise DataError(f"two images of {images} have the name {name}: choose other fields")
    return names
