"""Augmentation and the batch stream: ranges, and nothing that depends on chance elsewhere."""

import numpy as np
import pytest
import torch

from causalseg.data.augment import Augment, RandomCorruption, mix_classes
from causalseg.data.classes import IGNORE
from causalseg.data.dataset import Sample
from causalseg.data.loader import (
    AugmentedData,
    PermutedDraws,
    StepSampler,
    WeightedDraws,
    derive_seed,
    make_loader,
)
from causalseg.errors import ConfigError


def sample(H=60, W=80):
    label = torch.zeros(H, W, dtype=torch.int64)
    label[:, W // 2 :] = 1
    return Sample(torch.stack([label * 0.5, label * 0.2, label * 0.1]), label, "x")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [(60, 80), (20, 30), (200, 33), (48, 64)])
def test_a_crop_has_its_size_whatever_the_image(size):
    for seed in range(8):
        image, label, _ = Augment((48, 64))(sample(*size), generator(seed))
        assert (image.shape, label.shape) == ((3, 48, 64), (48, 64))
        assert image.min() >= 0
        assert image.max() <= 1
        assert set(label.unique().tolist()) <= {0, 1, IGNORE}


def test_image_and_label_stay_together_in_crops_and_flips():
    label = torch.randint(0, 19, (32, 80), generator=generator())
    noise = Sample((label / 19).expand(3, 32, 80), label, "x")
    plain = Augment((32, 32), scale=(1.0, 1.0), photometric=False)
    crops = [plain(noise, generator(seed)) for seed in range(8)]
    assert all(torch.allclose(image, (label / 19).expand(3, 32, 32)) for image, label, _ in crops)
    assert len({image[0].sum().item() for image, *_ in crops}) > 1


@pytest.mark.parametrize("edge", range(30, 36))
def test_an_edge_is_at_the_same_place_in_the_resized_image_and_label(edge):
    right = (torch.arange(96) >= edge).long().expand(96, 96)
    halves = Sample(right.expand(3, 96, 96).float(), right, "x")
    plain = Augment((32, 32), scale=(1.0, 1.0), photometric=False)
    for seed in range(2):
        image, label, _ = plain(halves, generator(seed))
        assert torch.equal(image > 0.5, (label == 1).expand(3, 32, 32))


