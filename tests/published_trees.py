"""Trees of the published data sets in small: example files, named as their publishers name them.

Written from the publishers' documents and devkits, apart from the catalogue that is tested. Paths
are those after unpacking: the image, then its label.
"""

CITYSCAPES = (
    (
        "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png",
        "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png",
    ),
    (
        "leftImg8bit/train/bochum/bochum_000000_000313_leftImg8bit.png",
        "gtFine/train/bochum/bochum_000000_000313_gtFine_labelIds.png",
    ),
    (
        "leftImg8bit/val/frankfurt/frankfurt_000000_000294_leftImg8bit.png",
        "gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png",
    ),
)
A2D2 = "20180807_145028/{0}/cam_front_center/20180807145028_{0}_frontcenter_000001617.png"
SHIFT = "discrete/images/{0}/front/{1}/{2}/00000000_{1}_front.{3}"
RAIN = "rain_alpha_{}_beta_{}_dropsize_{}_pattern_1"


def _acdc(weather, split, frame, ref=""):
    place = f"{weather}/{split}{ref}/{frame.partition('_')[0]}/{frame}"
    return f"rgb_anon/{place}_rgb{ref}_anon.png", f"gt/{place}_gt{ref}_labelTrainIds.png"


def _camvid(name):
    return f"701_StillsRaw_full/{name}.png", f"LabeledApproved_full/{name}_L.png"


def _shift(split, sequence):
    return SHIFT.format(split, "img", sequence, "jpg"), SHIFT.format(
        split, "semseg", sequence, "png"
    )


_CAMVID_FRAMES = (
    ("train", "0001TP", "0001TP_006690"),
    ("train", "0001TP", "0001TP_008520"),
    ("train", "0006R0", "0006R0_f00930"),
    ("train", "0016E5", "0016E5_00390"),
    ("train", "0016E5", "0016E5_00901"),
    ("train", "0016E5", "0016E5_07920"),
    ("train", "0016E5", "0016E5_08190"),
    ("val", "0016E5", "0016E5_07959"),
    ("val", "0016E5", "0016E5_08001"),
    ("val", "0016E5", "0016E5_08159"),
    ("test", "0001TP", "0001TP_008550"),
    ("test", "0001TP", "0001TP_010380"),
    ("test", "Seq05VD", "Seq05VD_f00000"),
)
_CAMVID32 = {
    split: [_camvid(name) for *splits, name in _CAMVID_FRAMES if split in splits]
    for split in ("train", "val", "test", "0001TP", "0006R0", "0016E5", "Seq05VD")
}
_MAPILLARY = {
    "train": "training/{}/__CRyFzoDOXn6unQ6a3DnQ.{}",
    "val": "validation/{}/_1Gn_xkw7sa_i9GU4mkxxQ.{}",
}
_ACDC = {
    weather: {
        "train": [_acdc(weather, "train", train)],
        "val": [_acdc(weather, "val", val)],
    }
    for weather, train, val in (
        ("fog", "GOPR0475_frame_000041", "GOPR0476_frame_000854"),
        ("night", "GOPR0351_frame_000159", "GOPR0356_frame_000324"),
        ("rain", "GOPR0400_frame_000233", "GOPR0402_frame_000140"),
        ("snow", "GOPR0122_frame_000161", "GOPR0604_frame_000001"),
    )
}

