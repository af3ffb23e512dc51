"""The bootstrap: equal to loops written by hand, honest where there is nothing to draw."""

import numpy as np
import pytest

from causalseg.engine import bootstrap
from causalseg.engine.bootstrap import interval, paired_interval


def make_counts(seed, images=6, k=4, domains=2):
    """TP, FP, FN of every image and class; the last class never shows."""
    rng = np.random.default_rng(seed)
    run = [rng.integers(0, 50, (images + i, 3, k)) for i in range(domains)]
    for domain in run:
        domain[..., -1] = 0
    return run


def names_of(run):
    """Names of the images of every domain, in no two domains the same."""
    return [[f"{d}/{i}" for i in range(len(domain))] for d, domain in enumerate(run)]


def miou_by_hand(images):
    ious = []
    for k in range(images[0].shape[1]):
        hits, false, missed = (sum(int(image[row, k]) for image in images) for row in range(3))
        if hits + false + missed:
            ious.append(hits / (hits + false + missed))
    return 100 * sum(ious) / len(ious)


def score_by_hand(run, drawn):
    """``drawn``: for each domain the indices of the drawn images."""
    domains = zip(run, drawn, strict=True)
    mious = [miou_by_hand([domain[i] for i in indices]) for domain, indices in domains]
    return sum(mious) / len(mious)


def difference_by_hand(ours, theirs, drawn):
    pairs = zip(ours, theirs, strict=True)
    return np.mean([score_by_hand(a, drawn) - score_by_hand(b, drawn) for a, b in pairs])


def draw_by_hand(run, count):
    """Yield the indices of the drawn images of every domain, ``count`` times."""
    rng = np.random.default_rng(5)
    times = [rng.multinomial(len(x), np.full(len(x), 1 / len(x)), count) for x in run]
    for draw in zip(*times, strict=True):
        yield [np.repeat(np.arange(len(each)), each) for each in draw]


def test_intervals_equal_loops_over_draws_domains_seeds_images_and_classes(monkeypatch):
    ours, theirs = [make_counts(0), make_counts(1)], [make_counts(2), make_counts(3)]
    names = names_of(ours[0])
    for option, value in (("RESAMPLES", 40), ("LEVEL", 0.9), ("_SEED", 5)):
        monkeypatch.setattr(bootstrap, option, value)
    differences = [difference_by_hand(ours, theirs, drawn) for drawn in draw_by_hand(ours[0], 40)]
    expected = tuple(np.quantile(differences, [0.05, 0.95]))
    assert paired_interval(ours, theirs, names) == pytest.approx(expected, abs=1e-9)
    scores = [score_by_hand(ours[0], drawn) for drawn in draw_by_hand(ours[0], 40)]
    expected = tuple(np.quantile(scores, [0.05, 0.95]))
    assert interval(ours[0], names) == pytest.approx(expected, abs=1e-9)


def test_domains_of_the_same_images_share_their_draws():
    """The same street twice is no more evidence than once."""
    ours, theirs = make_counts(0, domains=1), make_counts(1, domains=1)
    (names,) = names_of(ours)
    once = paired_interval([ours], [theirs], [names])
    assert paired_interval([2 * ours], [2 * theirs], [names, names]) == pytest.approx(once)
    others = [f"other{name}" for name in names]
    low, high = paired_interval([2 * ours], [2 * theirs], [names, others])
    assert high - low < 0.9 * (once[1] - once[0])


def test_a_class_absent_from_a_draw_is_left_out_of_it():
    """Class 1 shows in the first image only; one draw in four has not got it."""
    theirs = np.array([[[10, 10], [0, 0], [0, 10]], [[10, 0], [0, 0], [10, 0]]])
    ours = theirs.copy()
    ours[0, :, 1] = 0, 0, 20
    low, high = paired_interval([[ours]], [[theirs]], names_of([ours]))
    assert (low, high) == pytest.approx((-25.0, 0.0))


def test_one_image_has_no_interval():
    ours, theirs = make_counts(0, images=1), make_counts(1, images=1)
    assert paired_interval([ours], [theirs], names_of(ours)) is None
    assert interval(ours, names_of(ours)) is None


def test_draws_without_labelled_pixels_have_no_interval():
    run = [make_counts(0, images=2, domains=1)[0]]
    run[0][0] = 0
    assert paired_interval([run], [run], names_of(run)) is None
