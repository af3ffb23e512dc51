"""Weather of ImageNet-C: snow, frost, fog and spatter, laid over the image without depth.

Frost differs: the ice is synthetic (`frost`), not photographs; the weights are the published ones.
Spatter's edges come from the outline of the drops, not from an edge detector.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from causalseg.corruptions.blur import drag, soften
from causalseg.corruptions.frost import grow_frost
from causalseg.corruptions.noise import Array, Random, rgb
from causalseg.corruptions.resampling import enlarge

_GREY = np.array((0.299, 0.587, 0.114), np.float32)
# mean, std, zoom, threshold, radius and sigma of the trail, weight of the image
_SNOW = (
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)
_FROST = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))  # weights of image and ice
_FOG = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))  # strength, decay of the noise
# mean, std, sigma, threshold; of water: strength, of mud: sigma; whether it is mud
_SPATTER = (
    (0.65, 0.3, 4, 0.69, 0.6, False),
    (0.65, 0.3, 3, 0.68, 0.6, False),
    (0.65, 0.3, 2, 0.68, 0.5, False),
    (0.65, 0.3, 1, 0.65, 1.5, True),
    (0.67, 0.4, 1, 0.65, 1.5, True),
)
_WATER, _MUD = rgb(175, 238, 238) / 255, rgb(63, 42, 20) / 255
_MUD_EDGE = 0.8  # thinner mud is dropped
_SHORE = 20  # pixels from the edge of a drop: the interior beyond is flat
_RELIEF = np.array(((-2, -1, 0), (-1, 1, 1), (0, 1, 2)), np.float32)


def snow(X: Float[Array, "3 H W"], severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """Enlarged noise over a threshold, dragged along, twice, over a whitened image."""
    mean, deviation, zoom, threshold, radius, sigma, keep = _SNOW[severity - 1]
    noise = mean + deviation * rng.standard_normal((1, *X.shape[1:]), np.float32)
    flakes = enlarge(noise, zoom)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    flakes = drag(flakes, radius, sigma, rng.uniform(-135, -45))
    grey = np.tensordot(_GREY, X, 1)
    whitened = keep * X + (1 - keep) * np.maximum(X, 1.5 * grey + 0.5)
    return whitened + flakes + flakes[:, ::-1, ::-1]


def frost(X: Float[Array, "3 H W"], severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """The weighted sum of image and synthetic ice."""
    keep, ice = _FROST[severity - 1]
    return keep * X + ice * grow_frost(X.shape[1:], rng)


def fog(X: Float[Array, "3 H W"], severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """(X + c plasma) max / (max + c), with the largest value of the image."""
    strength, decay = _FOG[severity - 1]
    H, W = X.shape[1:]
    brightest = X.max()
    cloud = strength * plasma(max(H, W), decay, rng)[:H, :W]
    return (X + cloud) * (brightest / (brightest + strength))


def spatter(X: Float[Array, "3 H W"], severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """Drops on the lens, where smoothed noise is over a threshold: water to 3, mud from 4."""
    mean, deviation, sigma, threshold, amount, is_mud = _SPATTER[severity - 1]
    noise = mean + deviation * rng.standard_normal((1, *X.shape[1:]), np.float32)
    liquid = soften(noise, sigma)[0]
    is_wet = liquid >= threshold
    if is_mud:
        mud = soften(is_wet[None].astype(np.float32), amount)
        mud[mud < _MUD_EDGE] = 0
        return X * (1 - mud) + _MUD * mud
    shine = np.where(is_wet, liquid, 0) * _relief(is_wet)
    return X + _WATER * (shine * (amount / max(shine.max(), 1e-6)))


def plasma(side: int, decay: float, rng: Random) -> Float[Array, "n n"]:
    """Return clouds in [0, 1] by diamond and square, n x n with n = 2^k, at least ``side``.

    At each level of half the step, the middle of four neighbours is their mean plus uniform noise,
    first of those at the corners (square), then of those at the sides (diamond). The noise shrinks
    by ``decay`` squared a level; the grid wraps around.
    """
    size = 1 << max(side - 1, 1).bit_length()
    cloud, step, reach = np.zeros((size, size), np.float32), size, 1.0

    def middle(sums: Float[Array, "i j"]) -> Float[Array, "i j"]:
        return sums / 4 + reach * (2 * rng.random(sums.shape, np.float32) - 1)

    while step >= 2:
        half = step // 2
        corners = cloud[::step, ::step]
        rows, columns = (corners + np.roll(corners, -1, axis) for axis in (0, 1))
        middles = middle(rows + np.roll(rows, -1, 1))
        cloud[half::step, half::step] = middles
        cloud[::step, half::step] = middle(columns + middles + np.roll(middles, 1, 0))
        cloud[half::step, ::step] = middle(rows + middles + np.roll(middles, 1, 1))
        step, reach = half, reach / decay**2
    cloud -= cloud.min()
    return cloud / cloud.max()


def _relief(is_wet: Bool[Array, "H W"]) -> Float[Array, "H W"]:
    """Return the shine of drops lit from one side: the distance to their outline, embossed."""
    outline = is_wet & ~ndimage.binary_erosion(is_wet)
    if not outline.any():
        return np.zeros(is_wet.shape, np.float32)
    far = np.minimum(ndimage.distance_transform_edt(~outline), _SHORE)
    levels = ndimage.uniform_filter(far, 3).astype(np.uint8)
    counts = np.bincount(levels.ravel(), minlength=256).cumsum()
    darkest = counts[levels.min()]
    equal = (counts - darkest) / max(levels.size - darkest, 1)  # equalised histogram
    bent = ndimage.correlate(equal[levels].astype(np.float32), _RELIEF, mode="mirror")
    return ndimage.uniform_filter(np.clip(bent, 0, 1), 3)
