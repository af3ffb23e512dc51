"""Small test sets of ETH Zurich: Dark Zurich, Nighttime Driving, Foggy Zurich and Foggy Driving."""

from causalseg.data.catalogue.cityscapes import CITYSCAPES_IDS
from causalseg.data.layouts import Ids, Layout, Split, keep_train_ids

_TERMS = "own terms: not commercial"


def _foggy_driving(split: str, labels: str, count: int) -> Split:
    return Split(
        f"leftImg8bit/{split}/{{record}}/{{frame}}_leftImg8bit.png",
        f"{labels}/{split}/{{record}}/{{frame}}_{labels}_labelIds.png",
        count,
    )


LAYOUTS = {
    "dark_zurich": Layout(
        title="Dark Zurich (Sakaridis et al., ICCV 2019)",
        homepage="https://www.trace.ethz.ch/publications/2019/GCMA_UIoU",
        license=_TERMS,
        encoding=Ids(keep_train_ids(19)),
        splits={
            "val": Split(
                "rgb_anon/val/night/{sequence}/{frame}_rgb_anon.png",
                "gt/val/night/{sequence}/{frame}_gt_labelTrainIds.png",
                50,
            )
        },
        archives=("Dark_Zurich_val_anon.zip",),
        size=(1080, 1920),
    ),
    "nighttime_driving": Layout(
        title="Nighttime Driving (Dai and Van Gool, ITSC 2018)",
        homepage="http://people.ee.ethz.ch/~daid/NightDriving/",
        license="none stated",
        encoding=Ids(keep_train_ids(19)),
        splits={
            "test": Split(
                "leftImg8bit/test/night/{frame}_leftImg8bit.png",
                "gtCoarse_daytime_trainvaltest/test/night/{frame}_gtCoarse_labelTrainIds.png",
                50,
            )
        },
        archives=("NighttimeDrivingTest.zip",),
        size=(1080, 1920),
    ),
    "foggy_zurich": Layout(
        title="Foggy Zurich (Sakaridis et al., ECCV 2018)",
        homepage="https://people.ee.ethz.ch/~csakarid/Model_adaptation_SFSU_dense/",
        license=_TERMS,
        encoding=Ids(keep_train_ids(19)),
        # testv2: those of the 3808 images that have labels.
        splits={
            "test": Split(
                "RGB/{sequence}/{frame}.png",
                "gt_labelTrainIds/{sequence}/{frame}.png",
                40,
                spare="images",
            )
        },
        size=(1080, 1920),
    ),
    "foggy_driving": Layout(
        title="Foggy Driving (Sakaridis et al., IJCV 2018)",
        homepage="https://people.ee.ethz.ch/~csakarid/SFSU_synthetic/",
        license=_TERMS,
        encoding=Ids(CITYSCAPES_IDS),
        # Fine and coarse labels; papers report all 101 images.
        splits={
            "test": _foggy_driving("test", "gtFine", 33),
            "test_extra": _foggy_driving("test_extra", "gtCoarse", 68),
        },
    ),
}
