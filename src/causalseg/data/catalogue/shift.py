"""SHIFT (Sun et al., CVPR 2022): CARLA's ids, mapped as on its web page.

All vehicles are cars; riders are pedestrians.
"""

from causalseg.data.layouts import Ids, Layout, Split, number_labels

_LABELS = """
    unlabeled, building = building, fence = fence, other, pedestrian = person, pole = pole,
    road line = road, road = road, sidewalk = sidewalk, vegetation = vegetation, vehicle = car,
    wall = wall, traffic sign = traffic sign, sky = sky, ground, bridge, rail track, guard rail,
    traffic light = traffic light, static, dynamic, water, terrain = terrain
"""
_SPLITS = Split(
    "discrete/images/<split>/front/img/{sequence}/{frame}_img_front.jpg",
    "discrete/images/<split>/front/semseg/{sequence}/{frame}_semseg_front.png",
)
LAYOUTS = {
    "shift": Layout(
        title="SHIFT, discrete, front view (Sun et al., CVPR 2022)",
        homepage="https://www.vis.xyz/shift/",
        license="CC BY-NC-SA 4.0",
        encoding=Ids(number_labels(_LABELS)),
        splits=_SPLITS.repeat(train=None, val=None),
        archives=("img.zip", "semseg.zip"),
        size=(800, 1280),
    )
}
