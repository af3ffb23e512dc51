"""Mapillary Vistas 1.2 and 2.0 (Neuhold et al., ICCV 2017), in Cityscapes' 19 classes.

Vistas has no mapping of its own. Version 1.2 has the one that Rein and its successors use,
OpenSeg's: backs and frames of traffic signs are traffic signs, street lights are poles, curbs and
pedestrian areas are sidewalk, road markings and parking areas are road. (RobustNet's ignores most
of these and takes manholes as road.) Version 2.0 splits labels of 1.2: each part has the class of
the whole. Its new labels are ignored, except driveways, parking aisles and road shoulders (road),
traffic islands (sidewalk), garages (building), and groups of poles or persons.
"""

from causalseg.data.layouts import Ids, Layout, Split, number_labels

_LABELS_V1 = """
    Bird, Ground Animal, Curb = sidewalk, Fence = fence, Guard Rail, Barrier, Wall = wall,
    Bike Lane = road, Crosswalk - Plain = road, Curb Cut = sidewalk, Parking = road,
    Pedestrian Area = sidewalk, Rail Track, Road = road, Service Lane = road, Sidewalk = sidewalk,
    Bridge, Building = building, Tunnel, Person = person, Bicyclist = rider, Motorcyclist = rider,
    Other Rider = rider, Lane Marking - Crosswalk = road, Lane Marking - General = road, Mountain,
    Sand, Sky = sky, Snow, Terrain = terrain, Vegetation = vegetation, Water, Banner, Bench,
    Bike Rack, Billboard, Catch Basin, CCTV Camera, Fire Hydrant, Junction Box, Mailbox, Manhole,
    Phone Booth, Pothole, Street Light = pole, Pole = pole, Traffic Sign Frame = traffic sign,
    Utility Pole = pole, Traffic Light = traffic light, Traffic Sign (Back) = traffic sign,
    Traffic Sign (Front) = traffic sign, Trash Can, Bicycle = bicycle, Boat, Bus = bus, Car = car,
    Caravan, Motorcycle = motorcycle, On Rails = train, Other Vehicle, Trailer, Truck = truck,
    Wheeled Slow, Car Mount, Ego Vehicle, Unlabeled
"""
_LABELS_V2 = """
    Bird, Ground Animal, Ambiguous Barrier, Concrete Block, Curb = sidewalk, Fence = fence,
    Guard Rail, Barrier, Road Median, Road Side, Lane Separator, Temporary Barrier, Wall = wall,
    Bike Lane = road, Crosswalk - Plain = road, Curb Cut = sidewalk, Driveway = road,
    Parking = road, Parking Aisle = road, Pedestrian Area = sidewalk, Rail Track, Road = road,
    Road Shoulder = road, Service Lane = road, Sidewalk = sidewalk, Traffic Island = sidewalk,
    Bridge, Building = building, Garage = building, Tunnel, Person = person,
    Person Group = person, Bicyclist = rider, Motorcyclist = rider, Other Rider = rider,
    Lane Marking - Dashed Line = road, Lane Marking - Straight Line = road,
    Lane Marking - Zigzag Line = road, Lane Marking - Ambiguous = road,
    Lane Marking - Arrow (Left) = road, Lane Marking - Arrow (Other) = road,
    Lane Marking - Arrow (Right) = road, Lane Marking - Arrow (Split Left or Straight) = road,
    Lane Marking - Arrow (Split Right or Straight) = road, Lane Marking - Arrow (Straight) = road,
    Lane Marking - Crosswalk = road, Lane Marking - Give Way (Row) = road,
    Lane Marking - Give Way (Single) = road, Lane Marking - Hatched (Chevron) = road,
    Lane Marking - Hatched (Diagonal) = road, Lane Marking - Other = road,
    Lane Marking - Stop Line = road, Lane Marking - Symbol (Bicycle) = road,
    Lane Marking - Symbol (Other) = road, Lane Marking - Text = road,
    Lane Marking (only) - Dashed Line = road, Lane Marking (only) - Crosswalk = road,
    Lane Marking (only) - Other = road, Lane Marking (only) - Test = road, Mountain, Sand,
    Sky = sky, Snow, Terrain = terrain, Vegetation = vegetation, Water, Banner, Bench, Bike Rack,
    Catch Basin, CCTV Camera, Fire Hydrant, Junction Box, Mailbox, Manhole, Parking Meter,
    Phone Booth, Pothole, Signage - Advertisement, Signage - Ambiguous, Signage - Back,
    Signage - Information, Signage - Other, Signage - Store, Street Light = pole, Pole = pole,
    Pole Group = pole, Traffic Sign Frame = traffic sign, Utility Pole = pole, Traffic Cone,
    Traffic Light - General (Single) = traffic light, Traffic Light - Pedestrians = traffic light,
    Traffic Light - General (Upright) = traffic light,
    Traffic Light - General (Horizontal) = traffic light,
    Traffic Light - Cyclists = traffic light, Traffic Light - Other = traffic light,
    Traffic Sign - Ambiguous = traffic sign, Traffic Sign (Back) = traffic sign,
    Traffic Sign - Direction (Back) = traffic sign,
    Traffic Sign - Direction (Front) = traffic sign, Traffic Sign (Front) = traffic sign,
    Traffic Sign - Parking = traffic sign, Traffic Sign - Temporary (Back) = traffic sign,
    Traffic Sign - Temporary (Front) = traffic sign, Trash Can, Bicycle = bicycle, Boat,
    Bus = bus, Car = car, Caravan, Motorcycle = motorcycle, On Rails = train, Other Vehicle,
    Trailer, Truck = truck, Vehicle Group, Wheeled Slow, Water Valve, Car Mount, Dynamic,
    Ego Vehicle, Ground, Static, Unlabeled
"""


def _split(folder: str, labels: tuple[str, ...], count: int) -> Split:
    templates = tuple(f"{folder}/{each}/{{name}}.png" for each in labels)
    return Split(f"{folder}/images/{{name}}.jpg", templates, count)


def _layout(version: str, text: str, labels: tuple[str, ...], packages: tuple[str, ...]) -> Layout:
    return Layout(
        title=f"Mapillary Vistas {version} (Neuhold et al., ICCV 2017)",
        homepage="https://www.mapillary.com/dataset/vistas",
        license="CC BY-NC-SA 4.0",
        encoding=Ids(number_labels(text)),
        splits={
            "train": _split("training", labels, 18_000),
            "val": _split("validation", labels, 2000),
        },
        archives=tuple(f"mapillary-vistas-dataset_public_{each}.zip" for each in packages),
    )


LAYOUTS = {
    # The package of version 1.2 does not have the version in the paths of its labels.
    "mapillary_v1": _layout("1.2", _LABELS_V1, ("v1.2/labels", "labels"), ("v2.0", "v1.2")),
    "mapillary_v2": _layout("2.0", _LABELS_V2, ("v2.0/labels",), ("v2.0",)),
}
