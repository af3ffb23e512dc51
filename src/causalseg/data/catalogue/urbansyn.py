"""UrbanSyn (Gómez et al., 2023): Cityscapes' train ids, 19 is unlabelled (data card)."""

from causalseg.data.layouts import Ids, Layout, Split, keep_train_ids

LAYOUTS = {
    "urbansyn": Layout(
        title="UrbanSyn (Gómez et al., 2023)",
        homepage="https://urbansyn.org",
        license="CC BY-SA 4.0",
        encoding=Ids(keep_train_ids(19, ignored=19)),
        splits={"train": Split("rgb/rgb_{name}.png", "ss/ss_{name}.png", 7539)},
        archives=("rgb.zip", "ss.zip"),
        size=(1024, 2048),
    )
}
