"""What the colours in published label files mean: CamVid with its 32 classes, and A2D2."""

from causalseg.data.classes import CAMVID11, CITYSCAPES19, IGNORE, ClassList, Colour
from causalseg.data.label_maps import train_ids

# CamVid (Brostow et al., 2008), label_colors.txt: name, colour, the class of the 11 as in SegNet
# (MathWorks' camvidPixelLabelIDs writes it out), the class of Cityscapes' 19. The last is ours: it
# goes through the 11 where they are one class of Cityscapes, and ignores what Cityscapes ignores
# (bridges, tunnels, parking) or tells apart (trucks and buses).
_CAMVID: tuple[tuple[str, Colour, str, str], ...] = (
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
_VOID = (0, 0, 0)
CAMVID32 = ClassList(
    names=tuple(name for name, *_ in _CAMVID), palette=tuple(colour for _, colour, *_ in _CAMVID)
)
CAMVID32_COLOURS = {colour: place for place, colour in enumerate(CAMVID32.palette)} | {
    _VOID: IGNORE
}
CAMVID32_TO_CAMVID11 = tuple(
    train_ids({name: eleven for name, _, eleven, _ in _CAMVID}, CAMVID11).values()
)
CAMVID32_TO_CITYSCAPES19 = tuple(
    train_ids({name: nineteen for name, _, _, nineteen in _CAMVID}, CITYSCAPES19).values()
)
CAMVID32_COLOURS_TO_CITYSCAPES19 = {
    **dict(zip(CAMVID32.palette, CAMVID32_TO_CITYSCAPES19, strict=True)),
    _VOID: IGNORE,
}

# A2D2 (Geyer et al., 2020), class_list.json: 55 colours, some of them for further instances, of 38
# classes. The map to Cityscapes' 19 is ours: what is driven on is road, curbs are sidewalk, crash
# barriers (sidebars), parking and what cannot be made out are ignored. A2D2 has no wall, terrain,
# rider, bus or train; its nature is vegetation, its small vehicles are motorcycles.
_A2D2: tuple[tuple[str, tuple[Colour, ...], str], ...] = (
    ("Car", ((255, 0, 0), (200, 0, 0), (150, 0, 0), (128, 0, 0)), "car"),
    ("Bicycle", ((182, 89, 6), (150, 50, 4), (90, 30, 1), (90, 30, 30)), "bicycle"),
    ("Pedestrian", ((204, 153, 255), (189, 73, 155), (239, 89, 191)), "person"),
    ("Truck", ((255, 128, 0), (200, 128, 0), (150, 128, 0)), "truck"),
    ("Small vehicles", ((0, 255, 0), (0, 200, 0), (0, 150, 0)), "motorcycle"),
    ("Traffic signal", ((0, 128, 255), (30, 28, 158), (60, 28, 100)), "traffic light"),
    ("Traffic sign", ((0, 255, 255), (30, 220, 220), (60, 157, 199)), "traffic sign"),
    ("Utility vehicle", ((255, 255, 0), (255, 255, 200)), ""),
    ("Sidebars", ((233, 100, 0),), ""),
    ("Speed bumper", ((110, 110, 0),), "road"),
    ("Curbstone", ((128, 128, 0),), "sidewalk"),
    ("Solid line", ((255, 193, 37),), "road"),
    ("Irrelevant signs", ((64, 0, 64),), ""),
    ("Road blocks", ((185, 122, 87),), ""),
    ("Tractor", ((0, 0, 100),), ""),
    ("Non-drivable street", ((139, 99, 108),), ""),
    ("Zebra crossing", ((210, 50, 115),), "road"),
    ("Obstacles / trash", ((255, 0, 128),), ""),
    ("Poles", ((255, 246, 143),), "pole"),
    ("RD restricted area", ((150, 0, 150),), "road"),
    ("Animals", ((204, 255, 153),), ""),
    ("Grid structure", ((238, 162, 173),), "fence"),
    ("Signal corpus", ((33, 44, 177),), "traffic light"),
    ("Drivable cobblestone", ((180, 50, 180),), "road"),
    ("Electronic traffic", ((255, 70, 185),), ""),
    ("Slow drive area", ((238, 233, 191),), "road"),
    ("Nature object", ((147, 253, 194),), "vegetation"),
    ("Parking area", ((150, 150, 200),), ""),
    ("Sidewalk", ((180, 150, 200),), "sidewalk"),
    ("Ego car", ((72, 209, 204),), ""),
    ("Painted driv. instr.", ((200, 125, 210),), "road"),
    ("Traffic guide obj.", ((159, 121, 238),), ""),
    ("Dashed line", ((128, 0, 255),), "road"),
    ("RD normal street", ((255, 0, 255),), "road"),
    ("Sky", ((135, 206, 255),), "sky"),
    ("Buildings", ((241, 230, 255),), "building"),
    ("Blurred area", ((96, 69, 143),), ""),
    ("Rain dirt", ((53, 46, 82),), ""),
)
A2D2_COLOURS = train_ids({colour: name for _, colours, name in _A2D2 for colour in colours})
