"""What published labels mean, written independently of the catalogue: label -> train id."""

_ = 255
ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN = range(10)
SKY, PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = range(10, 19)


def by_class(count, text):
    """A table of ``count`` ids from the ids of each class in turn; all others are ignored."""
    table = dict.fromkeys(range(count), _)
    for train_id, ids in enumerate(text.split(",")):
        table |= dict.fromkeys(map(int, ids.split()), train_id)
    return table


def colours(text):
    return [tuple(bytes.fromhex(colour)) for colour in text.split(",")]


TRAIN_IDS = dict(enumerate(range(19))) | {255: _}
CITYSCAPES = by_class(
    34, "7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33"
)
# Cityscapes' id of each id.
SHIFT = (0, 11, 13, 0, 24, 17, 7, 7, 8, 21, 26, 12, 20, 23, 6, 15, 10, 14, 19, 4, 5, 0, 22)
MAPILLARY_V1 = """
    7 8 10 13 14 23 24, 2 9 11 15, 17, 6, 3, 44 45 47, 48, 46 49 50, 30, 29, 27, 19, 20 21 22, 55,
    61, 54, 58, 57, 52
"""
MAPILLARY_V2 = f"""
    13 14 16 17 18 21 22 23 {" ".join(map(str, range(35, 59)))}, 4 15 19 24 25, 27 28, 12, 5,
    84 85 86 88, 90 91 92 93 94 95, 87 96 97 98 99 100 101 102 103, 64, 63, 61, 30 31, 32 33 34,
    108, 114, 107, 111, 110, 105
"""
# csTrainId of IDD's devkit, in the order of train ids.
IDD_CLASSES = (
    "road,sidewalk,building,wall,fence,pole,traffic light,traffic sign,vegetation,"
    "non-drivable fallback,sky,person,rider,car,truck,bus,train,motorcycle,bicycle"
)
IDD_IGNORED = (
    "parking,drivable fallback,rail track,animal,autorickshaw,caravan,trailer,vehicle fallback,"
    "curb,guard rail,billboard,polegroup,obs-str-bar-fallback,bridge,tunnel,fallback background,"
    "unlabeled,ego vehicle,rectification border,out of roi,license plate,ground"
)
# Groups of things too close to separate count as the thing.
IDD_GROUPS = {"cargroup": CAR, "vehicle fallbackgroup": _}
# In the order of CamVid's label_colors.txt: Animal to Wall by name, Void among them.
CAMVID_COLOURS = colours(
    "408040, c00080, 0080c0, 008040, 800000, 400080, 4000c0, c08040, c0c080, 404080, 8000c0,"
    "c00040, 808040, c000c0, 804040, 40c080, 404000, 804080, 8080c0, 0000c0, c08080, 808080,"
    "4080c0, 000040, 004040, c04080, 808000, c080c0, 400040, c0c000, 000000, 40c000"
)
# Positions in that order, by class of Cityscapes.
CAMVID_AS19 = "10 11 17, 19, 4, 31, 9, 8, 24, 20, 26 29, , 21, 7 16, 2, 5 22, , , 25, 13,"
A2D2 = {
    CAR: "ff0000,c80000,960000,800000",
    BICYCLE: "b65906,963204,5a1e01,5a1e1e",
    PERSON: "cc99ff,bd499b,ef59bf",
    TRUCK: "ff8000,c88000,968000",
    MOTORCYCLE: "00ff00,00c800,009600",
    LIGHT: "0080ff,1e1c9e,3c1c64,212cb1",
    SIGN: "00ffff,1edcdc,3c9dc7",
    ROAD: "6e6e00,ffc125,d23273,960096,b432b4,eee9bf,c87dd2,8000ff,ff00ff",
    SIDEWALK: "808000,b496c8",
    POLE: "fff68f",
    FENCE: "eea2ad",
    VEGETATION: "93fdc2",
    SKY: "87ceff",
    BUILDING: "f1e6ff",
    _: "ffff00,ffffc8,e96400,400040,b97a57,000064,8b636c,ff0080,ccff99,ff46b9,9696c8,48d1cc,"
    "9f79ee,60458f,352e52",
}
TABLES = {
    **dict.fromkeys(
        ("bdd100k", "acdc", "dark_zurich", "nighttime_driving", "foggy_zurich"), TRAIN_IDS
    ),
    **dict.fromkeys(
        ("cityscapes", "kitti", "foggy_driving", "foggy_cityscapes", "rainy_cityscapes"), CITYSCAPES
    ),
    "gtav": CITYSCAPES | {34: _},
    "synthia": by_class(23, "3, 4, 2, 21, 5, 7, 15, 9, 6, 16, 1, 10, 17, 8, 18, 19, 20, 12, 11"),
    "urbansyn": dict(enumerate(range(19))) | {19: _},
    "mapillary_v1": by_class(66, MAPILLARY_V1),
    "mapillary_v2": by_class(124, MAPILLARY_V2),
    "wilddash2": CITYSCAPES | {34: TRUCK, 35: CAR, 36: _, 37: _, 38: ROAD},
    "shift": {index: CITYSCAPES[label_id] for index, label_id in enumerate(SHIFT)},
    "idd": {name: i for i, name in enumerate(IDD_CLASSES.split(","))}
    | dict.fromkeys(IDD_IGNORED.split(","), _),
    "idd_lite": dict(enumerate(range(7))) | {255: _},
    "camvid": dict(enumerate(range(11))) | {11: _},
    "camvid32": dict(zip(CAMVID_COLOURS, (*range(30), _, 30), strict=True)),
    "camvid32_as19": dict(zip(CAMVID_COLOURS, by_class(32, CAMVID_AS19).values(), strict=True)),
    "a2d2": {colour: train_id for train_id, text in A2D2.items() for colour in colours(text)},
}
