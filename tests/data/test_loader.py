"""The batch stream: a function of seed and step."""

import os
import signal

import numpy as np
import pytest
import torch

from causalseg.config.run import AugmentConfig
from causalseg.data.augment import Augment
from causalseg.data.dataset import Sample
from causalseg.data.loader import (
    AugmentedData,
    PermutedDraws,
    StepSampler,
    WeightedDraws,
    derive_seed,
    make_loader,
)
from causalseg.data.workers import compute_in_order
from causalseg.errors import TrainingError
from toytown import halves


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
        return halves(40 + index, 60)


def test_batches_do_not_depend_on_the_number_of_workers():
    corrupt = {"names": ["fog", "gaussian_noise"], "severity": (1, 5)}
    options = AugmentConfig(corrupt=corrupt, class_mix=0.5)
    data = AugmentedData(Scenes(), Augment((32, 32), options))
    sampler = StepSampler(PermutedDraws(5, 3), 2, (0, 4), 3)
    streams = [[batch.image for batch in make_loader(data, sampler, workers)] for workers in (0, 2)]
    assert all(torch.equal(a, b) for a, b in zip(*streams, strict=True))


def test_the_other_image_of_class_mix_is_drawn_by_sampling_weight():
    class Numbered(Scenes):
        def __getitem__(self, index):
            label = torch.full((32, 32), index)
            return Sample(torch.zeros(3, 32, 32), label, str(index))

    options = AugmentConfig(scale=(1, 1), max_class_share=1, photometric=False, class_mix=1)
    augment = Augment((32, 32), options)
    draws = WeightedDraws([0, 0, 1, 0, 0], seed=1)
    mixed = AugmentedData(Numbered(), augment, draws)
    assert {int(mixed[0, seed].label.unique()) for seed in range(8)} == {2}
    alike = AugmentedData(Numbered(), augment)
    assert len({int(alike[0, seed].label.unique()) for seed in range(40)}) == 5


def die(index):
    """What the system does to a loading process that takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_loading_process_is_named_with_what_to_lower():
    with pytest.raises(TrainingError, match=r"process was killed .*lower train.workers"):
        list(compute_in_order(die, range(4), workers=1))
