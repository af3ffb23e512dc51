"""A published data set, read by its layout from folders or zip files.

Images and labels are found by the templates of a split, below any folders, and paired by the fields
of the templates.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from causalseg.data.dataset import PairData, check_train_ids
from causalseg.data.files import Files, open_files
from causalseg.data.labels import NOT_DRAWN, ColourLabels, IdLabels, LabelReader, PolygonLabels
from causalseg.data.layouts import Colours, Ids, Layout, Polygons, Split
from causalseg.data.templates import Match, Template, pair_by_fields
from causalseg.errors import ConfigError, DataError, MissingFileError, did_you_mean, list_some

_SHOWN = 8  # entries of a list in a message
_ARCHIVE_ENDING = re.compile(r"\.(zip|rar|tar(\.gz)?)$")


class LayoutData(PairData):
    """The pairs of one split of a published data set, in the order of the images' paths.

    A sample's name is the path of its image from the template's first field on, without ending,
    ``__`` between folders.

    ``root`` is a folder, unpacked or with zip files, or a zip file. Every k-th image is used.
    Unpaired images and labels are refused or, unless strict, skipped.

    Attributes:
        num_published: pairs of the split as published; None where sources differ.
        shortfall: message about missing pairs; empty if complete.

    Raises ConfigError if the layout has no such split or contradicts itself, MissingFileError if
    the root does not exist or has no images or no labels of the split, and DataError if, where
    strict, an image or a label is unpaired, if either is in two folders, or if images or labels are
    missing and a zip file is broken.
    """

    def __init__(
        self, layout: Layout, split: str, root: Path, every: int = 1, is_strict: bool = True
    ):
        if split not in layout.splits:
            hint = did_you_mean(split, layout.splits)
            raise ConfigError(f"{layout.title} has no split {split!r}: {hint}")
        self.layout, self.split, self.files = layout, split, open_files(root)
        unpaired: list[str] = []
        pairs = sorted(self._find_pairs(unpaired))
        if unpaired and is_strict:
            raise DataError(unpaired[0])
        self.num_published = layout.splits[split].count
        self.shortfall = ""
        if len(pairs) < (self.num_published or 0):
            self.shortfall = (
                f"{len(pairs):,} of {self.num_published:,} published pairs are there: complete the "
                f"download{self.files.describe_broken()}"
            )
        super().__init__(
            [(image, label) for image, label, _ in pairs[::every]],
            [name for *_, name in pairs[::every]],
            make_reader(layout),
            layout.is_label_resized,
            unpaired,
        )

    def read(self, file: str) -> bytes:
        """Return the content of a file; raise DataError on failure."""
        return self.files.read(file)

    def where(self, file: str) -> str:
        """Return the path of a file, or ``zip: member``."""
        return self.files.where(file)

    def describe(self) -> str:
        """Return data set, split and root as a phrase."""
        return f"{self.layout.title}, split {self.split!r}, in {self.files.describe()}"

    def _find_pairs(self, unpaired: list[str]) -> list[tuple[str, str, str]]:
        """Return image, label and name of every pair; add messages about unpaired files."""
        split = self.layout.splits[self.split]
        image_template, images = self._find("images", list(map(Template, split.image_templates)))
        label_templates = [Template(t, image_template.patterns) for t in split.label_templates]
        for template in label_templates:
            unknown = template.patterns.keys() - image_template.patterns.keys()
            if unknown:
                raise ConfigError(
                    f"{self.layout.title}, split {self.split!r}: the template of labels has fields "
                    f"that the template of images lacks: {', '.join(sorted(unknown))}"
                )
        label_template, labels = self._find("labels", label_templates)
        fields = {path: match.fields for path, (_, match) in images.items()}
        label_of, unlabelled, unused = pair_by_fields(fields, labels, label_template)
        if unlabelled and split.spare != "images":
            files = [images[path][0] for path in unlabelled]
            unpaired.append(self._describe_unpaired("images without label", files))
        if unused and split.spare != "labels":
            files = [labels[path][0] for path in unused]
            unpaired.append(self._describe_unpaired("labels without image", files))
        names: dict[str, str] = {}
        pairs = []
        for path, label_path in label_of.items():
            image = images[path][0]
            name = path[len(image_template.folder) :].rpartition(".")[0].replace("/", "__")
            if name in names:
                raise DataError(
                    f"{self.where(names[name])} and {self.where(image)} have the same name but for "
                    "the ending or slashes: keep one of them"
                )
            names[name] = image
            pairs.append((image, labels[label_path][0], name))
        return pairs

    def _find(
        self, what: str, templates: Sequence[Template]
    ) -> tuple[Template, dict[str, tuple[str, Match]]]:
        """Return the first template with a match, and name and fields of its matches by path.

        Paths start below the folder that contains all of them.
        """
        for template in templates:
            matches = _match(template, self.files)
            if matches:
                break
        else:
            raise self._missing(what)
        by_path = {template.fill(match.fields): (name, match) for name, match in matches}
        above = sorted({match.above for _, match in matches})
        if len(set(map(self._find_root, above))) > 1 or len(by_path) < len(matches):
            raise DataError(
                f"{self.describe()}: {what} ({template.plain}) are in {len(above)} folders, such "
                f"as {self.files.root / above[0]} and {self.files.root / above[1]}: merge them if "
                "they are parts, else give one of them as root, or move the others away"
            )
        return template, by_path

    def _find_root(self, above: str) -> str:
        """Return the root of a tree, without a folder that has an archive's name."""
        stems = {_ARCHIVE_ENDING.sub("", name) for name in self.layout.archives}
        start, _, last = above.removesuffix("/").rpartition("/")
        return f"{start}/".removeprefix("/") if last in stems else above

    def _missing(self, what: str) -> DataError | MissingFileError:
        """Return the error that shows the expected tree and the actual one."""
        split = self.layout.splits[self.split]
        others = [name for name in find_splits(self.layout, self.files) if name != self.split]
        lines = [
            f"{self.files.describe()} has no {what} of {self.layout.title}, split {self.split!r}"
            f"{self.files.describe_broken()}",
            *describe_tree(split),
            "found in it:",
            *(f"  {line}" for line in _list_top(self.files)),
            *([f"other splits are there: {', '.join(others)}"] if others else []),
            f"give the folder of the expected tree as root, or get it from {self.layout.homepage}",
            *filter(None, [self.layout.describe_archives()]),
        ]
        return (DataError if self.files.broken else MissingFileError)("\n".join(lines))

    def _describe_unpaired(self, what: str, files: list[str]) -> str:
        return (
            f"{self.describe()}: {what} ({len(files)}): {list_some(sorted(files), _SHOWN)}; "
            f"complete the download, or move them away{self.files.describe_broken()}"
        )


