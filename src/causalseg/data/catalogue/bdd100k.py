"""BDD100K (Yu et al., CVPR 2020): its 10k images with semantic labels, which are train ids."""

from causalseg.data.layouts import Ids, Layout, Split, keep_train_ids

# The current tree, or that of the release of 2018.
_SPLITS = Split(
    ("images/10k/<split>/{name}.jpg", "seg/images/<split>/{name}.jpg"),
    ("labels/sem_seg/masks/<split>/{name}.png", "seg/labels/<split>/{name}_train_id.png"),
)
LAYOUTS = {
    "bdd100k": Layout(
        title="BDD100K, semantic segmentation of the 10k images (Yu et al., CVPR 2020)",
        homepage="https://bdd-data.berkeley.edu",
        license="own terms: education, research, not for profit",
        encoding=Ids(keep_train_ids(19)),
        splits=_SPLITS.repeat(train=7000, val=1000),
        archives=(
            "10k_images_train.zip",
            "10k_images_val.zip",
            "bdd100k_images_10k.zip",
            "bdd100k_sem_seg_labels_trainval.zip",
        ),
        size=(720, 1280),
    )
}