@pytest.mark.parametrize(("size", "picked"), [(32, 1), (16, 2)])
def test_a_smaller_label_holds_the_pixels_nearest_to_its_centres(size, picked):
    label = torch.arange(64).expand(64, 64)
    plain = Augment((size, size), scale=(1.0, 1.0), flip=0.0, photometric=False)
    resized = plain(Sample((label / 64).expand(3, 64, 64), label, "x"), generator()).label
    assert (resized == torch.arange(picked, 64, 64 // size)).all()
    down = plain(Sample((label.T / 64).expand(3, 64, 64), label.T, "x"), generator()).label
    assert torch.equal(down, resized.T)


def test_crops_with_one_class_are_avoided():
    shares = []
    for seed in range(20):
        label = Augment((32, 32), scale=(2.0, 2.0))(sample(), generator(seed)).label
        shares.append(torch.bincount(label.flatten()).max() / label.numel())
    assert sum(share <= 0.75 for share in shares) >= 18


def test_small_images_are_padded_with_ignored_pixels():
    label = Augment((48, 48), scale=(0.5, 0.5))(sample(40, 40), generator()).label
    assert (label == IGNORE).sum() == 48 * 48 - 24 * 24


def test_flip_mirrors_both():
    flipped = Augment((60, 80), scale=(1.0, 1.0), flip=1.0, photometric=False)(
        sample(), generator()
    )
    assert torch.equal(flipped.label, sample().label.flip(-1))
    assert torch.allclose(flipped.image, sample().image.flip(-1), atol=1e-5)


def test_photometric_distortion_changes_colours_not_labels():
    plain = Augment((60, 80), scale=(1.0, 1.0), flip=0.0, photometric=False)(sample(), generator(3))
    distorted = Augment((60, 80), scale=(1.0, 1.0), flip=0.0)(sample(), generator(3))
    assert torch.equal(plain.label, distorted.label)
    assert not torch.allclose(plain.image, distorted.image, atol=0.01)


def test_the_same_generator_gives_the_same_sample():
    first, second = (Augment((48, 64))(sample(), generator(7)) for _ in range(2))
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.label, second.label)


def test_every_image_comes_once_an_epoch():
    sampler = StepSampler(PermutedDraws(7, seed=1), batch=2, steps=(0, 7), seed=1)
    indices = [index for pairs in sampler for index, _ in pairs]
    assert sorted(indices[:7]) == list(range(7))
    assert sorted(indices[7:]) == list(range(7))
    assert indices[:7] != indices[7:]


def test_a_later_start_continues_the_same_stream():
    for draws in (PermutedDraws(7, seed=1), WeightedDraws([1, 2, 1], seed=1)):
        whole = list(StepSampler(draws, 3, (0, 9), seed=1))
        assert list(StepSampler(draws, 3, (4, 9), seed=1)) == whole[4:]
        assert len(StepSampler(draws, 3, (4, 9), seed=1)) == 5


def test_weighted_images_come_as_often_as_their_weights_say():
    draws = WeightedDraws([1, 0, 3, 0], seed=5)
    counts = np.bincount([draws(p) for p in range(4000)], minlength=4)
    assert counts[[1, 3]].tolist() == [0, 0]
    assert counts[2] / counts[0] == pytest.approx(3, rel=0.15)
    assert [draws(p) for p in range(50)] == [WeightedDraws([1, 0, 3], 5)(p) for p in range(50)]
    other = WeightedDraws([1, 0, 3, 0], seed=6)
    assert [draws(p) for p in range(50)] != [other(p) for p in range(50)]


def test_processes_share_each_step_between_them():
    draws = PermutedDraws(7, seed=1)
    whole = list(StepSampler(draws, 4, (0, 5), seed=1))
    parts = [list(StepSampler(draws, 4, (0, 5), 1, (rank, 2))) for rank in range(2)]
    for step, pairs in enumerate(whole):
        assert sorted(parts[0][step] + parts[1][step]) == sorted(pairs)


def test_seeds_of_samples_and_runs_differ():
    assert len({derive_seed(seed, p) for seed in range(10) for p in range(100)}) == 1000


class Scenes(torch.utils.data.Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return sample(40 + index, 60)


def test_batches_do_not_depend_on_the_number_of_workers():
    style = RandomCorruption(["fog", "gaussian_noise"], 0.5, (1, 5))
    data = AugmentedData(Scenes(), Augment((32, 32), corruption=style), class_mix=0.5)
    sampler = StepSampler(PermutedDraws(5, 3), 2, (0, 4), 3)
    streams = [[batch.image for batch in make_loader(data, sampler, workers)] for workers in (0, 2)]
    assert all(torch.equal(a, b) for a, b in zip(*streams, strict=True))


def test_half_of_the_classes_of_another_image_are_pasted_with_their_pixels():
    onto = Sample(torch.zeros(3, 8, 8), torch.zeros(8, 8, dtype=torch.int64), "onto")
    label = torch.arange(8).repeat(8, 1) // 2 + 1  # classes 1, 2, 3, 4
    label[0] = IGNORE
    other = Sample((label / 10).expand(3, 8, 8), label, "other")
    for seed in range(5):
        mixed = mix_classes(onto, other, generator(seed))
        pasted = mixed.label > 0
        assert mixed.label[pasted].unique().numel() == 2
        assert torch.equal(mixed.label[pasted], label[pasted])
        assert torch.equal(mixed.image[:, pasted], other.image[:, pasted])
        assert mixed.image[:, ~pasted].max() == 0
        assert not pasted[0].any()


def test_the_image_that_is_mixed_in_has_the_chances_of_all_draws():
    class Numbered(Scenes):
        def __getitem__(self, index):
            label = torch.full((32, 32), index)
            return Sample(torch.zeros(3, 32, 32), label, str(index))

    augment = Augment((32, 32), scale=(1, 1), max_class_share=1, photometric=False)
    draws = WeightedDraws([0, 0, 1, 0, 0], seed=1)
    mixed = AugmentedData(Numbered(), augment, class_mix=1.0, draws=draws)
    assert {int(mixed[0, seed].label.unique()) for seed in range(8)} == {2}
    alike = AugmentedData(Numbered(), augment, class_mix=1.0)
    assert len({int(alike[0, seed].label.unique()) for seed in range(40)}) == 5


def test_crops_are_corrupted_as_often_as_asked():
    plain = Augment((32, 32), photometric=False)
    style = RandomCorruption(["gaussian_noise", "brightness"], 0.5, (2, 3))
    changed = Augment((32, 32), photometric=False, corruption=style)
    changes = [
        not torch.equal(plain(sample(), generator(i)).image, changed(sample(), generator(i)).image)
        for i in range(60)
    ]
    assert 18 <= sum(changes) <= 42
    with pytest.raises(ConfigError, match="did you mean 'brightness'"):
        RandomCorruption(["brightnes"], 0.5, (1, 2))
