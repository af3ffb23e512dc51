"""Class lists: the names, colours and file ids of the classes of a data set.

A *train id* is the position of a class in ``names`` (0..k-1), as in predictions and label arrays. A
*label id* is the number in the label file. ``IGNORE`` (255) marks pixels of no class.
"""

import codecs
import colorsys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field, StrictInt, ValidationError

from causalseg.config.block import Block
from causalseg.errors import DataError, MissingFileError

IGNORE = 255
_GOLDEN_ANGLE = 0.381966  # of a full turn: consecutive hues never come close

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class ClassList:
    """The classes of a data set, in train-id order.

    Attributes:
        names: one name for each class, all different; at most 255 of them.
        palette: one colour for each class, each channel 0..255; generated if empty.
        ids: label id of each class in the files; 0..k-1 if empty.
        ignore: label ids that mean "no class".
        ignore_colours: colours that mean "no class", in labels of colours.
        has_palette: whether the palette was given.

    Raises DataError if lengths differ, a name or an id is repeated, or a value is out of range.
    """

    names: tuple[str, ...]
    palette: tuple[Colour, ...] = ()
    ids: tuple[int, ...] = ()
    ignore: tuple[int, ...] = (IGNORE,)
    ignore_colours: tuple[Colour, ...] = ()
    has_palette: bool = field(default=True, init=False, compare=False)

    def __post_init__(self) -> None:
        count = len(self.names)
        if not self.palette:
            object.__setattr__(self, "has_palette", False)
            object.__setattr__(self, "palette", distinct_colours(count))
        if not self.ids:
            object.__setattr__(self, "ids", tuple(range(count)))
        if not 1 <= count <= IGNORE:
            raise DataError(f"a class list needs 1 to {IGNORE} names, this one has {count}")
        for key, values in (("palette", self.palette), ("ids", self.ids)):
            if len(values) != count:
                given = f"class list with {count} names but {len(values)} entries in '{key}'"
                raise DataError(f"{given}: give one for each name")
        for what, entries in (("name", self.names), ("label id", self.ids)):
            twice = [repr(entry) for entry, times in Counter(entries).items() if times > 1]
            if twice:
                raise DataError(f"class list with a {what} more than once: {', '.join(twice)}")
        for both in sorted(set(self.ids) & set(self.ignore)):
            raise DataError(f"label id {both} is both a class and ignored: drop one of them")
        for name, colour in zip(self.names, self.palette, strict=True):
            if len(colour) != 3 or not all(0 <= channel <= 255 for channel in colour):
                raise DataError(f"colour {colour} of class '{name}' is not three numbers in 0..255")
        for label in (*self.ids, *self.ignore):
            if not 0 <= label < 2**16:
                raise DataError(f"label id {label} is out of range: allowed are 0..65535")


def distinct_colours(count: int) -> tuple[Colour, ...]:
    """Return ``count`` different colours: hue by the golden angle, brightness 100, 75 and 50 %.

    A class keeps its colour when others are added after it.
    """
    colours = []
    for index in range(count):
        hue, value = (index * _GOLDEN_ANGLE) % 1.0, 1.0 - 0.25 * (index % 3)
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, value)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return tuple(colours)


class _ClassesFile(Block, extra="ignore"):
    names: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    palette: list[Colour] | None = None
    ignore_ids: tuple[StrictInt, ...] = (IGNORE,)


def read_classes(path: Path) -> ClassList:
    """Read a ``classes.json``: ``names``, and optionally ``palette`` and ``ignore_ids``.

    The label id of a name is its position in ``names``. Names in ``ignore_ids`` (255 by default)
    are no class, and their colours mean no class. Other keys are not read. Raises MissingFileError
    if there is no file, DataError if it is no such JSON object or the classes are inconsistent.
    """
    if not path.is_file():
        raise MissingFileError(f"no class list {path}: give the path of a classes.json")
    try:
        file = _ClassesFile.model_validate_json(path.read_bytes().removeprefix(codecs.BOM_UTF8))
        ids = range(len(file.names))
        if file.palette is not None and len(file.palette) != len(ids):
            raise DataError(f"'palette' must have one colour for each of {len(ids)} names")
        colours = dict(zip(ids, file.palette or (), strict=False))
        classes = [index for index in ids if index not in file.ignore_ids]
        return ClassList(
            tuple(file.names[index] for index in classes),
            tuple(colours[index] for index in classes if colours),
            tuple(classes),
            file.ignore_ids,
            tuple(colour for index, colour in colours.items() if index not in classes),
        )
    except ValidationError as error:
        places = [(".".join(map(str, each["loc"])), each["msg"]) for each in error.errors()]
        mistakes = "; ".join(f"{place or 'content'}: {message}" for place, message in places)
        raise DataError(f"{path}: {mistakes}") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


# The 19 classes of Cityscapes (Cordts et al., CVPR 2016) in the order of their train ids.
_CITYSCAPES = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
CITYSCAPES19 = ClassList(
    tuple(_CITYSCAPES), tuple(_CITYSCAPES.values()), ignore_colours=((0, 0, 0),)
)