def find_splits(layout: Layout, files: Files) -> list[str]:
    """Return the splits of a layout with images among the files; spare images need a label, too."""
    return [
        name
        for name, split in layout.splits.items()
        if _has(files, split.image_templates)
        and (split.spare != "images" or has_labels(split, files))
    ]


def has_labels(split: Split, files: Files) -> bool:
    """Whether a split has labels among the files."""
    return _has(files, split.label_templates)


def _has(files: Files, templates: Sequence[str]) -> bool:
    return any(_match(Template(text), files) for text in templates)


def make_reader(layout: Layout) -> LabelReader:
    """Return the reader of a layout's labels; raise ConfigError if they name an unknown class."""
    encoding, advice = layout.encoding, f"correct the file, or the labels of {layout.title}"
    not_drawn = NOT_DRAWN if isinstance(encoding, Polygons) else None
    train_ids = {label: t for label, t in encoding.train_ids.items() if t != not_drawn}
    check_train_ids(train_ids, layout.classes, f"layout {layout.title}")
    match encoding:
        case Ids():
            return IdLabels(encoding.train_ids, advice, is_first_channel=True)
        case Colours():
            return ColourLabels(encoding.train_ids, advice)
        case Polygons():
            return PolygonLabels(encoding.train_ids, advice)


def _match(template: Template, files: Files) -> list[tuple[str, Match]]:
    """Return name and fields of the files that match a template.

    If nothing matches, zip files count as unpacked into folders of their names.
    """
    for paths in (zip(files.names, files.names, strict=True), files.names_in_zip_folders().items()):
        matches = [(name, match) for path, name in paths if (match := template.match(path))]
        if matches:
            break
    return matches


def describe_tree(split: Split) -> list[str]:
    """Return lines with the expected files of a split."""
    lines = ["expected in it, below any folders, unpacked or in zip files:"]
    for templates in (split.image_templates, split.label_templates):
        lines.append(f"  {' or '.join(Template(text).plain for text in templates)}")
    return lines


def _list_top(files: Files) -> list[str]:
    """Return zip files and folders with their number of files, below the folder of all of them."""
    zips = [name for name in files.zips if name]
    above = "" if zips else os.path.commonprefix(files.names)  # noqa: RUF071  cut at a slash below
    start = above.rfind("/") + 1
    count = Counter(name[: name.find("/", start) + 1] or name for name in files.names)
    lines = [f"{name} (zip file)" for name in zips]
    for name, n in count.items():
        lines.append(f"{name} ({n} file{'s' * (n > 1)})" if name.endswith("/") else name)
    more = [f"... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [*lines[:_SHOWN], *more] or ["nothing"]
