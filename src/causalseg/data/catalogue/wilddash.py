"""WildDash 2 (Zendel et al., CVPR 2022): Cityscapes' ids and five more.

Mapped by its unified label policy (wilddash_scripts, wd2_unified_label_policy.json). The release of
2022, wd_public_v2p0.zip, has panoptic labels only and is not read.
"""

from causalseg.data.catalogue.cityscapes import CITYSCAPES_LABELS
from causalseg.data.layouts import Ids, Layout, Split, number_labels

_MORE_LABELS = "pickup-truck = truck, van = car, billboard, street-light, road-marking = road"
LAYOUTS = {
    "wilddash2": Layout(
        title="WildDash 2 (Zendel et al., CVPR 2022)",
        homepage="https://wilddash.cc",
        license="own terms: research, not commercial",
        encoding=Ids(number_labels(f"{CITYSCAPES_LABELS}, {_MORE_LABELS}")),
        splits={"all": Split("images/{name}.jpg", "labels/{name}.png", 4256)},
        archives=("wd_public_02.zip",),
        size=(1080, 1920),
    )
}
