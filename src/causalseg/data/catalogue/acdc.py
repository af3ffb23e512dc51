"""ACDC (Sakaridis et al., ICCV 2021): fog, night, rain and snow; labels are train ids."""

from causalseg.data.layouts import Ids, Layout, Split, keep_train_ids

_WEATHERS = ("fog", "night", "rain", "snow")


def _split(weather: str, split: str, count: int | None) -> Split:
    """A split of one weather or of all; ``_ref`` shows the same places in fair weather."""
    ref = "_ref" if split.endswith("_ref") else ""
    return Split(
        f"rgb_anon/{weather}/{split}/{{sequence}}/{{frame}}_rgb{ref}_anon.png",
        f"gt/{weather}/{split}/{{sequence}}/{{frame}}_gt{ref}_labelTrainIds.png",
        count,
        spare="images" if ref else "",
    )


_TRAIN = {f"{weather}_train": _split(weather, "train", 400) for weather in _WEATHERS}
_VAL = {f"{w}_val": _split(w, "val", 106 if w == "night" else 100) for w in _WEATHERS}
_ALL = {
    "train": _split("{weather}", "train", 1600),
    "val": _split("{weather}", "val", 406),
    # About half of these images have labels, 1003 in both splits.
    "train_ref": _split("{weather}", "train_ref", None),
    "val_ref": _split("{weather}", "val_ref", None),
}
LAYOUTS = {
    "acdc": Layout(
        title="ACDC (Sakaridis et al., ICCV 2021)",
        homepage="https://acdc.vision.ee.ethz.ch",
        license="own terms: not commercial",
        encoding=Ids(keep_train_ids(19)),
        splits=_TRAIN | _VAL | _ALL,
        archives=("rgb_anon_trainvaltest.zip", "gt_trainval.zip", "gt_trainval_ref.zip"),
        size=(1080, 1920),
    )
}
