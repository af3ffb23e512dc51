"""Synthetic corruptions: what weather, light, lenses and sensors do to an image, in 5 severities.

The 19 of ImageNet-C (Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations, ICLR 2019) with their published constants, and six of ours for
driving that use depth. Only the image changes, never its label. In the modules, a row of numbers is
for severities 1 to 5.
"""

import zlib
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from causalseg.corruptions import blur, digital, driving, light, sensor, weather
from causalseg.corruptions.view import estimate_view
from causalseg.errors import ConfigError, DataError, did_you_mean

# Each takes an image (driving: a view), a severity and a generator and returns an image, whose
# values may be outside [0, 1]. The name of the function is that of the corruption.
_GROUPS: dict[str, tuple[Callable[..., Float[np.ndarray, "3 H W"]], ...]] = {
    "noise": (sensor.gaussian_noise, sensor.shot_noise, sensor.impulse_noise, sensor.speckle_noise),
    "blur": (
        blur.defocus_blur,
        blur.glass_blur,
        blur.motion_blur,
        blur.zoom_blur,
        blur.gaussian_blur,
    ),
    "weather": (weather.snow, weather.frost, weather.fog, weather.spatter),
    "digital": (
        digital.brightness,
        digital.contrast,
        digital.saturate,
        digital.elastic_transform,
        digital.pixelate,
        digital.jpeg_compression,
    ),
    "driving": (
        driving.fog_depth,
        driving.rain_streaks,
        driving.snow_ground,
        light.night,
        light.sun_glare,
        driving.motion_drive,
    ),
}
_FUNCTIONS = {apply.__name__: apply for group in _GROUPS.values() for apply in group}
CORRUPTIONS = {apply.__name__: group for group, several in _GROUPS.items() for apply in several}
"""The group of each corruption: ``noise``, ``blur``, ``weather``, ``digital`` or ``driving``."""


def corrupt(
    image: Float[Tensor, "3 H W"],
    name: str,
    severity: int,
    seed: int,
    depth: Float[Tensor, "H W"] | None = None,
) -> Float[Tensor, "3 H W"]:
    """Return a corrupted copy of an image of any size, floating point in [0, 1], of the same type.

    The same arguments give the same result, whatever the state of any global generator. One seed
    (0 or more) draws the same random numbers at every severity (1 to 5).

    ``depth`` is in metres along the view axis, above 0 (infinity is the sky), for the group
    ``driving``; None assumes a flat road between walls (`view`). Other groups ignore it.

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
    is_driving = CORRUPTIONS[name] == "driving"
    scene = estimate_view(X, _to_depth(depth, image)) if is_driving else X
    result = np.clip(_FUNCTIONS[name](scene, severity, rng), 0, 1).astype(np.float32, copy=False)
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
