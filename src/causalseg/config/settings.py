"""The field's settings by name: sources, target domains and sizes.

A setting is the part of a configuration that papers agree on; the user's file overrides it and adds
the roots of the data sets. Crops and windows are of 512 or 1024 pixels; images are scored at the
heights and widths of `_SIZES` (at 1024 those of SoMA's configurations), labels at their own.
Patches of 14 pixels are resampled to 16, as the field does.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from causalseg.errors import ConfigError, did_you_mean

Options = dict[str, Any]

_SIZES: Mapping[str, Mapping[int, tuple[int, int]]] = {
    "cityscapes": {512: (512, 1024), 1024: (1024, 2048)},
    "acdc": {512: (540, 960), 1024: (1080, 1920)},
    "bdd100k": {512: (720, 1280), 1024: (1024, 1820)},
    "mapillary_v1": {512: (512, 1024), 1024: (1024, 2048)},
}
# A setting determines these options of `eval`, so that no size of another file remains.
_EVAL: Options = {
    "mode": "whole",
    "blend": "mean",
    "windows_at_once": 2,
    **dict.fromkeys(("size", "shortest", "scale", "inside", "window", "stride")),
}
# Kamann and Rother, CVPR 2020: the corruptions of ImageNet-C's 19 (Hendrycks and Dietterich, ICLR
# 2019) that keep pixels at their labels; noise in the first three severities only. Papers on domain
# generalization report the highest severity of all sixteen instead.
_CITYSCAPES_C = {
    **dict.fromkeys(("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"), 3),
    **dict.fromkeys(("motion_blur", "defocus_blur", "glass_blur", "gaussian_blur"), 5),
    **dict.fromkeys(("brightness", "contrast", "saturate", "jpeg_compression"), 5),
    **dict.fromkeys(("snow", "spatter", "fog", "frost"), 5),
}
_CBM = {"cityscapes": "val", "bdd100k": "val", "mapillary": "val"}
_LAYOUTS = {"mapillary": "mapillary_v1"}  # the 66 classes that the field maps to the 19


def _make_setting(sources: Sequence[str], domains: Mapping[str, Options], size: int) -> Options:
    """Return the protocol at 512 or 1024."""
    stride, resized = round(2 * size / 3), {}
    for name, domain in domains.items():
        resized[name] = {**domain, "resize": _SIZES.get(domain["layout"], {}).get(size)}
        if domain["layout"] == "mapillary_v1":  # images of many aspect ratios, which are kept
            resized[name]["keep_ratio"] = True
    corrupted = [name for name, domain in domains.items() if "corrupt" in domain]
    return {
        "backbone": {"patch": 16},
        "data": {
            "classes": "cityscapes19",
            "sources": [{"layout": name, "split": "train"} for name in sources],
            "domains": resized,
            "mean_over": corrupted or None,
            "only": None,
        },
        "train": {"crop": [size, size], "augment": {"longest": 4 * size}},
        "eval": {**_EVAL, "mode": "slide", "window": [size] * 2, "stride": [stride] * 2},
    }


def _targets(splits: Mapping[str, str]) -> dict[str, Options]:
    return {
        name: {"layout": _LAYOUTS.get(name, name), "split": split} for name, split in splits.items()
    }


_ACDC = {
    weather: {"layout": "acdc", "split": f"{weather}_val"}
    for weather in ("night", "snow", "fog", "rain")
}


def _corrupt(severities: Mapping[str, Iterable[int]]) -> dict[str, Options]:
    """Return Cityscapes val, clean and under each corruption at its severities."""
    clean = _targets({"cityscapes": "val"})
    return clean | {
        f"{name}_{severity}": {
            **clean["cityscapes"],
            "corrupt": {"name": name, "severity": severity},
        }
        for name, chosen in severities.items()
        for severity in chosen
    }


_KAMANN = _corrupt({name: range(1, n + 1) for name, n in _CITYSCAPES_C.items()})
_SEVEREST = _corrupt({name: [5] for name in _CITYSCAPES_C})
_PAIRS: dict[str, tuple[Sequence[str], Mapping[str, Options]]] = {
    "gta2cbm": (["gtav"], _targets(_CBM)),
    "synthia2cbm": (["synthia"], _targets(_CBM)),
    "gta+synthia2cbm": (["gtav", "synthia"], _targets(_CBM)),
    "gta+synthia+urbansyn2cbm": (["gtav", "synthia", "urbansyn"], _targets(_CBM)),
    "citys2bm": (["cityscapes"], _targets({"bdd100k": "val", "mapillary": "val"})),
    "citys2gs": (["cityscapes"], _targets({"gtav": "train", "synthia": "train"})),
    "citys2acdc": (["cityscapes"], _ACDC),
    "citys2citysc": (["cityscapes"], _KAMANN),
    "citys2citysc_level5": (["cityscapes"], _SEVEREST),
}
_CAMVID_CLASSES = "camvid_day_train/classes.json"


def _camvid(part: str) -> Options:
    return {"images": f"camvid_{part}/images", "labels": f"camvid_{part}/labels"}


_SMALL: dict[str, Options] = {
    "camvid_day2dusk": {
        "data": {
            "classes": _CAMVID_CLASSES,
            "sources": [_camvid("day_train")],
            "domains": {
                # With their classes, so that runs with other classes can be scored.
                "day": {**_camvid("day_test"), "classes": _CAMVID_CLASSES},
                "dusk": {**_camvid("dusk"), "classes": _CAMVID_CLASSES},
            },
            "mean_over": ["dusk"],
            "only": None,
        },
        "train": {"crop": [252, 336]},
        "eval": _EVAL,
    },
    "scenes": {
        "data": {
            "classes": "cityscapes19",
            "sources": [{"type": "scenes", "first": 10_000, "count": 400}],
            "domains": {
                name: {"type": "scenes", "domain": name, "count": 50}
                for name in ("clear", "night", "fog", "rain", "snow")
            },
            "mean_over": ["night", "fog", "rain", "snow"],
            "only": None,
        },
        "train": {"crop": [224, 308]},
        "eval": _EVAL,
    },
}
SETTINGS: dict[str, Options] = {
    **{name: _make_setting(*pair, size=512) for name, pair in _PAIRS.items()},
    **{f"{name}@1024": _make_setting(*pair, size=1024) for name, pair in _PAIRS.items()},
    **_SMALL,
}


def find_setting(name: object) -> Options:
    """Return the options of a setting; raise ConfigError if it is unknown."""
    if not isinstance(name, str) or name not in SETTINGS:
        raise ConfigError(f"setting = {name!r}: {did_you_mean(str(name), SETTINGS)}")
    return {**SETTINGS[name], "setting": name}


def list_overrides(name: str) -> list[str]:
    """Return overrides that score a trained run on the domains of a setting, at its sizes."""
    options = find_setting(name)
    data = {key: options["data"][key] for key in ("domains", "mean_over", "only")}
    blocks = {"data": data, "eval": options["eval"]}
    return [
        f"{block}.{key}={json.dumps(value)}"
        for block, values in blocks.items()
        for key, value in values.items()
    ]


def lay_over(below: Options, above: Options) -> Options:
    """Merge two configurations; values above override those below.

    Sources and domains are not merged but replaced. If ``above`` asks for whole images, a window
    below is dropped.
    """
    joined = dict(below)
    for key, value in above.items():
        under = joined.get(key)
        if key == "backbone" and isinstance(value, str):
            value = {"name": value}
        if key == "eval" and isinstance(value, dict) and value.get("mode") == "whole":
            value = {"window": None, "stride": None, **value}
        is_joined = isinstance(under, dict) and isinstance(value, dict) and key != "domains"
        joined[key] = lay_over(under, value) if is_joined else value  # type: ignore[arg-type]
    return joined
