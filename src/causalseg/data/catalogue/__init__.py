"""Published data sets, one family a file: trees, splits, counts and labels as published.

Only splits whose labels can be downloaded are here; a set without published splits has ``train`` if
papers train on it, else ``all``. Counts are the publishers'.
"""

from collections.abc import Mapping

from causalseg.data.catalogue import (
    a2d2,
    acdc,
    bdd100k,
    camvid,
    cityscapes,
    gtav,
    idd,
    kitti,
    mapillary,
    shift,
    synthia,
    urbansyn,
    wilddash,
    zurich,
)
from causalseg.data.classes import CITYSCAPES19, ClassList
from causalseg.data.layouts import Layout
from causalseg.errors import ConfigError, did_you_mean

LAYOUTS: Mapping[str, Layout] = (
    cityscapes.LAYOUTS
    | gtav.LAYOUTS
    | synthia.LAYOUTS
    | urbansyn.LAYOUTS
    | bdd100k.LAYOUTS
    | mapillary.LAYOUTS
    | acdc.LAYOUTS
    | zurich.LAYOUTS
    | wilddash.LAYOUTS
    | idd.LAYOUTS
    | kitti.LAYOUTS
    | camvid.LAYOUTS
    | a2d2.LAYOUTS
    | shift.LAYOUTS
)
CLASS_LISTS: Mapping[str, ClassList] = {
    "cityscapes19": CITYSCAPES19,
    "camvid11": camvid.CAMVID11,
    "camvid32": camvid.CAMVID32,
    "idd7": idd.IDD7,
}
# From one class list to another: for each class of the first the class of the second, 255 for none.
MAPPINGS: Mapping[tuple[str, str], Mapping[str, int]] = camvid.MAPPINGS | idd.MAPPINGS


def find_layout(name: str) -> Layout:
    """Return a layout by name; raise ConfigError if it is unknown."""
    if name not in LAYOUTS:
        raise ConfigError(f"layout = {name!r}: {did_you_mean(name, LAYOUTS)}")
    return LAYOUTS[name]


def map_classes(classes: ClassList, onto: ClassList) -> tuple[int, ...]:
    """Return each class's class in another list, 255 for none; ConfigError without a mapping."""
    if classes.names == onto.names:
        return tuple(range(len(onto.names)))
    known = {each.names: name for name, each in CLASS_LISTS.items()}
    first, second = (known.get(each.names, ", ".join(each.names)) for each in (classes, onto))
    if (first, second) not in MAPPINGS:
        pairs = ", ".join(f"{a} to {b}" for a, b in MAPPINGS)
        raise ConfigError(
            f"no mapping from the classes {first} to {second}: allowed are {pairs}; choose other "
            "data or classes"
        )
    return tuple(MAPPINGS[first, second].values())
