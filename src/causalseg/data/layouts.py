r"""What a published data set looks like, as data: the paths of its pairs and what labels contain.

A template is a path below the data set's root, with fields in braces: ``{city}`` is any text
without a slash, ``{name:0001TP_\d+}`` matches the regular expression. The fields of an
image's path fill in the path of its label, which need not use all of them:

    leftImg8bit/val/{city}/{name}_leftImg8bit.png
    gtFine/val/{city}/{name}_gtFine_labelIds.png

A zip file counts as unpacked into its folder or, if nothing matches, into a folder of its name:
the bare files in ``LabeledApproved_full.zip`` are ``LabeledApproved_full/{name}_L.png``.
Conversely, archives may have been unpacked each into a folder of its name:
``01_images/images/{name}.png`` counts as ``images/{name}.png``.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from causalseg.data.classes import CITYSCAPES19, IGNORE, ClassList, Colour
from causalseg.data.templates import Template


def read_labels(text: str, classes: ClassList = CITYSCAPES19) -> dict[str, int]:
    """Read ``label = class, label = class, label``: label -> train id, 255 without a class."""
    rows = (row.partition("=") for row in text.split(","))
    train_ids = {name: i for i, name in enumerate(classes.names)} | {"": IGNORE}
    return {label.strip(): train_ids[name.strip()] for label, _, name in rows}


def number_labels(text: str) -> dict[int, int]:
    """Read labels in the order of their ids, from 0: label id -> train id of Cityscapes."""
    return dict(enumerate(read_labels(text).values()))


def keep_train_ids(count: int, ignored: int = IGNORE) -> dict[int, int]:
    """Return the table of label files that hold train ids, and one id for no class."""
    return {index: index for index in range(count)} | {ignored: IGNORE}


@dataclass(frozen=True)
class Split:
    """The image and label pairs of one split.

    Attributes:
        images: template of the images; of several, the first one with a match is used.
        labels: template of the labels, likewise; its fields are among those of ``images``.
        count: number of pairs as published; None where sources differ.
        spare: "images" without a label, or "labels" without an image, are part of what is published
            and skipped; otherwise either is an error.
    """

    images: str | tuple[str, ...]
    labels: str | tuple[str, ...]
    count: int | None = None
    spare: Literal["", "images", "labels"] = ""

    @property
    def image_templates(self) -> tuple[str, ...]:
        """The templates of the images, in the order in which they are tried."""
        return (self.images,) if isinstance(self.images, str) else self.images

    @property
    def label_templates(self) -> tuple[str, ...]:
        """The templates of the labels, in the order in which they are tried."""
        return (self.labels,) if isinstance(self.labels, str) else self.labels

    def repeat(self, **counts: int | None) -> dict[str, "Split"]:
        """Return splits by name, each with its count, and its name for ``<split>`` in templates."""
        splits = {}
        for name, count in counts.items():
            images = tuple(text.replace("<split>", name) for text in self.image_templates)
            labels = tuple(text.replace("<split>", name) for text in self.label_templates)
            splits[name] = replace(self, images=images, labels=labels, count=count)
        return splits


@dataclass(frozen=True)
class Ids:
    """Labels are images whose first channel holds ids, of 8 or 16 bit, or a palette."""

    train_ids: Mapping[int, int]  # 255 to ignore; another id in a file is an error


@dataclass(frozen=True)
class Colours:
    """Labels are RGB images, one colour for each class."""

    train_ids: Mapping[Colour, int]  # 255 to ignore; another colour in a file is an error


@dataclass(frozen=True)
class Polygons:
    """Labels are JSON files in Cityscapes' form: ``imgHeight``, ``imgWidth`` and ``objects``.

    Each object has a ``label`` and a ``polygon`` of (x, y) pixels; later ones cover earlier ones.
    Pixels in no polygon are ignored.
    """

    # 255 to ignore, -1 not to draw it (as Cityscapes' license plate); another label in a file is an
    # error, unless it is one of these and ``group``.
    train_ids: Mapping[str, int]


@dataclass(frozen=True)
class Layout:
    """A data set as its publisher lays it out.

    Attributes:
        title: the data set's name, with its paper.
        homepage: where to get it.
        license: under what terms, in a few words.
        encoding: what its label files hold.
        splits: by name, such as ``train`` and ``val``.
        classes: the classes of the train ids.
        archives: names of the published archives with the pairs; zip files need not be unpacked.
        size: usual height and width of its images, in pixels; None where they vary.
        is_label_resized: resize labels of another size than their image's, see `PairData`.
    """

    title: str
    homepage: str
    license: str
    encoding: Ids | Colours | Polygons
    splits: Mapping[str, Split]
    classes: ClassList = CITYSCAPES19
    archives: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    is_label_resized: bool = False

    def describe(self, name: str) -> str:
        """Return name, source and expected files as lines of text.

        Fields show their regular expression where splits differ by nothing else.
        """
        lines = [f"{name}: {self.title}", f"{self.homepage} ({self.license})"]
        lines += filter(None, [self.describe_archives()])
        if self.size:
            lines.append(f"usual image size {self.size[1]} x {self.size[0]} px")
        images = {name: [*map(Template, s.image_templates)] for name, s in self.splits.items()}
        plain = Counter(each.plain for templates in images.values() for each in templates)
        for name, split in self.splits.items():
            count = "" if split.count is None else f" {split.count:,} pairs"
            shown = [each.plain if plain[each.plain] == 1 else each.text for each in images[name]]
            lines += [
                f"  {name}:{count}",
                f"    {' or '.join(shown)}",
                f"    {' or '.join(Template(text).plain for text in split.label_templates)}",
            ]
        return "\n".join(lines)

    def describe_short(self, name: str) -> str:
        """Return name, splits and homepage as a line of text."""
        splits = ", ".join(
            split if part.count is None else f"{split} {part.count:,}"
            for split, part in self.splits.items()
        )
        return f"{name}: {splits}; {self.homepage}"

    def describe_archives(self) -> str:
        """Return the published archives, and what to do with them; empty if none are known."""
        zips = [name for name in self.archives if name.endswith(".zip")]
        others = [name for name in self.archives if name not in zips]
        parts = [f"{', '.join(zips)}: zip files are read as they are, or unpacked"] if zips else []
        parts += [f"{', '.join(others)}: unpack it first"] if others else []
        return f"published as {'; '.join(parts)}" if parts else ""
