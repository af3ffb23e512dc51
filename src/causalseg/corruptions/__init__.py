"""Synthetic corruptions: what weather, light, lenses and sensors do to an image, in 5 severities.

The 19 of ImageNet-C (Hendrycks and Dietterich, ICLR 2019) with their published constants, and six
of ours for driving that use depth. Only the image changes, never its label.
"""

import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from causalseg.corruptions import blur, digital, driving, light, sensor, weather
from causalseg.corruptions.view import estimate_view
from causalseg.errors import ConfigError, DataError, did_you_mean

__all__ = ["CORRUPTIONS", "Corruption", "check_corruption", "corrupt"]


class Corruption(NamedTuple):
    """A kind of corruption.

    Attributes:
        group: ``noise``, ``blur``, ``weather`` or ``digital`` as in Cityscapes-C, or ``driving``.
        summary: what it does, in a line.
        apply: image (``driving``: view), severity and generator to image; values may leave [0, 1].
    """

    group: str
    summary: str
    apply: Callable[..., Float[np.ndarray, "3 H W"]]


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption("noise", "Gaussian noise of the sensor", sensor.gaussian_noise),
    "shot_noise": Corruption("noise", "Poisson noise of few photons", sensor.shot_noise),
    "impulse_noise": Corruption("noise", "salt and pepper", sensor.impulse_noise),
    "speckle_noise": Corruption("noise", "noise in proportion to the value", sensor.speckle_noise),
    "defocus_blur": Corruption("blur", "a lens out of focus", blur.defocus_blur),
    "glass_blur": Corruption("blur", "frosted glass: pixels copy near ones", blur.glass_blur),
    "motion_blur": Corruption("blur", "a camera that moves sideways", blur.motion_blur),
    "zoom_blur": Corruption("blur", "a lens that zooms", blur.zoom_blur),
    "gaussian_blur": Corruption("blur", "Gaussian blur", blur.gaussian_blur),
    "snow": Corruption("weather", "falling snow over a whitened image", weather.snow),
    "frost": Corruption("weather", "synthetic ice on the lens", weather.frost),
    "fog": Corruption("weather", "clouds of fog, whatever the distance", weather.fog),
    "spatter": Corruption("weather", "drops of water or mud on the lens", weather.spatter),
    "brightness": Corruption("digital", "brighter, hue and saturation kept", digital.brightness),
    "contrast": Corruption("digital", "less contrast", digital.contrast),
    "saturate": Corruption("digital", "colours paler, then stronger", digital.saturate),
    "elastic_transform": Corruption("digital", "pixels move", digital.elastic_transform),
    "pixelate": Corruption("digital", "coarse pixels", digital.pixelate),
    "jpeg_compression": Corruption("digital", "JPEG of low quality", digital.jpeg_compression),
    "fog_depth": Corruption("driving", "fog that thickens with distance", driving.fog_depth),
    "rain_streaks": Corruption("driving", "rain, wet road, haze", driving.rain_streaks),
    "snow_ground": Corruption("driving", "snow on the ground and falling", driving.snow_ground),
    "night": Corruption("driving", "night with lamps, headlights and noise", light.night),
    "sun_glare": Corruption("driving", "a low sun ahead", light.sun_glare),
    "motion_drive": Corruption("driving", "blur in the direction of travel", driving.motion_drive),
}


def corrupt(
    image: Float[Tensor, "3 H W"],
    name: str,
    severity: int,
    seed: int,
    depth: Float[Tensor, "H W"] | None = None,
) -> Float[Tensor, "3 H W"]:
    """Return a corrupted copy of an image of any size, in [0, 1], of the same type.

    The same arguments give the same result, whatever the state of any global generator. One seed
    draws the same random numbers at every severity.

    Args:
        image: floating point in [0, 1].
        name: a key of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: 0 or more.
        depth: metres along the view axis, above 0 (infinity is the sky), for the group ``driving``;
            None assumes a flat road between walls (`view`). Other groups ignore it.

    Raises:
        ConfigError: if the name, severity or seed is not allowed.
        DataError: if image or depth has the wrong shape, type or range.
    """
    check_corruption(name, severity)
    if seed < 0:
        raise ConfigError(f"seed {seed} of corruption '{name}': give 0 or more")
    X = _to_planes(image)
    # The name is part of the seed: two corruptions of one image do not share random numbers.
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    group, _, apply = CORRUPTIONS[name]
    scene = estimate_view(X, _to_depth(depth, image)) if group == "driving" else X
    result = np.clip(apply(scene, severity, rng), 0, 1).astype(np.float32, copy=False)
    return torch.from_numpy(np.ascontiguousarray(result)).to(image)


def check_corruption(name: str, severity: int) -> None:
    """Raise ConfigError if there is no such corruption or severity."""
    if name not in CORRUPTIONS:
        raise ConfigError(f"unknown corruption '{name}': {did_you_mean(name, CORRUPTIONS)}")
    if severity not in (1, 2, 3, 4, 5):
        raise ConfigError(f"severity {severity} of corruption '{name}': give 1, 2, 3, 4 or 5")


def _to_planes(image: Tensor) -> Float[np.ndarray, "3 H W"]:
    if image.ndim != 3 or image.shape[0] != 3 or not image.numel() or not image.is_floating_point():
        raise DataError(
            f"cannot corrupt {image.dtype} of shape {tuple(image.shape)}: "
            "give floating point (3, H, W) in [0, 1]"
        )
    X = _to_array(image)
    if not (X.min() >= 0 and X.max() <= 1):
        raise DataError(f"cannot corrupt values of {X.min():g} to {X.max():g}: give [0, 1]")
    return X


def _to_depth(depth: Tensor | None, image: Tensor) -> Float[np.ndarray, "H W"] | None:
    if depth is None:
        return None
    if depth.shape != image.shape[1:] or not (depth > 0).all():
        raise DataError(
            f"depth of shape {tuple(depth.shape)} for an image of {tuple(image.shape)}: give "
            "metres above 0 for each pixel; fill holes first, or leave depth out"
        )
    return _to_array(depth)


def _to_array(tensor: Tensor) -> Float[np.ndarray, "..."]:
    return np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy())
