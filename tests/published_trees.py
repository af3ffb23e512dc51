"""Small trees of the published data sets: example files with the names that publishers give them.

Written from the publishers' documents and devkits, independently of the catalogue. Paths are those
after unpacking.
"""


def tree(image, label, splits):
    """Pairs of each split, from the words of each file name that fill in both paths."""
    rows = {split: [row.split() for row in text.split(",")] for split, text in splits.items()}
    return {
        split: [(image.format(*words), label.format(*words)) for words in names]
        for split, names in rows.items()
    }


CITYSCAPES = {
    "train": "train aachen 000000_000019, train bochum 000000_000313",
    "val": "val frankfurt 000000_000294",
}
CITYSCAPES_LABEL = "gtFine/{0}/{1}/{1}_{2}_gtFine_labelIds.png"
RAINS = ("0.01_beta_0.005_dropsize_0.01", "0.02_beta_0.01_dropsize_0.005")
ACDC = {
    "fog_train": "fog train GOPR0475 000041",
    "night_train": "night train GOPR0351 000159",
    "rain_train": "rain train GOPR0400 000233",
    "snow_train": "snow train GOPR0122 000161",
    "fog_val": "fog val GOPR0476 000854",
    "night_val": "night val GOPR0356 000324",
    "rain_val": "rain val GOPR0402 000140",
    "snow_val": "snow val GOPR0604 000001",
}
ACDC_REF = "rgb_anon/{0}/{1}_ref/{2}/{2}_frame_{3}_rgb_ref_anon.png"
# SegNet's splits, and the sequences that their frames belong to.
CAMVID32 = {
    "train": "0001TP_006690, 0001TP_008520, 0006R0_f00930, 0016E5_00390, 0016E5_00901,"
    "0016E5_07920, 0016E5_08190",
    "val": "0016E5_07959, 0016E5_08001, 0016E5_08159",
    "test": "0001TP_008550, 0001TP_010380, Seq05VD_f00000",
}
CAMVID_FRAMES = [name.strip() for names in CAMVID32.values() for name in names.split(",")]
CAMVID32 |= {
    sequence: ",".join(name for name in CAMVID_FRAMES if name.startswith(sequence))
    for sequence in ("0001TP", "0006R0", "0016E5", "Seq05VD")
}
MAPILLARY = {"train": "training __CRyFzoDOXn6unQ6a3DnQ", "val": "validation _1Gn_xkw7sa_i9GU4mkxxQ"}
A2D2 = "camera_lidar_semantic/20180807_145028/{0}/cam_front_center/20180807145028_{0}_frontcenter_"
SHIFT = "discrete/images/{0}/front/"

