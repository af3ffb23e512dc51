"""A published data set, read as its layout says, from folders or from its zip files.

Images and labels are found by the templates of a split, each below any folders, and paired by the
fields of the templates.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from causalseg.data.dataset import PairData, check_train_ids
from causalseg.data.files import Files, open_files
from causalseg.data.labels import (
    NOT_DRAWN,
    ColourLabels,
    IdLabels,
    LabelReader,
    PolygonLabels,
)
from causalseg.data.layouts import Colours, Ids, Layout, Polygons
from causalseg.data.templates import Match, Template
from causalseg.errors import ConfigError, DataError, MissingFileError, did_you_mean

_SHOWN = 8  # entries of a list in a message


class LayoutData(PairData):
    """The pairs of one split of a published data set, in the order of the images' paths.

    A sample's name is the path of its image from the template's first field on, without ending,
    ``__`` between folders.

    Args:
        layout: how the data set is laid out.
        split: which split.
        root: folder that holds it, unpacked or as zip files, or a zip file.
        every: use every k-th image.

    Raises:
        ConfigError: if the layout has no such split or contradicts itself.
        MissingFileError: if the root is not there, or has no images or no labels of the split.
        DataError: if an image has no label or the other way round, if either lies in two places,
            or if a zip file is broken.
    """

    def __init__(self, layout: Layout, split: str, root: Path, every: int = 1):
        if split not in layout.splits:
            raise ConfigError(
                f"{layout.title} has no split {split!r}: {did_you_mean(split, layout.splits)}"
            )
        self.layout, self.split, self.files = layout, split, open_files(root)
        pairs = sorted(self._find_pairs())[::every]
        super().__init__(
            [(image, label) for image, label, _ in pairs],
            [name for *_, name in pairs],
            read_labels(layout),
            layout.is_label_resized,
        )

    def read(self, file: str) -> bytes:
        """Return the content of a file; a DataError says if it cannot be read."""
        return self.files.read(file)

    def where(self, file: str) -> str:
        """Return the path of a file, or ``zip: member``."""
        return self.files.where(file)

    def describe(self) -> str:
        """Return data set, split and root, in words."""
        return f"{self.layout.title}, split {self.split!r}, in {self.files.describe()}"

    def _find_pairs(self) -> list[tuple[str, str, str]]:
        """Return image, label and name of every pair."""
        split = self.layout.splits[self.split]
        image_template = Template(split.images)
        label_template = Template(split.labels, image_template.patterns)
        unknown = label_template.patterns.keys() - image_template.patterns.keys()
        if unknown:
            raise ConfigError(
                f"{self.layout.title}, split {self.split!r}: the template of labels has fields "
                f"that the one of images lacks: {', '.join(sorted(unknown))}"
            )
        images = self._find("images", image_template)
        labels = self._find("labels", label_template)
        above = next(iter(labels.values()))[1].above
        wanted = {
            path: above + label_template.fill(match.fields) for path, (_, match) in images.items()
        }
        if not split.is_partial:
            lonely = [path for path, label in wanted.items() if label not in labels]
            self._refuse("label", "image", lonely)
            self._refuse("image", "label", sorted(labels.keys() - set(wanted.values())))
        names: dict[str, str] = {}
        pairs = []
        for path, (image, match) in images.items():
            if wanted[path] not in labels:
                continue
            start = len(match.above + image_template.folder)
            name = path[start:].rpartition(".")[0].replace("/", "__")
            if name in names:
                raise DataError(
                    f"{self.where(names[name])} and {self.where(image)} have the same name but for "
                    "the ending or slashes: keep one of them"
                )
            names[name] = image
            pairs.append((image, labels[wanted[path]][0], name))
        if not pairs:
            raise self._missing("pairs of image and label")
        return pairs

    def _find(self, what: str, template: Template) -> dict[str, tuple[str, Match]]:
        """Return the paths that match, all below the same folder, with their names in the files.

        Only if nothing else matches, zip files count as unpacked into folders of their names.
        """
        names = self.files.names
        found = _match(template, zip(names, names, strict=True)) or _match(
            template, self.files.names_in_zip_folders().items()
        )
        if not found:
            raise self._missing(what)
        places = sorted({match.above for _, match in found.values()})
        if len(places) > 1:
            raise DataError(
                f"{self.describe()}: {what} ({template.plain}) are in {len(places)} places, such "
                f"as {self.files.root / places[0]} and {self.files.root / places[1]}: give the "
                "folder of one of them as root, or move the others away"
            )
        return found

    def _missing(self, what: str) -> MissingFileError:
        """Return the error that shows the expected tree beside what was found."""
        split = self.layout.splits[self.split]
        others = [
            name
            for name, other in self.layout.splits.items()
            if name != self.split and any(map(Template(other.images).match, self.files.names))
        ]
        lines = [
            f"{self.files.describe()} has no {what} of {self.layout.title}, split {self.split!r}",
            "expected in it, below any folders, unpacked or in zip files:",
            f"  {Template(split.images).plain}",
            f"  {Template(split.labels).plain}",
            "found in it:",
            *(f"  {line}" for line in _list_top(self.files)),
            *([f"images of other splits are there: {', '.join(others)}"] if others else []),
            f"give the folder that holds the expected tree as root, or get it from "
            f"{self.layout.homepage}",
            *([f"it comes in {', '.join(self.layout.archives)}"] if self.layout.archives else []),
        ]
        return MissingFileError("\n".join(lines))

    def _refuse(self, missing: str, of: str, files: list[str]) -> None:
        if files:
            more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
            raise DataError(
                f"{self.describe()}: {of}s without {missing} ({len(files)}): "
                f"{', '.join(files[:_SHOWN])}{more}. Complete the download, or move them away"
            )


def read_labels(layout: Layout) -> LabelReader:
    """Return the reader of a layout's labels.

    Raises:
        ConfigError: if a label leads to no class.
    """
    encoding, advice = layout.encoding, f"Mend the file, or the map of the layout {layout.title}"
    train_ids = {str(i): t for i, t in encoding.train_ids.items()}
    if isinstance(encoding, Polygons):
        train_ids = {label: t for label, t in train_ids.items() if t != NOT_DRAWN}
    check_train_ids(train_ids, layout.classes, f"layout {layout.title}")
    match encoding:
        case Ids():
            return IdLabels(encoding.train_ids, advice, is_first_channel=True)
        case Colours():
            return ColourLabels(encoding.train_ids, advice)
        case Polygons():
            return PolygonLabels(encoding.train_ids, advice)


def _match(template: Template, paths: Iterable[tuple[str, str]]) -> dict[str, tuple[str, Match]]:
    """Return the paths that match a template, with their names and their fields."""
    return {path: (name, match) for path, name in paths if (match := template.match(path))}


def _list_top(files: Files) -> list[str]:
    """Return what lies directly in a root: zip files, and folders with their number of files."""
    count = Counter(name.partition("/")[0] for name in files.names)
    folders = {name.partition("/")[0] for name in files.names if "/" in name}
    lines = [
        *(f"{name} (zip file)" for name in files.zips if name),
        *(f"{name}/ ({n} files)" if name in folders else name for name, n in count.items()),
    ]
    more = [f"... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [*lines[:_SHOWN], *more] or ["nothing"]
