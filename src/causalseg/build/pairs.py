"""From the options of a source or domain to images with labels and their classes."""

from pathlib import Path

from torch.utils.data import Dataset, Subset

from causalseg.config.data import DataConfig, FolderConfig, LayoutConfig, ScenesConfig, Source
from causalseg.data.catalogue import CLASS_LISTS, LAYOUTS, find_layout
from causalseg.data.classes import CITYSCAPES19, IGNORE, ClassList, read_classes
from causalseg.data.dataset import Decoding, Sample, ScenesData
from causalseg.data.files import describe_nearest
from causalseg.data.folders import FolderData, parse_location, read_colours, read_ids
from causalseg.data.labels import LabelReader
from causalseg.data.layout_data import LayoutData, describe_tree
from causalseg.errors import ConfigError, MissingFileError

Pairs = tuple[Dataset[Sample], ClassList]
"""Images with labels, and the classes of the labels."""


def build_classes(data: DataConfig) -> ClassList:
    """Build the class list of ``data.classes``: a name, a block or the path of a file."""
    if not isinstance(data.classes, str):
        block = data.classes
        return ClassList(
            tuple(block.names),
            tuple(block.palette or ()),
            tuple(block.ids or ()),
            tuple(block.ignore),
            tuple(block.ignore_colours),
        )
    if data.classes in CLASS_LISTS:
        return CLASS_LISTS[data.classes]
    if not data.classes.endswith(".json"):
        raise ConfigError(
            f"data.classes = {data.classes!r}: allowed are {', '.join(CLASS_LISTS)}, a list of "
            "names, or the path of a .json file"
        )
    file = _find_path(data, data.classes)
    try:
        return read_classes(file)
    except MissingFileError as error:
        named = (*data.sources, *data.domains.values())
        folders = dict.fromkeys(each.images for each in named if isinstance(each, FolderConfig))
        expected = f". Images are expected in {', '.join(folders)}, from data.root on"
        raise MissingFileError(
            f"{error}; {describe_nearest(file)}{expected if folders else ''}"
        ) from error


def open_pairs(
    data: DataConfig,
    source: Source,
    classes: ClassList,
    is_strict: bool = True,
    finds_unknown: bool = False,
) -> Pairs:
    """Build a source or domain from its files, without corruption or resizing.

    ``finds_unknown``: labels are 1 where a label id is one of ``unknown``, and 0 at other classes.
    """
    own = find_classes(data, source, classes)
    pairs: Dataset[Sample]
    match source:
        case FolderConfig():
            if source.encoding == "colours":
                reader = read_colours(own)
            else:
                reader = read_ids(own, data.ignore, source.id_map)
                _add_unknown(reader, source, finds_unknown)
            places = map(parse_location, (source.images, source.labels))
            images, labels = (at._replace(folder=_find_path(data, at.folder)) for at in places)
            pairs = FolderData(images, labels, reader, source.every, is_strict, decoding_of(data))
        case LayoutConfig():
            root = _find_root(data, source)
            pairs = LayoutData(LAYOUTS[source.layout], source.split, root, source.every, is_strict)
        case ScenesConfig():
            pairs = ScenesData(source.domain, source.count, source.first, source.size)
            if source.every > 1:
                pairs = Subset(pairs, range(0, source.count, source.every))
    return pairs, own


def _add_unknown(reader: LabelReader, source: FolderConfig, finds_unknown: bool) -> None:
    both = [i for i in source.unknown if reader.table.get(i, IGNORE) != IGNORE]
    if both:
        raise ConfigError(
            f"{describe_source(source)}: label id {both[0]} is a class, so it cannot be unknown: "
            "leave it out of unknown"
        )
    if finds_unknown:
        reader.table = {i: 0 if train != IGNORE else train for i, train in reader.table.items()}
    reader.table |= dict.fromkeys(source.unknown, 1 if finds_unknown else IGNORE)


def decoding_of(data: DataConfig) -> Decoding:
    """Return how images are read."""
    return Decoding(data.exif == "apply", data.bits)


def find_classes(data: DataConfig, source: Source, classes: ClassList) -> ClassList:
    """Return the classes of the labels of a source or domain."""
    if isinstance(source, LayoutConfig):
        return find_layout(source.layout).classes
    if isinstance(source, FolderConfig) and source.classes is not None:
        return build_classes(data.model_copy(update={"classes": source.classes}))
    if isinstance(source, ScenesConfig) and classes != CITYSCAPES19:
        raise ConfigError("scenes have the classes of cityscapes19: set data.classes to it")
    return classes


def _find_root(data: DataConfig, source: LayoutConfig) -> Path:
    """Return the root of a published data set; the source's own root comes first."""
    own = source.root or data.roots.get(source.layout)
    if own is None and data.root is None:
        raise ConfigError(
            f"{source.layout} has no root: give data.roots.{source.layout}=PATH, or data.root, "
            f"a folder that contains {source.layout}/"
        )
    root, layout = _find_path(data, own or source.layout), LAYOUTS[source.layout]
    if not root.exists() and source.split in layout.splits:
        lines = [
            f"no folder or zip file {root}; {describe_nearest(root)}",
            *describe_tree(layout.splits[source.split]),
            f"give {'another root' if source.root else f'data.roots.{source.layout}=PATH'}, or get "
            f"it from {layout.homepage}",
            *filter(None, [layout.describe_archives()]),
        ]
        raise MissingFileError("\n".join(lines))
    return root


def describe_source(source: Source) -> str:
    """Return a short name of a source or domain for messages."""
    if isinstance(source, LayoutConfig):
        return f"{source.layout} {source.split}"
    return source.images if isinstance(source, FolderConfig) else f"scenes {source.domain}"


def _find_path(data: DataConfig, path: str | Path) -> Path:
    """Return a path with ``~`` spelled out; a relative one starts from ``data.root``, if set."""
    try:
        return Path(data.root or ".").expanduser() / Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"no home folder for the ~ of {path} or of data.root = {data.root}: give a full path"
        ) from error
