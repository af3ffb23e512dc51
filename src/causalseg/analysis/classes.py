"""What a ring knows about the classes of patches.

    (1) J(k) = tr(S_b) / tr(S_w)     Fisher's ratio of x_k = B_k x: scatter between and in classes
    (2) a ridge probe, linear from x_k, or from x - x_k, to one-hot classes: mIoU on other images

A patch has a class if more than half of its pixels do. Only sums over patches are kept.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from causalseg.spectral.grid import Features, GridSize

_IGNORE = 255
_RIDGE = 1e-3  # times the mean variance of a channel
_TOKENS = 128  # of an image that the probe is fitted to


def label_patches(
    label: Int[Tensor, "H W"], grid: GridSize, num_classes: int
) -> Int[Tensor, "h w"]:
    """Return the class of each patch, 255 where no class has more than half of its pixels."""
    h, w = grid
    sides = (label.shape[0] // h, label.shape[1] // w)
    cells = label[: h * sides[0], : w * sides[1]].unflatten(0, (h, -1)).unflatten(2, (w, -1))
    pixels = cells.movedim(1, 2).flatten(2)
    known = torch.where(pixels < num_classes, pixels, num_classes).long()
    counts = torch.zeros(h, w, num_classes + 1, dtype=torch.long)
    counts.scatter_add_(2, known, torch.ones_like(known))
    most, winner = counts[..., :num_classes].max(2)
    return torch.where(2 * most > pixels.shape[2], winner, _IGNORE)


class FisherMeter:
    """J(k) of (1) of one block, also by groups of images, to know how sure it is."""

    def __init__(self, rings: int, num_classes: int, groups: int):
        self.rings, self.num_classes, self.groups = rings, num_classes, groups
        self._sums: Tensor | None = None  # (groups, rings, k, c)
        self._counts = torch.zeros(groups, num_classes, dtype=torch.float64)
        self._squares = torch.zeros(groups, rings, dtype=torch.float64)

    def update(self, parts: Sequence[Features], labels: Int[Tensor, "b h w"], group: int) -> None:
        """Add the rings B_k x of images to a group."""
        is_known = labels != _IGNORE
        known = labels[is_known]
        if self._sums is None:
            shape = (self.groups, self.rings, self.num_classes, parts[0].shape[3])
            self._sums = torch.zeros(shape, dtype=torch.float64)
        self._counts[group] += torch.bincount(known, minlength=self.num_classes)
        for ring, part in enumerate(parts):
            tokens = part[is_known].double().cpu()
            self._sums[group, ring].index_add_(0, known.cpu(), tokens)
            self._squares[group, ring] += tokens.square().sum()

    @property
    def present(self) -> int:
        """The number of classes with a patch."""
        return int((self._counts.sum(0) > 0).sum())

    def ratios(self, left_out: int | None = None) -> Float[Tensor, " rings"]:
        """Return J(k) of all groups, or of all but one; 0 in rings without power."""
        kept = [group for group in range(self.groups) if group != left_out]
        assert self._sums is not None
        sums, counts = self._sums[kept].sum(0), self._counts[kept].sum(0)
        squares = self._squares[kept].sum(0)
        present = counts > 0
        total = counts.sum()
        of_class = sums.square().sum(2)[:, present] / counts[present]  # n_y ||mean_y||^2
        of_all = sums.sum(1).square().sum(1) / total
        between, within = of_class.sum(1) - of_all, squares - of_class.sum(1)
        return torch.where(squares > 0, between / within.clamp_min(1e-30), 0.0)


class ProbeMeter:
    """The probes of (2) of one block: sums to fit them, then a confusion matrix of each.

    Images are scored by groups, to know how sure the mIoU is.
    """

    def __init__(self, rings: int, num_classes: int, groups: int):
        self.rings, self.num_classes, self._probes = rings, num_classes, 2 * rings + 1
        self._gram: Tensor | None = None  # (probes, c + 1, c + 1)
        self._target: Tensor | None = None  # (probes, c + 1, k)
        self._weights: Tensor | None = None
        shape = (groups, self._probes, num_classes, num_classes)
        self.confusion = torch.zeros(shape, dtype=torch.long)

    def fit(
        self,
        parts: Sequence[Features],
        labels: Int[Tensor, "b h w"],
        generator: torch.Generator,
    ) -> None:
        """Add some patches of images, given as rings B_k x, to what the probes are fitted to."""
        known = (labels != _IGNORE).flatten().nonzero()[:, 0]
        known = known[torch.randperm(len(known), generator=generator)[:_TOKENS]]
        inputs = self._inputs(parts, known)
        classes = torch.nn.functional.one_hot(labels.flatten()[known], self.num_classes)
        gram, target = inputs.mT @ inputs, inputs.mT @ classes.to(inputs)
        if self._gram is None or self._target is None:
            self._gram, self._target = gram, target
        else:
            self._gram += gram
            self._target += target

    def score(self, parts: Sequence[Features], labels: Int[Tensor, "b h w"], group: int) -> None:
        """Predict other images, of a group; the probes are solved at the first call."""
        if self._gram is None:
            return  # nothing to fit to
        if self._weights is None:
            self._weights = self._solve()
        known = (labels != _IGNORE).flatten().nonzero()[:, 0]
        predicted = (self._inputs(parts, known) @ self._weights).argmax(2).cpu()
        true = labels.flatten()[known].cpu()
        for probe in range(self._probes):
            pairs = true * self.num_classes + predicted[probe]
            counts = torch.bincount(pairs, minlength=self.num_classes**2)
            self.confusion[group, probe] += counts.view(self.num_classes, -1)

    @property
    def is_scored(self) -> bool:
        """Whether patches were predicted."""
        return bool(self.confusion.any())

    def mious(
        self, left_out: int | None = None
    ) -> tuple[Float[Tensor, " rings"], Float[Tensor, " rings"], float]:
        """Return the mIoU in percent with ring k alone, without it, and with all.

        Of all groups, or of all but one.
        """
        kept = [group for group in range(len(self.confusion)) if group != left_out]
        confusion = self.confusion[kept].sum(0)
        hits = confusion.diagonal(dim1=1, dim2=2).double()
        true, predicted = confusion.sum(2), confusion.sum(1)
        occurs = true > 0
        iou = torch.where(occurs, hits / (true + predicted - hits).clamp_min(1), 0.0)
        miou = 100 * iou.sum(1) / occurs.sum(1).clamp_min(1)
        return miou[: self.rings], miou[self.rings : -1], float(miou[-1])

    def _inputs(self, parts: Sequence[Features], known: Tensor) -> Float[Tensor, "p t c1"]:
        """Return the chosen patches: each ring, all without each ring, all; with a constant."""
        alone = torch.stack([part.flatten(0, 2)[known] for part in parts])
        whole = alone.sum(0, keepdim=True)
        every = torch.cat([alone, whole - alone, whole])
        return torch.cat([every, every.new_ones(*every.shape[:2], 1)], 2)

    def _solve(self) -> Float[Tensor, "p c1 k"]:
        assert self._gram is not None
        assert self._target is not None
        gram, size = self._gram.double(), self._gram.shape[1]
        count = gram[:, -1:, -1:]
        scale = gram.diagonal(dim1=1, dim2=2)[:, :-1].mean(1)[:, None, None]
        ridge = _RIDGE * scale + 1e-12 * count
        eye = torch.eye(size, dtype=torch.float64, device=gram.device)
        eye[-1, -1] = 0  # the constant is free
        return torch.linalg.solve(gram + ridge * eye, self._target.double()).to(self._gram.dtype)
