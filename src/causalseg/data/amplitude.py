"""Augmentation of source images in the Fourier domain: their style changes, their content stays.

With the Fourier transform of each channel, F = A exp(i P), and r the distance of a frequency from 0
as a fraction of the largest:

    (1) pasta   A' = A e,                 e ~ N(1, ((alpha r)^k + beta)^2), P' = P
    (2) adsi    A' = w A, P' = w P,       w = 1 - (1 - g) / (1 + (r / c)^(2 order))
    (3) mix     A' = (1 - l) A + l A_j,   P' = P, with A_j of another source image

(1) PASTA, Chattopadhyay et al., ICCV 2023, arXiv 2212.00979: the noise grows with the frequency.
(2) ADSI, Saito and Hotta, CVPR Workshops 2025: a Butterworth filter attenuates the lowest
frequencies; c, g uniform in their ranges. (3) The amplitude mix of FACT, Xu et al., CVPR 2021,
arXiv 2105.14780: l uniform from 0 to `largest`. The result is the real part, clipped to [0, 1].
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from causalseg.config.run import SpectralAugmentConfig

Image = Float[Tensor, "3 H W"]
_SMALLEST = 1e-6  # of a cutoff, which divides


def change_amplitude(
    image: Image,
    options: SpectralAugmentConfig,
    generator: Generator,
    other: Image | None = None,
) -> Image:
    """Return the image with another amplitude, in [0, 1]; ``other`` is needed for mix."""
    F = torch.fft.fft2(image)
    A, P = F.abs(), F.angle()
    r = radii(*image.shape[-2:])
    match options.kind:
        case "pasta":
            deviation = (options.alpha * r) ** options.k + options.beta
            A = A * (1 + deviation * torch.randn(A.shape, generator=generator))  # (1)
        case "adsi":
            g, c = _draw(options.gain, generator), _draw(options.cutoff, generator)
            w = 1 - (1 - g) / (1 + (r / max(c, _SMALLEST)) ** (2 * options.order))
            A, P = w * A, w * P  # (2)
        case "mix":
            if other is None:
                raise ValueError("mix needs another image")
            mixing = _draw((0, options.largest), generator)
            A = torch.lerp(A, torch.fft.fft2(other).abs(), mixing)  # (3)
    return torch.fft.ifft2(torch.polar(A, P)).real.clamp(0, 1)


def radii(height: int, width: int) -> Float[Tensor, "H W"]:
    """Return r in [0, 1] of every frequency, in the order of `torch.fft.fft2`."""
    u, v = height * torch.fft.fftfreq(height), width * torch.fft.fftfreq(width)
    distance = torch.hypot(u[:, None], v[None])
    return distance / distance.max().clamp(min=1)


def _draw(limits: tuple[float, float], generator: Generator) -> float:
    low, high = limits
    return low + (high - low) * float(torch.rand((), generator=generator))
