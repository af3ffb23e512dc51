"""Data sets that wrap others, and rare-class sampling."""

import zlib

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from causalseg.config.data import CorruptConfig, RareClassesConfig
from causalseg.corruptions import corrupt
from causalseg.data.classes import IGNORE, ClassList
from causalseg.data.dataset import Sample, ScenesData
from causalseg.data.folders import FolderData, Location, read_ids
from causalseg.data.loader import derive_seed
from causalseg.data.sampling import count_pixels, weigh_images
from causalseg.data.wrappers import CachedData, CorruptedData, ResizedData
from causalseg.errors import ConfigError, DataError

CLASSES = ClassList(("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))


def corrupted_by(data, name, severity=3, seed=0):
    return CorruptedData(data, CorruptConfig(name=name, severity=severity, seed=seed))


class Pairs(Dataset):
    """Images of 8 bits a channel; counts how often each is decoded."""

    def __init__(self, labels):
        self.labels, self.reads = labels, 0

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        self.reads += 1
        label = torch.tensor(self.labels[index])
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, *label.shape), generator=generator) / 255
        return Sample(image, label, f"{index}")


def make_pairs(count=3, size=(20, 30)):
    rng = np.random.default_rng(0)
    return Pairs([rng.choice([0, 1, 2, IGNORE], size) for _ in range(count)])


def test_what_is_kept_in_memory_is_what_was_read_and_read_once():
    pairs = make_pairs()
    expected = [pairs[i] for i in range(3)]
    pairs.reads = 0
    cached = CachedData(pairs)
    for _ in range(2):
        for i, (image, label, name) in enumerate(expected):
            assert torch.equal(cached[i].image, image)
            assert torch.equal(cached[i].label, label)
            assert cached[i].name == name
    assert (pairs.reads, len(cached)) == (3, 3)


def test_resizing_keeps_label_ids_and_the_range_of_images():
    resized = ResizedData(make_pairs(), (10, 12))
    assert len(resized) == 3
    image, label, _ = resized[0]
    assert (image.shape, label.shape) == ((3, 10, 12), (10, 12))
    assert set(label.unique().tolist()) <= {0, 1, 2, IGNORE}
    assert 0 <= image.min() < image.max() <= 1


def test_resizing_in_proportion_fits_inside_the_size_also_upright():
    wide, upright = np.zeros((20, 60), int), np.zeros((60, 20), int)
    resized = ResizedData(
        Pairs([wide, upright, np.zeros((20, 20), int)]), (16, 24), keep_ratio=True
    )
    assert [tuple(each.label.shape) for each in resized] == [(8, 24), (24, 8), (16, 16)]
    assert resized[1].image.shape == (3, 24, 8)


def test_a_corrupted_image_is_always_the_same_and_each_has_its_own_noise():
    pairs = Pairs([np.zeros((20, 30), int)] * 2)
    corrupted = corrupted_by(pairs, "gaussian_noise", seed=1)
    assert torch.equal(corrupted[0].image, corrupted[0].image)
    assert torch.equal(corrupted[0].label, pairs[0].label)
    noise = [corrupted[i].image - pairs[i].image for i in range(2)]
    assert not torch.allclose(noise[0], noise[1], atol=0.05)
    other = corrupted_by(pairs, "gaussian_noise", seed=2)
    assert not torch.equal(corrupted[0].image, other[0].image)


def test_a_part_of_a_data_set_is_corrupted_as_all_of_it():
    pairs = make_pairs(4)
    whole = corrupted_by(pairs, "gaussian_noise")
    half = corrupted_by(Subset(pairs, [1, 3]), "gaussian_noise")
    assert [half[i].name for i in (0, 1)] == ["1", "3"]
    assert all(torch.equal(half[i].image, whole[2 * i + 1].image) for i in (0, 1))


def test_a_synthetic_scene_is_corrupted_by_its_own_depth():
    scenes = ScenesData("clear", 4, size=(64, 96))
    every_second = Subset(scenes, [0, 2])
    foggy = corrupted_by(every_second, "fog_depth")[1].image
    seed = derive_seed(0, zlib.crc32(scenes[2].name.encode()))
    exact = corrupt(scenes[2].image, "fog_depth", 3, seed, scenes.read_depth(2))
    assert torch.equal(foggy, exact)
    assert not torch.allclose(foggy, corrupt(scenes[2].image, "fog_depth", 3, seed), atol=0.02)


def test_an_unknown_corruption_is_refused_before_an_image_is_read():
    pairs = make_pairs()
    with pytest.raises(ConfigError, match="did you mean 'fog'"):
        corrupted_by(pairs, "fogg")
    assert pairs.reads == 0


def test_pixels_of_every_class_are_counted_without_the_ignored():
    pairs = Pairs([np.array([[0, 0, 2], [IGNORE, 2, 2]]), np.full((2, 3), IGNORE)])
    for workers in (0, 2):
        assert count_pixels(pairs, 4, workers).tolist() == [[2, 0, 3, 0], [0, 0, 0, 0]]


def test_counting_reads_labels_and_no_image(folder, monkeypatch):
    pairs = FolderData(Location(folder / "images"), Location(folder / "labels"), read_ids(CLASSES))
    wrapped = ConcatDataset(
        [
            pairs,
            Subset(pairs, [2, 0]),
            corrupted_by(ResizedData(pairs, (24, 40), keep_ratio=True), "fog"),
            make_pairs(2),
            CachedData(pairs),
        ]
    )
    expected = [
        np.bincount(sample.label[sample.label != IGNORE], minlength=3).tolist()
        for sample in wrapped
    ]
    monkeypatch.setattr(FolderData, "read_image", None)
    assert count_pixels(wrapped, 3).tolist() == expected
    assert len({tuple(counts) for counts in expected[:3]}) == 3


def weigh(counts, **options):
    return weigh_images(counts, RareClassesConfig(**options))


def test_sampling_weights_are_those_of_drawing_a_class_and_then_an_image_with_it():
    road, car = np.zeros((4, 5), int), np.zeros((4, 5), int)
    car[0, :2] = 1
    pairs = Pairs([road, road, car, np.full((4, 5), IGNORE)])
    fractions = np.array([58, 2]) / 60
    classes = np.exp((1 - fractions) / 0.5)
    classes /= classes.sum()
    expected = [classes[0] / 3, classes[0] / 3, classes[0] / 3 + classes[1], 0]
    weights = weigh(count_pixels(pairs, 3), temperature=0.5, min_pixels=2)
    assert weights == pytest.approx(expected)
    colder = weigh(count_pixels(pairs, 3), temperature=0.05, min_pixels=2)
    assert colder[2] > weights[2]


def test_a_class_with_too_few_pixels_does_not_count():
    car = np.zeros((4, 5), int)
    car[0, :2] = 1
    counts = count_pixels(Pairs([np.zeros((4, 5), int), car]), 2)
    assert weigh(counts, min_pixels=3) == pytest.approx([0.5, 0.5])
    with pytest.raises(DataError, match="min_pixels lower"):
        weigh(counts, min_pixels=100)
