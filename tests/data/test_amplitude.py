"""Augmentation in the Fourier domain: each kind does what its formula says, and only that."""

import pytest
import torch

from causalseg.config.run import AugmentConfig, SpectralAugmentConfig
from causalseg.data.amplitude import change_amplitude, radii
from causalseg.data.augment import Augment
from causalseg.data.dataset import Sample
from causalseg.data.loader import AugmentedData
from toytown import generator

IMAGE = 0.4 + 0.2 * torch.rand(3, 12, 17, generator=generator(1))  # far from being clipped


def change(image=IMAGE, seed=0, other=None, **options):
    return change_amplitude(image, SpectralAugmentConfig(**options), generator(seed), other)


def spectrum(image):
    F = torch.fft.fft2(image)
    return F.abs(), F.angle()


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 8)])
def test_the_radius_is_0_at_the_mean_and_1_at_the_highest_frequency(size):
    r = radii(*size)
    assert (r.shape, r[0, 0], r.max()) == (size, 0, 1)
    assert torch.allclose(r[:, 1:], r[:, 1:].flip(1))  # frequencies and their negatives


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "pasta", "alpha": 0, "beta": 0},
        {"kind": "adsi", "gain": (1, 1)},
        {"kind": "mix", "other": IMAGE},
    ],
)
def test_a_change_of_nothing_returns_the_image(options):
    assert torch.allclose(change(**options), IMAGE, atol=1e-6)


def test_pasta_has_noise_of_the_published_deviation():
    # With one row the spectrum is short, so that many draws are cheap.
    image = 0.5 + 0.01 * torch.randn(3, 1, 9, generator=generator(2))
    A, P = spectrum(image)
    draws = torch.stack([change(image, seed, alpha=0.5, beta=0.1) for seed in range(4000)])
    F = torch.fft.fft2(draws)
    # The real part halves the noise's variance, but at the frequency 0, which is its own negative.
    expected = (0.5 * radii(1, 9)) ** 2 + 0.1
    expected[0, 1:] /= 2**0.5
    measured = (F / torch.polar(A, P) - 1).real.std(0)
    assert torch.allclose(measured, expected.expand_as(measured), rtol=0.06)


def test_adsi_attenuates_low_frequencies_by_the_gain_and_spares_the_highest():
    after, _ = spectrum(change(kind="adsi", cutoff=(0.2, 0.2), gain=(0.5, 0.5), order=4))
    before, _ = spectrum(IMAGE)
    ratio, r = after / before, radii(12, 17)
    assert torch.allclose(ratio[:, 0, 0], torch.tensor(0.5), atol=1e-5)
    assert torch.allclose(ratio[:, r > 0.6], torch.tensor(1.0), atol=1e-3)


def test_adsi_with_a_cutoff_of_0_changes_the_mean_alone():
    image = change(kind="adsi", cutoff=(0, 1e-30), gain=(0.5, 0.5))
    difference = (image - IMAGE).mean((1, 2), keepdim=True)
    assert torch.allclose(image, IMAGE + difference, atol=1e-6)
    assert torch.allclose(image.mean((1, 2)), IMAGE.mean((1, 2)) / 2)


def test_mix_keeps_the_phase_and_takes_amplitude_of_the_other_image():
    other = 0.4 + 0.2 * torch.rand(3, 12, 17, generator=generator(3))
    (A, P), (Aj, _) = spectrum(IMAGE), spectrum(other)
    mixed, phase = spectrum(change(kind="mix", other=other, seed=5))
    mixing = ((mixed - A) / (Aj - A)).median()
    assert 0.1 < mixing < 0.9
    assert torch.allclose(mixed, torch.lerp(A, Aj, mixing), rtol=1e-3, atol=1e-4)
    assert torch.allclose(torch.polar(mixed, phase), torch.polar(mixed, P), atol=1e-4)


@pytest.mark.parametrize("kind", ["pasta", "adsi", "mix"])
def test_images_stay_in_range_and_follow_their_seed(kind):
    data = [Sample(torch.rand(3, 40, 50, generator=generator(i)), None, "x") for i in range(3)]
    data = [sample._replace(label=torch.randint(0, 5, (40, 50))) for sample in data]
    stream = AugmentedData(data, Augment((32, 32), AugmentConfig(spectral={"kind": kind, "p": 1})))
    plain = AugmentedData(data, Augment((32, 32), AugmentConfig()))
    first, again, other = (stream[0, seed].image for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.allclose(first, plain[0, 0].image, atol=1e-2)
    assert 0 <= first.min() <= first.max() <= 1
    assert torch.equal(stream[0, 0].label, plain[0, 0].label)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "adsi", "alpha": 2.0}, "alpha has no effect with kind=adsi"),
        ({"kind": "adsi", "gain": (0.5, 0.2)}, "gain = "),
        ({"cutoff": (0.1, 0.2)}, "cutoff has no effect with kind=pasta"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SpectralAugmentConfig(**options)
