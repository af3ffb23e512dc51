"""Digital changes of ImageNet-C: brightness, contrast, saturation, JPEG, pixels, elastic.

The elastic transform is that of `imagecorruptions` (Michaelis et al., arXiv 1907.07484), which
scales it with the image. HSV is in closed form: with V = max(R, G, B), m = min(R, G, B) and
S = (V - m) / V, a channel is C = V - V S k, where k = (V - C) / (V - m) holds the hue.
"""

import io

import numpy as np
from jaxtyping import Float
from PIL import Image
from scipy import ndimage

from causalseg.corruptions.noise import Array, Random
from causalseg.corruptions.resampling import shift

_BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)  # added to V
_CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)  # factor
_SATURATE = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))  # factor of S, added to S
_JPEG = (25, 18, 15, 10, 7)  # quality
_PIXELATE = (0.6, 0.5, 0.4, 0.3, 0.25)  # scale
_ELASTIC = (12.5, 16.25, 21.25, 25.0, 30.0)  # factor of the displacement
_ELASTIC_SIGMA = 0.01  # of each side
_ELASTIC_REACH = 0.005  # of the height, before smoothing


def brightness(X: Float[Array, "3 H W"], severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """V' = min(V + c, 1) in HSV: all channels times V' / V, black to grey."""
    V = X.max(axis=0)
    brighter = np.minimum(V + _BRIGHTNESS[severity - 1], 1)
    is_black = V == 0
    return np.where(is_black, brighter, X * (brighter / np.where(is_black, 1, V)))


def contrast(X: Float[Array, "3 H W"], severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """(X - mean) c + mean, with the mean of each channel."""
    mean = X.mean(axis=(1, 2), keepdims=True)
    return (X - mean) * np.float32(_CONTRAST[severity - 1]) + mean


def saturate(X: Float[Array, "3 H W"], severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """S' = clip(c S + d, 0, 1) in HSV; grey has the hue of red, as in the published code."""
    factor, more = _SATURATE[severity - 1]
    V = X.max(axis=0)
    spread = V - X.min(axis=0)
    is_grey = spread == 0
    k = (V - X) / np.where(is_grey, 1, spread)
    k[1:, is_grey] = 1
    S = np.minimum(factor * spread / np.where(V == 0, 1, V) + more, 1)
    return V - V * S * k


def jpeg_compression(X: Float[Array, "3 H W"], severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """JPEG of low quality, encoded and decoded."""
    file = io.BytesIO()
    to_pil(X).save(file, "JPEG", quality=_JPEG[severity - 1])
    return to_planes(Image.open(file))


def pixelate(X: Float[Array, "3 H W"], severity: int, rng: Random) -> Float[Array, "3 H W"]:
    """Shrunk by box means, enlarged by repeating pixels."""
    scale, (H, W) = _PIXELATE[severity - 1], X.shape[1:]
    small = (max(1, int(W * scale)), max(1, int(H * scale)))
    coarse = to_pil(X).resize(small, Image.Resampling.BOX)
    return to_planes(coarse.resize((W, H), Image.Resampling.NEAREST))


def elastic_transform(
    X: Float[Array, "3 H W"], severity: int, rng: Random
) -> Float[Array, "3 H W"]:
    """A smooth random displacement of pixels: a field of uniform noise, blurred."""
    H, W = X.shape[1:]
    noise = 2 * rng.random((2, H, W), np.float32) - 1
    sigma = (0, _ELASTIC_SIGMA * H, _ELASTIC_SIGMA * W)
    smooth = ndimage.gaussian_filter(noise, sigma, mode="reflect", truncate=3)
    down, right = smooth * np.float32(_ELASTIC[severity - 1] * _ELASTIC_REACH * H)
    return shift(X, down, right)


def to_pil(X: Float[Array, "3 H W"]) -> Image.Image:
    """Return planes in [0, 1] as an image of 8 bits."""
    return Image.fromarray(np.rint(255 * np.clip(X, 0, 1)).astype(np.uint8).transpose(1, 2, 0))


def to_planes(image: Image.Image) -> Float[Array, "3 H W"]:
    """Return an image of 8 bits as planes in [0, 1]."""
    return np.asarray(image).transpose(2, 0, 1).astype(np.float32, order="C") / 255