# Layout -> split -> pairs.
PAIRS = {
    "cityscapes": {"train": CITYSCAPES[:2], "val": CITYSCAPES[2:]},
    "gtav": {"train": [(f"images/{n}.png", f"labels/{n}.png") for n in ("00001", "24966")]},
    "synthia": {
        "train": [
            (f"RAND_CITYSCAPES/RGB/{n}.png", f"RAND_CITYSCAPES/GT/LABELS/{n}.png")
            for n in ("0000000", "0009399")
        ]
    },
    "urbansyn": {"train": [("rgb/rgb_0001.png", "ss/ss_0001.png")]},
    "bdd100k": {
        split: [
            (f"bdd100k/images/10k/{split}/{n}.jpg", f"bdd100k/labels/sem_seg/masks/{split}/{n}.png")
        ]
        for split, n in (("train", "0004a4c0-d4dff0ad"), ("val", "7d06fefd-f7be05a6"))
    },
    "mapillary_v1": {
        s: [(p.format("images", "jpg"), p.format("v1.2/labels", "png"))]
        for s, p in _MAPILLARY.items()
    },
    "mapillary_v2": {
        s: [(p.format("images", "jpg"), p.format("v2.0/labels", "png"))]
        for s, p in _MAPILLARY.items()
    },
    "acdc": {
        **{f"{weather}_{s}": pairs for weather, of in _ACDC.items() for s, pairs in of.items()},
        **{s: [pair for of in _ACDC.values() for pair in of[s]] for s in ("train", "val")},
        "train_ref": [_acdc("fog", "train", "GOPR0475_frame_000041", "_ref")],
        "val_ref": [_acdc("snow", "val", "GOPR0604_frame_000001", "_ref")],
    },
    "dark_zurich": {
        "val": [
            (
                "rgb_anon/val/night/GOPR0356/GOPR0356_frame_000321_rgb_anon.png",
                "gt/val/night/GOPR0356/GOPR0356_frame_000321_gt_labelTrainIds.png",
            )
        ]
    },
    "nighttime_driving": {
        "test": [
            (
                f"NighttimeDrivingTest/leftImg8bit/test/night/{n}_leftImg8bit.png",
                "NighttimeDrivingTest/gtCoarse_daytime_trainvaltest/test/night/"
                f"{n}_gtCoarse_labelTrainIds.png",
            )
            for n in ("0_frame_0075", "01_frame_0555")
        ]
    },
    "foggy_zurich": {
        "test": [
            (
                "Foggy_Zurich/RGB/GOPR0475/frame000247.png",
                "Foggy_Zurich/gt_labelTrainIds/GOPR0475/frame000247.png",
            )
        ]
    },
    "foggy_driving": {
        split: [
            (
                f"Foggy_Driving/leftImg8bit/{split}/{n.partition('_')[0]}/{n}_leftImg8bit.png",
                f"Foggy_Driving/{gt}/{split}/{n.partition('_')[0]}/{n}_{gt}_labelIds.png",
            )
            for n in names
        ]
        for split, gt, names in (
            ("test", "gtFine", ("pedestrian_20161201_101324", "public_20161213_083206")),
            ("test_extra", "gtCoarse", ("web_8050286343_fb56b08ce7",)),
        )
    },
    "foggy_cityscapes": {
        f"{split}_{beta}": [
            (
                image.replace("leftImg8bit/", "leftImg8bit_foggy/").replace(
                    ".png", f"_foggy_beta_{beta}.png"
                ),
                label,
            )
            for image, label in CITYSCAPES
            if f"/{split}/" in image
        ]
        for split in ("train", "val")
        for beta in ("0.005", "0.01", "0.02")
    },
    "rainy_cityscapes": {
        split: [
            (
                image.replace("leftImg8bit/", "leftImg8bit_rain/").replace(
                    ".png", f"_{RAIN.format(*rain)}.png"
                ),
                label,
            )
            for image, label in CITYSCAPES
            if f"/{split}/" in image
            for rain in ((0.01, 0.005, 0.01), (0.02, 0.01, 0.005), (0.03, 0.015, 0.002))
        ]
        for split in ("train", "val")
    },
    "wilddash2": {
        "all": [("images/ae0005_100000.jpg", "labels/ae0005_100000.png")],
    },
    "idd": {
        split: [
            (
                f"{part}/leftImg8bit/{folder}/{frame}_leftImg8bit.{ending}",
                f"{part}/gtFine/{folder}/{frame}_gtFine_polygons.json",
            )
        ]
        for split, part, folder, frame, ending in (
            ("train", "IDD_Segmentation", "train/0", "005506", "png"),
            ("val", "IDD_Segmentation", "val/119", "903127", "png"),
            ("train_2", "idd20kII", "train/201", "frame0029", "jpg"),
            ("val_2", "idd20kII", "val/259", "frame0014", "jpg"),
        )
    },
    "idd_lite": {
        split: [
            (
                f"idd20k_lite/leftImg8bit/{split}/{frame}_image.jpg",
                f"idd20k_lite/gtFine/{split}/{frame}_label.png",
            )
        ]
        for split, frame in (("train", "0/024541"), ("val", "119/903127"))
    },
    "kitti": {
        "train": [
            (f"training/image_2/{n}.png", f"training/semantic/{n}.png")
            for n in ("000000_10", "000199_10")
        ]
    },
    "camvid": {
        split: [(f"CamVid/{split}/{n}.png", f"CamVid/{split}annot/{n}.png")]
        for split, n in (
            ("train", "0001TP_006690"),
            ("val", "0016E5_07959"),
            ("test", "Seq05VD_f00000"),
        )
    },
    "camvid32": _CAMVID32,
    "camvid32_as19": _CAMVID32,
    "a2d2": {
        "all": [tuple(f"camera_lidar_semantic/{A2D2.format(what)}" for what in ("camera", "label"))]
    },
    "shift": {"train": [_shift("train", "0003-17fb")], "val": [_shift("val", "007b-4e72")]},
}
# What else the publishers' trees hold: other kinds of labels, images without labels.
OTHERS = {
    "cityscapes": [
        "gtFine/train/aachen/aachen_000000_000019_gtFine_color.png",
        "leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png",
        "README",
    ],
    "synthia": ["RAND_CITYSCAPES/GT/COLOR/0000000.png"],
    "acdc": [
        "gt/fog/val/GOPR0476/GOPR0476_frame_000854_gt_labelIds.png",
        _acdc("night", "train", "GOPR0351_frame_000159", "_ref")[0],
    ],
    "foggy_zurich": ["Foggy_Zurich/RGB/GOPR0229/frame000001.png"],
    "rainy_cityscapes": ["gtFine/train/aachen/aachen_000173_000019_gtFine_labelIds.png"],
    "wilddash2": ["panoptic/ae0005_100000.png", "panoptic.json"],
    "idd_lite": ["idd20k_lite/gtFine/train/0/024541_inst_label.png"],
    "kitti": ["testing/image_2/000000_10.png", "training/semantic_rgb/000000_10.png"],
    "a2d2": [f"camera_lidar_semantic/{A2D2.format('camera')}".replace(".png", ".json")],
}
# Layout -> zip file -> what lies in it, and what is cut off the paths in it.
ZIPS = {
    "cityscapes": {
        "leftImg8bit_trainvaltest.zip": ("leftImg8bit/", ""),
        "gtFine_trainvaltest.zip": ("gtFine/", ""),
    },
    "gtav": {
        **{f"{n:02}_images.zip": (f"images/{m}", "") for n, m in ((1, "0"), (10, "2"))},
        **{f"{n:02}_labels.zip": (f"labels/{m}", "") for n, m in ((1, "0"), (10, "2"))},
    },
    "bdd100k": {
        **{
            f"10k_images_{split}.zip": (f"bdd100k/images/10k/{split}/", "")
            for split in ("train", "val")
        },
        "bdd100k_sem_seg_labels_trainval.zip": ("bdd100k/labels/", ""),
    },
    "mapillary_v1": {"mapillary-vistas-dataset_public_v2.0.zip": ("", "")},
    "acdc": {
        "rgb_anon_trainvaltest.zip": ("rgb_anon/", ""),
        "gt_trainval.zip": ("gt/", ""),
    },
    "kitti": {"data_semantics.zip": ("", "")},
    "camvid32": {
        "701_StillsRaw_full.zip": ("701_StillsRaw_full/", ""),
        "LabeledApproved_full.zip": ("LabeledApproved_full/", "LabeledApproved_full/"),
    },
    "shift": {
        f"discrete/images/{split}/front/{group}.zip": (
            f"discrete/images/{split}/front/{group}/",
            f"discrete/images/{split}/front/{group}/",
        )
        for split in ("train", "val")
        for group in ("img", "semseg")
    },
}
