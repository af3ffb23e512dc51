"""SYNTHIA-RAND-CITYSCAPES (Ros et al., CVPR 2016): the README's ids, mapped as by DAFormer and MIC.

Terrain, truck and train do not occur: 16 of the 19 classes remain.
"""

from causalseg.data.layouts import Ids, Layout, Split, number_labels

_LABELS = """
    void, sky = sky, building = building, road = road, sidewalk = sidewalk, fence = fence,
    vegetation = vegetation, pole = pole, car = car, traffic sign = traffic sign,
    pedestrian = person, bicycle = bicycle, motorcycle = motorcycle, parking slot, road work,
    traffic light = traffic light, terrain = terrain, rider = rider, truck = truck, bus = bus,
    train = train, wall = wall, lane marking
"""
LAYOUTS = {
    "synthia": Layout(
        title="SYNTHIA-RAND-CITYSCAPES (Ros et al., CVPR 2016)",
        homepage="https://synthia-dataset.net",
        license="CC BY-NC-SA 3.0",
        encoding=Ids(number_labels(_LABELS)),
        splits={"train": Split(r"RGB/{name:\d+}.png", r"GT/LABELS/{name:\d+}.png", 9400)},
        archives=("SYNTHIA_RAND_CITYSCAPES.rar",),
        size=(760, 1280),
    )
}
