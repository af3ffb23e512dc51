"""What the numbers in published label files mean: label id -> Cityscapes train id.

Tables are written as the publisher names the labels, in the order of their ids, with the name of
the class that each counts as; an empty name is ignored.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

from causalseg.data.classes import CITYSCAPES19, IGNORE, ClassList

Label = TypeVar("Label", bound=Hashable)


def train_ids(labels: Mapping[Label, str], classes: ClassList = CITYSCAPES19) -> dict[Label, int]:
    """Return the train id of every label from the name of its class; an empty name is ignored."""
    places = {"": IGNORE} | {name: place for place, name in enumerate(classes.names)}
    return {label: places[name] for label, name in labels.items()}


def numbered(labels: Mapping[str, str], classes: ClassList = CITYSCAPES19) -> dict[int, int]:
    """Return the train id of every label id, where the ids count the labels from 0."""
    return dict(enumerate(train_ids(labels, classes).values()))


def without_change(ids: Iterable[int], ignored: Iterable[int] = (IGNORE,)) -> dict[int, int]:
    """Return the table of files that hold train ids already."""
    return {index: index for index in ids} | dict.fromkeys(ignored, IGNORE)


# Cordts et al., CVPR 2016; cityscapesScripts, labels.py. The 35th label, license plate, has id -1
# and is never drawn.
_CITYSCAPES = {
    "unlabeled": "",
    "ego vehicle": "",
    "rectification border": "",
    "out of roi": "",
    "static": "",
    "dynamic": "",
    "ground": "",
    "road": "road",
    "sidewalk": "sidewalk",
    "parking": "",
    "rail track": "",
    "building": "building",
    "wall": "wall",
    "fence": "fence",
    "guard rail": "",
    "bridge": "",
    "tunnel": "",
    "pole": "pole",
    "polegroup": "",
    "traffic light": "traffic light",
    "traffic sign": "traffic sign",
    "vegetation": "vegetation",
    "terrain": "terrain",
    "sky": "sky",
    "person": "person",
    "rider": "rider",
    "car": "car",
    "truck": "truck",
    "bus": "bus",
    "caravan": "",
    "trailer": "",
    "train": "train",
    "motorcycle": "motorcycle",
    "bicycle": "bicycle",
}
CITYSCAPES_IDS = numbered(_CITYSCAPES)
# Playing for Data (Richter et al., ECCV 2016): Cityscapes' ids, license plate is 34.
GTAV_IDS = numbered(_CITYSCAPES | {"license plate": ""})
# Files named *_labelTrainIds.png, and the masks of BDD100K.
CITYSCAPES_TRAIN_IDS = without_change(range(19))
# UrbanSyn (Gómez et al., 2023), data card: Cityscapes' train ids, 19 is unlabelled.
URBANSYN_IDS = without_change(range(19), ignored=(19,))
# SYNTHIA-RAND-CITYSCAPES (Ros et al., CVPR 2016), README of the release; to the 19 classes as
# DAFormer, HRDA and MIC have it. Terrain, truck and train do not occur: 16 classes remain.
SYNTHIA_IDS = numbered(
    {
        "void": "",
        "sky": "sky",
        "building": "building",
        "road": "road",
        "sidewalk": "sidewalk",
        "fence": "fence",
        "vegetation": "vegetation",
        "pole": "pole",
        "car": "car",
        "traffic sign": "traffic sign",
        "pedestrian": "person",
        "bicycle": "bicycle",
        "motorcycle": "motorcycle",
        "parking slot": "",
        "road work": "",
        "traffic light": "traffic light",
        "terrain": "terrain",
        "rider": "rider",
        "truck": "truck",
        "bus": "bus",
        "train": "train",
        "wall": "wall",
        "lane marking": "",
    }
)
# WildDash 2 (Zendel et al., CVPR 2022): Cityscapes' ids and five more; to the 19 classes as its
# unified label policy has it (wilddash_scripts, wd2_unified_label_policy.json).
WILDDASH2_IDS = numbered(
    _CITYSCAPES
    | {
        "pickup-truck": "truck",
        "van": "car",
        "billboard": "",
        "street-light": "",
        "road-marking": "road",
    }
)
# SHIFT (Sun et al., CVPR 2022): CARLA's ids; to Cityscapes as its web page has it. Its vehicles are
# of all kinds, its pedestrians ride as well.
SHIFT_IDS = numbered(
    {
        "unlabeled": "",
        "building": "building",
        "fence": "fence",
        "other": "",
        "pedestrian": "person",
        "pole": "pole",
        "road line": "road",
        "road": "road",
        "sidewalk": "sidewalk",
        "vegetation": "vegetation",
        "vehicle": "car",
        "wall": "wall",
        "traffic sign": "traffic sign",
        "sky": "sky",
        "ground": "",
        "bridge": "",
        "rail track": "",
        "guard rail": "",
        "traffic light": "traffic light",
        "static": "",
        "dynamic": "",
        "water": "",
        "terrain": "terrain",
    }
)
# IDD (Varma et al., WACV 2019); to the 19 classes by the csTrainId of its devkit, anue_labels.py.
IDD_LABELS = train_ids(
    {
        "road": "road",
        "parking": "",
        "drivable fallback": "",
        "sidewalk": "sidewalk",
        "rail track": "",
        "non-drivable fallback": "terrain",
        "person": "person",
        "animal": "",
        "rider": "rider",
        "motorcycle": "motorcycle",
        "bicycle": "bicycle",
        "autorickshaw": "",
        "car": "car",
        "truck": "truck",
        "bus": "bus",
        "caravan": "",
        "trailer": "",
        "train": "train",
        "vehicle fallback": "",
        "curb": "",
        "wall": "wall",
        "fence": "fence",
        "guard rail": "",
        "billboard": "",
        "traffic sign": "traffic sign",
        "traffic light": "traffic light",
        "pole": "pole",
        "polegroup": "",
        "obs-str-bar-fallback": "",
        "building": "building",
        "bridge": "",
        "tunnel": "",
        "vegetation": "vegetation",
        "sky": "sky",
        "fallback background": "",
        "unlabeled": "",
        "ego vehicle": "",
        "rectification border": "",
        "out of roi": "",
        "license plate": "",
        "ground": "",  # in published files, not in the devkit
    }
)

# Level 1 of IDD's label tree, the classes of IDD-Lite; each has the colour of its first label.
IDD7 = ClassList(
    names=(
        "drivable",
        "non-drivable",
        "living-thing",
        "vehicle",
        "roadside-object",
        "far-object",
        "sky",
    ),
    palette=(
        (128, 64, 128),
        (244, 35, 232),
        (220, 20, 60),
        (0, 0, 230),
        (220, 190, 40),
        (70, 70, 70),
        (70, 130, 180),
    ),
)
