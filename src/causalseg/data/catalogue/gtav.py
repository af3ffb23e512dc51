"""GTAV, or GTA5 (Richter et al., ECCV 2016): Cityscapes' label ids, license plate is 34.

The split is all images, as papers on domain generalization train on, not the one of ``split.mat``.
"""

from causalseg.data.catalogue.cityscapes import CITYSCAPES_LABELS
from causalseg.data.layouts import Ids, Layout, Split, number_labels

_PARTS = range(1, 11)
LAYOUTS = {
    "gtav": Layout(
        title="GTAV, Playing for Data (Richter et al., ECCV 2016)",
        homepage="https://download.visinf.tu-darmstadt.de/data/from_games/",
        license="own terms: research and education",
        encoding=Ids(number_labels(f"{CITYSCAPES_LABELS}, license plate")),
        # Only digits: converters write 00001_labelTrainIds.png beside 00001.png.
        splits={"train": Split(r"images/{name:\d+}.png", r"labels/{name:\d+}.png", 24_966)},
        archives=tuple(f"{i:02}_{kind}.zip" for kind in ("images", "labels") for i in _PARTS),
        size=(1052, 1914),
        is_label_resized=True,
    )
}
