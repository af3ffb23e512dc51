"""KITTI, semantics (Alhaija et al., IJCV 2018): Cityscapes' label ids."""

from causalseg.data.catalogue.cityscapes import CITYSCAPES_IDS
from causalseg.data.layouts import Ids, Layout, Split

_TRAIN = Split(r"training/image_2/{name:\d+_10}.png", "training/semantic/{name}.png", 200)
LAYOUTS = {
    "kitti": Layout(
        title="KITTI, semantics (Alhaija et al., IJCV 2018)",
        homepage="https://www.cvlibs.net/datasets/kitti/eval_semantics.php",
        license="CC BY-NC-SA 3.0",
        encoding=Ids(CITYSCAPES_IDS),
        splits={"train": _TRAIN},
        archives=("data_semantics.zip",),
        size=(375, 1242),
    )
}