# Layout -> split -> pairs of image and label.
PAIRS = {
    "cityscapes": tree("leftImg8bit/{0}/{1}/{1}_{2}_leftImg8bit.png", CITYSCAPES_LABEL, CITYSCAPES),
    "gtav": tree("images/{}.png", "labels/{}.png", {"train": "00001, 24966"}),
    "synthia": tree(
        "RAND_CITYSCAPES/RGB/{}.png",
        "RAND_CITYSCAPES/GT/LABELS/{}.png",
        {"train": "0000000, 0009399"},
    ),
    "urbansyn": tree("rgb/rgb_{}.png", "ss/ss_{}.png", {"train": "0001"}),
    "bdd100k": tree(
        "bdd100k/images/10k/{0}/{1}.jpg",
        "bdd100k/labels/sem_seg/masks/{0}/{1}.png",
        {"train": "train 0004a4c0-d4dff0ad", "val": "val 7d06fefd-f7be05a6"},
    ),
    "mapillary_v1": tree("{0}/images/{1}.jpg", "{0}/v1.2/labels/{1}.png", MAPILLARY),
    "mapillary_v2": tree("{0}/images/{1}.jpg", "{0}/v2.0/labels/{1}.png", MAPILLARY),
    "acdc": tree(
        "rgb_anon/{0}/{1}/{2}/{2}_frame_{3}_rgb_anon.png",
        "gt/{0}/{1}/{2}/{2}_frame_{3}_gt_labelTrainIds.png",
        ACDC
        | {
            split: ",".join(names for name, names in ACDC.items() if name.endswith(split))
            for split in ("train", "val")
        },
    )
    | tree(
        ACDC_REF,
        "gt/{0}/{1}_ref/{2}/{2}_frame_{3}_gt_ref_labelTrainIds.png",
        {"train_ref": ACDC["fog_train"], "val_ref": ACDC["snow_val"]},
    ),
    "dark_zurich": tree(
        "rgb_anon/val/night/GOPR0356/GOPR0356_frame_{}_rgb_anon.png",
        "gt/val/night/GOPR0356/GOPR0356_frame_{}_gt_labelTrainIds.png",
        {"val": "000321"},
    ),
    "nighttime_driving": tree(
        "NighttimeDrivingTest/leftImg8bit/test/night/{}_leftImg8bit.png",
        "NighttimeDrivingTest/gtCoarse_daytime_trainvaltest/test/night/{}_gtCoarse_labelTrainIds.png",
        {"test": "0_frame_0075, 01_frame_0555"},
    ),
    "foggy_zurich": tree(
        "Foggy_Zurich/RGB/GOPR0475/{}.png",
        "Foggy_Zurich/gt_labelTrainIds/GOPR0475/{}.png",
        {"test": "frame000247"},
    ),
    "foggy_driving": tree(
        "Foggy_Driving/leftImg8bit/{0}/{2}/{2}_{3}_leftImg8bit.png",
        "Foggy_Driving/{1}/{0}/{2}/{2}_{3}_{1}_labelIds.png",
        {
            "test": "test gtFine pedestrian 20161201_101324, test gtFine public 20161213_083206",
            "test_extra": "test_extra gtCoarse web 8050286343_fb56b08ce7",
        },
    ),
    "foggy_cityscapes": {
        f"{split}_{beta}": pairs
        for beta in ("0.005", "0.01", "0.02")
        for split, pairs in tree(
            f"leftImg8bit_foggy/{{0}}/{{1}}/{{1}}_{{2}}_leftImg8bit_foggy_beta_{beta}.png",
            CITYSCAPES_LABEL,
            CITYSCAPES,
        ).items()
    },
    "rainy_cityscapes": tree(
        "leftImg8bit_rain/{0}/{1}/{1}_{2}_leftImg8bit_rain_alpha_{3}_pattern_1.png",
        CITYSCAPES_LABEL,
        {
            split: ",".join(f"{name} {rain}" for name in names.split(",") for rain in RAINS)
            for split, names in CITYSCAPES.items()
        },
    ),
    "wilddash2": tree("images/{}.jpg", "labels/{}.png", {"all": "ae0005_100000"}),
    "idd": tree(
        "{0}/leftImg8bit/{1}/{2}_leftImg8bit.{3}",
        "{0}/gtFine/{1}/{2}_gtFine_polygons.json",
        {
            "train": "IDD_Segmentation train/0 005506 png",
            "val": "IDD_Segmentation val/119 903127 png",
            "train_2": "idd20kII train/201 frame0029 jpg",
            "val_2": "idd20kII val/259 frame0014 jpg",
        },
    ),
    "idd_lite": tree(
        "idd20k_lite/leftImg8bit/{}_image.jpg",
        "idd20k_lite/gtFine/{}_label.png",
        {"train": "train/0/024541", "val": "val/119/903127"},
    ),
    "kitti": tree(
        "training/image_2/{}.png", "training/semantic/{}.png", {"train": "000000_10, 000199_10"}
    ),
    "camvid": tree(
        "CamVid/{0}/{1}.png",
        "CamVid/{0}annot/{1}.png",
        {"train": "train 0001TP_006690", "val": "val 0016E5_07959", "test": "test Seq05VD_f00000"},
    ),
    "camvid32": tree("701_StillsRaw_full/{}.png", "LabeledApproved_full/{}_L.png", CAMVID32),
    "a2d2": {"all": [tuple(f"{A2D2.format(kind)}000001617.png" for kind in ("camera", "label"))]},
    "shift": tree(
        f"{SHIFT}img/{{1}}/00000000_img_front.jpg",
        f"{SHIFT}semseg/{{1}}/00000000_semseg_front.png",
        {"train": "train 0003-17fb", "val": "val 007b-4e72"},
    ),
}
PAIRS["camvid32_as19"] = PAIRS["camvid32"]
# Other files of the publishers' trees: other kinds of labels, images without labels.
OTHERS = {
    "cityscapes": [
        "gtFine/train/aachen/aachen_000000_000019_gtFine_color.png",
        "leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png",
        "README",
    ],
    "synthia": ["RAND_CITYSCAPES/GT/COLOR/0000000.png"],
    "acdc": [
        "gt/fog/val/GOPR0476/GOPR0476_frame_000854_gt_labelIds.png",
        ACDC_REF.format("night", "train", "GOPR0351", "000159"),
    ],
    "foggy_zurich": ["Foggy_Zurich/RGB/GOPR0229/frame000001.png"],
    "rainy_cityscapes": ["gtFine/train/aachen/aachen_000173_000019_gtFine_labelIds.png"],
    "wilddash2": ["panoptic/ae0005_100000.png", "panoptic.json"],
    "idd_lite": ["idd20k_lite/gtFine/train/0/024541_inst_label.png"],
    "kitti": ["testing/image_2/000000_10.png", "training/semantic_rgb/000000_10.png"],
    "a2d2": [f"{A2D2.format('camera')}000001617.json"],
}
# Layout -> zip file -> the files in it; what is before "|" is not part of their paths in it.
ZIPS = {
    "cityscapes": {
        "leftImg8bit_trainvaltest.zip": "leftImg8bit/",
        "gtFine_trainvaltest.zip": "gtFine/",
    },
    "gtav": {
        "01_images.zip": "images/0",
        "10_images.zip": "images/2",
        "01_labels.zip": "labels/0",
        "10_labels.zip": "labels/2",
    },
    "bdd100k": {
        "10k_images_train.zip": "bdd100k/images/10k/train/",
        "10k_images_val.zip": "bdd100k/images/10k/val/",
        "bdd100k_sem_seg_labels_trainval.zip": "bdd100k/labels/",
    },
    "acdc": {"rgb_anon_trainvaltest.zip": "rgb_anon/", "gt_trainval.zip": "gt/"},
    "camvid32": {
        "701_StillsRaw_full.zip": "701_StillsRaw_full/",
        "LabeledApproved_full.zip": "LabeledApproved_full/|",
    },
    "shift": {
        f"{SHIFT.format(split)}{kind}.zip": f"{SHIFT.format(split)}{kind}/|"
        for split in ("train", "val")
        for kind in ("img", "semseg")
    },
}
