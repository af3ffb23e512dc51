"""Cityscapes (Cordts et al., CVPR 2016), and its images under synthetic fog and rain."""

from causalseg.data.layouts import Ids, Layout, Split, number_labels

_HOMEPAGE = "https://www.cityscapes-dataset.com"
_TERMS = "own terms: research, not commercial"
# cityscapesScripts, labels.py. The 35th label, license plate, has the id -1 and is never drawn.
CITYSCAPES_LABELS = """
    unlabeled, ego vehicle, rectification border, out of roi, static, dynamic, ground,
    road = road, sidewalk = sidewalk, parking, rail track, building = building, wall = wall,
    fence = fence, guard rail, bridge, tunnel, pole = pole, polegroup,
    traffic light = traffic light, traffic sign = traffic sign, vegetation = vegetation,
    terrain = terrain, sky = sky, person = person, rider = rider, car = car, truck = truck,
    bus = bus, caravan, trailer, train = train, motorcycle = motorcycle, bicycle = bicycle
"""
CITYSCAPES_IDS = number_labels(CITYSCAPES_LABELS)


def _split(split: str, count: int, images: str = "leftImg8bit", ending: str = "") -> Split:
    """The fine labels of a split, with its images or with images made from them."""
    return Split(
        f"{images}/{split}/{{city}}/{{name}}_leftImg8bit{ending}.png",
        f"gtFine/{split}/{{city}}/{{name}}_gtFine_labelIds.png",
        count,
        spare="labels" if "{" in ending else "",
    )


LAYOUTS = {
    "cityscapes": Layout(
        title="Cityscapes, fine (Cordts et al., CVPR 2016)",
        homepage=_HOMEPAGE,
        license=_TERMS,
        encoding=Ids(CITYSCAPES_IDS),
        splits={"train": _split("train", 2975), "val": _split("val", 500)},
        archives=("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"),
        size=(1024, 2048),
    ),
    "foggy_cityscapes": Layout(
        title="Foggy Cityscapes (Sakaridis et al., IJCV 2018)",
        homepage=_HOMEPAGE,
        license=_TERMS,
        encoding=Ids(CITYSCAPES_IDS),
        # By the attenuation of the fog, in 1/m.
        splits={
            f"{split}_{beta}": _split(split, count, "leftImg8bit_foggy", f"_foggy_beta_{beta}")
            for split, count in {"train": 2975, "val": 500}.items()
            for beta in ("0.005", "0.01", "0.02")
        },
        archives=("leftImg8bit_trainvaltest_foggy.zip", "gtFine_trainvaltest.zip"),
        size=(1024, 2048),
    ),
    "rainy_cityscapes": Layout(
        title="RainCityscapes (Hu et al., CVPR 2019)",
        homepage=_HOMEPAGE,
        license=_TERMS,
        encoding=Ids(CITYSCAPES_IDS),
        # 262 and 33 images of Cityscapes, each with 36 kinds of rain.
        splits={
            split: _split(split, count, "leftImg8bit_rain", "_rain_{rain}")
            for split, count in {"train": 9432, "val": 1188}.items()
        },
        archives=("leftImg8bit_trainval_rain.zip", "gtFine_trainvaltest.zip"),
        size=(1024, 2048),
    ),
}
