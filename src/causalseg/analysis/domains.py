"""How well each ring tells two unpaired sets of images apart, from one vector per image.

    (1) d_k = log mean over positions of (B_k x)^2, by channel, projected to few random directions
    (2) AUC of a ridge classifier on d_k, each fifth of the images scored by the other four
    (3) fraction of images whose nearest neighbour in d_k is of the other set, over that of chance

AUC: 0.5 where the ring does not tell the sets apart, 1 where it does. Mixing: 1 and 0.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from causalseg.analysis.rings import ring_index
from causalseg.spectral.grid import Features
from causalseg.spectral.transforms import dct2

_DIRECTIONS = 64
FOLDS = 5
_RIDGE = 1.0  # in variances of a standardised dimension, times the number of images


def describe_rings(X: Features, rings: int) -> Float[Tensor, "b rings d"]:
    """Return d_k of (1), d = 64 at most, for the rings of each image."""
    index = ring_index((X.shape[1], X.shape[2]), rings, X.device).flatten()
    power = dct2(X).square().flatten(1, 2)
    sums = power.new_zeros(len(X), rings, X.shape[3]).index_add(1, index, power)
    counts = torch.bincount(index, minlength=rings).clamp_min(1)[:, None]
    return (sums / counts).clamp_min(1e-12).log() @ _projection(X.shape[3]).to(power)


def probe_domains(
    ours: Float[Tensor, "b rings d"], theirs: Float[Tensor, "b2 rings d"]
) -> tuple[Float[Tensor, " rings"], Float[Tensor, " rings"]]:
    """Return the AUC of (2) and the mixing rate of (3) of every ring.

    Raises ValueError if a set has fewer images than folds.
    """
    if min(len(ours), len(theirs)) < FOLDS:
        raise ValueError(f"{min(len(ours), len(theirs))} images: {FOLDS} of each set are needed")
    is_theirs = torch.arange(len(ours) + len(theirs)) >= len(ours)
    fold = torch.cat([torch.arange(len(part)) % FOLDS for part in (ours, theirs)])
    results = []
    for d in torch.cat([ours, theirs]).double().unbind(1):
        d = (d - d.mean(0)) / d.std(0).clamp_min(1e-9)
        results.append((_auc(_held_out(d, is_theirs, fold), is_theirs), _mixing(d, is_theirs)))
    aucs, mixings = zip(*results, strict=True)
    return torch.tensor(aucs), torch.tensor(mixings)


def _held_out(
    d: Float[Tensor, "b d"], is_theirs: Bool[Tensor, " b"], fold: Tensor
) -> Float[Tensor, " b"]:
    """Return the score of each image by a classifier of the other folds."""
    scores = d.new_zeros(len(d))
    for number, (train, test) in enumerate(_splits(fold)):
        # Both sets weigh the same, whatever their sizes.
        weight = torch.where(is_theirs, 1 / is_theirs[train].sum(), 1 / (~is_theirs[train]).sum())
        x, w = d[train], weight[train].double()[:, None]
        target = torch.where(is_theirs[train], 1.0, -1.0).double()[:, None]
        centre = (w * x).sum(0) / w.sum()
        gram = (w * (x - centre)).T @ (x - centre) + _RIDGE / len(x) * torch.eye(
            d.shape[1]
        ).double()
        direction = torch.linalg.solve(gram, (w * (x - centre)).T @ target)
        scores[test] = ((d[test] - centre) @ direction)[:, 0]
        assert number < FOLDS
    return scores


def _splits(fold: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for number in range(FOLDS):
        yield fold != number, fold == number


def _auc(scores: Float[Tensor, " b"], is_theirs: Bool[Tensor, " b"]) -> float:
    """Return the probability that an image of theirs scores above one of ours; ties count half."""
    difference = scores[is_theirs][:, None] - scores[~is_theirs][None]
    return float(((difference > 0).double() + 0.5 * (difference == 0)).mean())


def _mixing(d: Float[Tensor, "b d"], is_theirs: Bool[Tensor, " b"]) -> float:
    distance = torch.cdist(d, d).fill_diagonal_(torch.inf)
    crossed = is_theirs[distance.argmin(1)] != is_theirs
    number, count = len(d), int(is_theirs.sum())
    chance = 2 * count * (number - count) / (number * (number - 1))
    return float(crossed.double().mean()) / chance


def _projection(channels: int) -> Float[Tensor, "c d"]:
    if channels <= _DIRECTIONS:
        return torch.eye(channels)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(channels, _DIRECTIONS, generator=generator) / _DIRECTIONS**0.5
