"""A2D2 (Geyer et al., 2020): 55 colours, some for further instances, of 38 classes.

The mapping to Cityscapes' 19 is ours: all driving surfaces are road, curbs are sidewalk; crash
barriers (sidebars), parking areas and unrecognisable things are ignored. A2D2 has no wall, terrain,
rider, bus or train; its nature is vegetation, its small vehicles are motorcycles.
"""

from causalseg.data.classes import CITYSCAPES19, IGNORE, Colour
from causalseg.data.layouts import Colours, Layout, Split

# class_list.json: name, colours, class of Cityscapes.
_LABELS: tuple[tuple[str, tuple[Colour, ...], str], ...] = (
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
_TRAIN_IDS = {
    colour: CITYSCAPES19.names.index(name) if name else IGNORE
    for _, colours, name in _LABELS
    for colour in colours
}
LAYOUTS = {
    "a2d2": Layout(
        title="A2D2, semantic segmentation (Geyer et al., 2020)",
        homepage="https://www.a2d2.audi",
        license="CC BY-ND 4.0",
        encoding=Colours(_TRAIN_IDS),
        splits={
            "all": Split(
                r"{scene:\d+_\d+}/camera/{camera}/{time}_camera_{view}_{frame}.png",
                "{scene}/label/{camera}/{time}_label_{view}_{frame}.png",
                41_277,
            )
        },
        archives=("camera_lidar_semantic.tar",),
        size=(1208, 1920),
    )
}
