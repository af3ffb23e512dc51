"""IDD (Varma et al., WACV 2019) and IDD-Lite (Mishra et al., NCVPRIPG 2019)."""

from causalseg.data.classes import ClassList
from causalseg.data.layouts import Ids, Layout, Polygons, Split, keep_train_ids, read_labels

_HOMEPAGE = "https://idd.insaan.iiit.ac.in"
_TERMS = "own terms: research, not commercial"
# csTrainId of the devkit, anue_labels.py; ground is in published files, not in the devkit.
_LABELS = """
    road = road, parking, drivable fallback, sidewalk = sidewalk, rail track,
    non-drivable fallback = terrain, person = person, animal, rider = rider,
    motorcycle = motorcycle, bicycle = bicycle, autorickshaw, car = car, truck = truck, bus = bus,
    caravan, trailer, train = train, vehicle fallback, curb, wall = wall, fence = fence,
    guard rail, billboard, traffic sign = traffic sign, traffic light = traffic light,
    pole = pole, polegroup, obs-str-bar-fallback, building = building, bridge, tunnel,
    vegetation = vegetation, sky = sky, fallback background, unlabeled, ego vehicle,
    rectification border, out of roi, license plate, ground
"""
# Level 1 of the label tree, the classes of IDD-Lite; each has the colour of its first label.
_COLOURS = {
    "drivable": (128, 64, 128),
    "non-drivable": (244, 35, 232),
    "living-thing": (220, 20, 60),
    "vehicle": (0, 0, 230),
    "roadside-object": (220, 190, 40),
    "far-object": (70, 70, 70),
    "sky": (70, 130, 180),
}
IDD7 = ClassList(tuple(_COLOURS), tuple(_COLOURS.values()))
# Of IDD-Lite's classes only drivable and sky are a class of Cityscapes.
_CITYSCAPES_TO_IDD7 = """
    road = drivable, sidewalk = non-drivable, building = far-object, wall = roadside-object,
    fence = roadside-object, pole = roadside-object, traffic light = roadside-object,
    traffic sign = roadside-object, vegetation = far-object, terrain = non-drivable, sky = sky,
    person = living-thing, rider = living-thing, car = vehicle, truck = vehicle, bus = vehicle,
    train = vehicle, motorcycle = vehicle, bicycle = vehicle
"""
_IDD7_TO_CITYSCAPES = """
    drivable = road, non-drivable, living-thing, vehicle, roadside-object, far-object, sky = sky
"""
_CAMVID_TO_IDD7 = """
    sky = sky, building = far-object, pole = roadside-object, road = drivable,
    pavement = non-drivable, tree = far-object, sign_symbol = roadside-object,
    fence = roadside-object, car = vehicle, pedestrian = living-thing, bicyclist = living-thing
"""
MAPPINGS = {
    ("cityscapes19", "idd7"): read_labels(_CITYSCAPES_TO_IDD7, IDD7),
    ("idd7", "cityscapes19"): read_labels(_IDD7_TO_CITYSCAPES),
    ("camvid11", "idd7"): read_labels(_CAMVID_TO_IDD7, IDD7),
}


def _idd(part: str, split: str, ending: str, count: int) -> Split:
    return Split(
        f"{part}/leftImg8bit/{split}/{{drive}}/{{frame}}_leftImg8bit.{ending}",
        f"{part}/gtFine/{split}/{{drive}}/{{frame}}_gtFine_polygons.json",
        count,
    )


_LITE = Split(
    "leftImg8bit/<split>/{drive}/{frame:[^/_]+}_image.jpg",
    "gtFine/<split>/{drive}/{frame}_label.png",
)
LAYOUTS = {
    "idd": Layout(
        title="IDD, segmentation, parts I and II (Varma et al., WACV 2019)",
        homepage=_HOMEPAGE,
        license=_TERMS,
        encoding=Polygons(read_labels(_LABELS)),
        # Papers report part I.
        splits={
            "train": _idd("IDD_Segmentation", "train", "png", 6993),
            "val": _idd("IDD_Segmentation", "val", "png", 981),
            "train_2": _idd("idd20kII", "train", "jpg", 7034),
            "val_2": _idd("idd20kII", "val", "jpg", 1055),
        },
        archives=("idd-segmentation.tar.gz", "idd-20k-II.tar.gz"),
        size=(1080, 1920),
    ),
    "idd_lite": Layout(
        title="IDD-Lite (Mishra et al., NCVPRIPG 2019)",
        homepage=_HOMEPAGE,
        license=_TERMS,
        encoding=Ids(keep_train_ids(7)),
        splits=_LITE.repeat(train=1403, val=204),
        classes=IDD7,
        archives=("idd-lite.tar.gz",),
        size=(227, 320),
    ),
}
