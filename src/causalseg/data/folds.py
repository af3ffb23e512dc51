"""From one list of classes to another: a model of 19 classes is scored on data with 7, 11 or 31.

A fold is a table: for each class of a list the class of another list that it counts as, 255 for
none. To the coarser of two lists all classes go; back goes one that is one class of the finer.
"""

from collections.abc import Mapping

from causalseg.data.classes import CAMVID11, CITYSCAPES19, IGNORE, ClassList
from causalseg.data.label_maps import IDD7
from causalseg.data.label_maps_colours import (
    CAMVID32,
    CAMVID32_TO_CAMVID11,
    CAMVID32_TO_CITYSCAPES19,
)
from causalseg.errors import ConfigError

CLASS_LISTS: Mapping[str, ClassList] = {
    "cityscapes19": CITYSCAPES19,
    "camvid11": CAMVID11,
    "camvid32": CAMVID32,
    "idd7": IDD7,
}
FOLDS: Mapping[tuple[str, str], tuple[int, ...]] = {
    # CamVid's 11: walls are building, terrain is tree, traffic lights are sign_symbol, a cycle is
    # of its bicyclist, whatever has four wheels or more is a car. Back goes each to the class that
    # most of it is.
    ("cityscapes19", "camvid11"): (3, 4, 1, 1, 7, 2, 6, 6, 5, 5, 0, 9, 10, 8, 8, 8, 8, 10, 10),
    ("camvid11", "cityscapes19"): (10, 2, 5, 0, 1, 8, 7, 4, 13, 11, 12),
    # Level 1 of IDD's label tree (its devkit's anue_labels.py). Back go only drivable and sky.
    ("cityscapes19", "idd7"): (0, 1, 5, 4, 4, 4, 4, 4, 5, 1, 6, 2, 2, 3, 3, 3, 3, 3, 3),
    ("idd7", "cityscapes19"): (0, IGNORE, IGNORE, IGNORE, IGNORE, IGNORE, 10),
    ("camvid11", "idd7"): (6, 5, 4, 0, 1, 5, 4, 4, 3, 2, 2),
    ("camvid32", "camvid11"): CAMVID32_TO_CAMVID11,
    ("camvid32", "cityscapes19"): CAMVID32_TO_CITYSCAPES19,
}


def fold_classes(classes: ClassList, onto: ClassList) -> tuple[int, ...]:
    """Return for each class which one of another class list it counts as, 255 for none.

    Raises:
        ConfigError: if there is no such map.
    """
    if classes.names == onto.names:
        return tuple(range(len(onto.names)))
    known = {each.names: name for name, each in CLASS_LISTS.items()}
    have, want = (known.get(each.names, ", ".join(each.names)) for each in (classes, onto))
    if (have, want) in FOLDS:
        return FOLDS[have, want]
    raise ConfigError(
        f"no map from the classes {have} to {want}: allowed are "
        f"{', '.join(f'{a} to {b}' for a, b in FOLDS)}. Choose other data or classes"
    )
