"""Class lists: the names, colours and file ids of the classes of a data set.

A *train id* is the place of a class in ``names`` (0..k-1): what the model predicts and what a label
array holds. A *label id* is the number in the mask file. ``IGNORE`` (255) marks pixels of no class.
"""

import colorsys
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from causalseg.errors import DataError, MissingFileError

IGNORE = 255
_GOLDEN_ANGLE = 0.381966  # of a full turn: consecutive hues never come close

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class ClassList:
    """The classes of a data set, in train-id order.

    Attributes:
        names: One name for each class, all different; at most 255 of them.
        palette: One colour for each class, each channel 0..255; left empty: made up.
        ids: Label id in the mask file of each class; left empty: 0..k-1.
        ignore: Label ids that mean "no class".
        ignore_colours: Colours that mean "no class", in labels that are coloured pictures.
        has_palette: Whether the colours were given; if not, they are `distinct_colours`.

    Raises:
        DataError: If lengths differ, a name or an id comes twice, or a number is out of range.
    """

    names: tuple[str, ...]
    palette: tuple[Colour, ...] = ()
    ids: tuple[int, ...] = ()
    ignore: tuple[int, ...] = (IGNORE,)
    ignore_colours: tuple[Colour, ...] = ()
    has_palette: bool = field(default=True, init=False, compare=False)

    def __post_init__(self) -> None:
        if not self.palette:
            object.__setattr__(self, "has_palette", False)
            object.__setattr__(self, "palette", distinct_colours(len(self.names)))
        if not self.ids:
            object.__setattr__(self, "ids", tuple(range(len(self.names))))
        if not 1 <= len(self.names) <= IGNORE:
            raise DataError(
                f"a class list needs 1 to {IGNORE} names, this one has {len(self.names)}"
            )
        for key, values in (("palette", self.palette), ("ids", self.ids)):
            if len(values) != len(self.names):
                raise DataError(
                    f"class list with {len(self.names)} names but {len(values)} entries in "
                    f"'{key}': give one for each name"
                )
        _refuse_twice("name", self.names)
        _refuse_twice("label id", self.ids)
        for both in sorted(set(self.ids) & set(self.ignore)):
            raise DataError(f"label id {both} is both a class and ignored: keep it in one place")
        for name, colour in zip(self.names, self.palette, strict=True):
            if len(colour) != 3 or not all(0 <= channel <= 255 for channel in colour):
                raise DataError(f"colour {colour} of class '{name}' is not three numbers in 0..255")
        for label in (*self.ids, *self.ignore):
            if not 0 <= label < 2**16:
                raise DataError(f"label id {label} cannot be in a mask file: 0..65535 are possible")


def _refuse_twice(what: str, values: tuple[str, ...] | tuple[int, ...]) -> None:
    twice = [repr(value) for value, count in Counter(values).items() if count > 1]
    if twice:
        raise DataError(f"class list with a {what} more than once: {', '.join(twice)}")


def distinct_colours(count: int) -> tuple[Colour, ...]:
    """Return ``count`` different colours: hue by the golden angle, brightness 100, 75 and 50 %.

    The brightness changes with every class, so that neighbours differ in both; the rule does not
    depend on ``count``: a class keeps its colour when others are added after it.
    """
    colours = []
    for index in range(count):
        hue, value = (index * _GOLDEN_ANGLE) % 1.0, 1.0 - 0.25 * (index % 3)
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, value)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return tuple(colours)


def read_classes(path: Path) -> ClassList:
    """Read a ``classes.json``: ``names``, and if wanted ``palette`` and ``ignore_ids``.

    The label id of a name is its place in ``names``. A name whose id is in ``ignore_ids`` is no
    class, and its colour means no class. Without ``palette`` the colours are `distinct_colours`;
    without ``ignore_ids`` only 255 is ignored. Other keys are not read.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it is not such a JSON object or the classes are inconsistent.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file; it should name the classes, see 'your data'")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not UTF-8
        raise DataError(f"{path}: not readable as JSON: {error}") from error
    try:
        if not isinstance(content, dict):
            raise DataError('the top level is not an object like {"names": [...]}')
        names = _strings(content.get("names"))
        ignored = _integers("ignore_ids", content.get("ignore_ids", [IGNORE]))
        rows = content.get("palette")
        if rows is not None and not (isinstance(rows, list) and len(rows) == len(names)):
            raise DataError(
                f"'palette' must be a list of one colour for each of {len(names)} names"
            )
        kept = tuple(index for index in range(len(names)) if index not in ignored)
        colours = [_colour(*pair) for pair in zip(names, rows or [], strict=False)]
        return ClassList(
            tuple(names[index] for index in kept),
            tuple(colours[index] for index in kept) if colours else (),
            kept,
            ignored,
            tuple(colour for index, colour in enumerate(colours) if index not in kept),
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _strings(value: object) -> tuple[str, ...]:
    if isinstance(value, list) and value and all(isinstance(item, str) and item for item in value):
        return tuple(value)
    raise DataError("'names' must be a list of class names")


def _integers(key: str, value: object) -> tuple[int, ...]:
    if isinstance(value, list) and all(type(item) is int for item in value):
        return tuple(value)
    raise DataError(f"'{key}' must be a list of whole numbers, got {value!r}")


def _colour(name: str, value: object) -> Colour:
    channels = _integers(f"palette of {name}", value)
    if len(channels) != 3:
        raise DataError(f"the colour of class '{name}' is not three numbers: {value!r}")
    return (channels[0], channels[1], channels[2])


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
