"""Heads whose queries each predict one class and one mask: scores and loss.

From class logits (b, q, k + 1), the last class being `no object`, and mask logits (b, q, h, w),

    score(k, pixel) = sum over q of  softmax(class logits)[q, k] * sigmoid(mask logits)[q, pixel].

Training matches queries to the classes present in an image (`causalseg.heads.set_loss`).
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from causalseg.config.heads import SetLossConfig
from causalseg.data.classes import IGNORE
from causalseg.errors import ConfigError
from causalseg.heads import base
from causalseg.heads.base import Counts, Features, Head, Labels, Losses, Queries, Scores
from causalseg.heads.pyramid import resize
from causalseg.heads.set_loss import SetCriterion, find_classes, find_targets

Predictions = list[tuple[Float[Tensor, "b q _"], Float[Tensor, "b q h w"]]]
"""Class and mask logits of the queries, the last of which are the result."""


class MaskHead(Head):
    """Scores and set loss of what `_predict` returns.

    ``external_queries`` says whether an adapter makes the queries; otherwise the head learns them.
    """

    def __init__(self, num_classes: int, options: SetLossConfig, external_queries: bool) -> None:
        super().__init__(num_classes, options)
        self.terms = {  # ours: the criterion's name and our weight
            "class": ("loss_cross_entropy", options.class_weight),
            "mask": ("loss_mask", options.mask_weight),
            "dice": ("loss_dice", options.dice_weight),
        }
        self.criterion = SetCriterion(num_classes, options)
        self.ignores_points = options.ignore_points
        self.external_queries = external_queries

    def forward(self, features: Features, queries: Queries, size: tuple[int, int]) -> Scores:
        """Return scores of 0 or more: sums over queries, so a pixel's need not sum to 1.

        If they are adjusted at inference, the class probabilities of every query, and so the
        scores, are divided by prior^tau.
        """
        classes, masks = self._predict(features, queries)[-1]
        with torch.autocast(masks.device.type, enabled=False):  # sums over all queries
            probabilities = classes.float().softmax(dim=-1)[..., :-1]
            shift = self.balance.shift("inference")
            if shift is not None:
                probabilities = probabilities * (-shift).exp()
            scores = torch.einsum("bqk,bqhw->bkhw", probabilities, masks.float().sigmoid())
        return resize(scores, size)

    def probabilities(self, scores: Float[Tensor, "k H W"]) -> Float[Tensor, "k H W"]:
        """Return the scores divided by their sum over classes."""
        return scores / scores.sum(dim=0).clamp_min(1e-9)

    def energy(self, scores: Float[Tensor, "k H W"]) -> Float[Tensor, "H W"]:
        """Return minus the sum of the scores: high where no mask of a known class is.

        As in Nayal et al., "RbA", ICCV 2023, without their squashing of each class.
        """
        return -scores.sum(dim=0)

    def loss(
        self, features: Features, queries: Queries, labels: Labels, counts: Counts | None = None
    ) -> Losses:
        """Return ``class``, ``mask`` and ``dice``, summed over all outputs of `_predict`.

        The target of an image is one mask per class present in it. Points are sampled with torch's
        global random state: seed it for a reproducible loss.

        Class weights act within the class term, where `no object` keeps its own. An adjustment is
        added to the logits of the classes, not to that of `no object`, for matching as well.
        """
        counts = self.mean_counts([labels]) if counts is None else counts
        class_labels, mask_labels = find_targets(labels)
        predictions = self._predict(features, queries)
        weights, shift = self.balance.weights(), self.balance.shift("loss")
        if weights is not None:
            self.criterion.set_class_weights(weights)
        # Of `no object`, the last, the logit is not adjusted.
        added = 0 if shift is None else F.pad(shift, (0, 1))
        ignored = (labels == IGNORE)[:, None] if self.ignores_points else None
        self.criterion.ignore(ignored)
        self.criterion.counts = counts
        with torch.autocast(labels.device.type, enabled=False):
            outputs = [
                {"class_queries_logits": c.float() + added, "masks_queries_logits": m.float()}
                for c, m in predictions
            ]
            terms = self.criterion(
                **outputs[-1],
                mask_labels=mask_labels,
                class_labels=class_labels,
                auxiliary_predictions=outputs[:-1],
            )
        self.criterion.ignore(None)
        return {
            kind: weight * sum(value for name, value in terms.items() if name.startswith(prefix))
            for kind, (prefix, weight) in self.terms.items()
        }

    def count(self, labels: Labels) -> Counts:
        """Return the numbers of images and of target masks, and the class weights of the masks."""
        base.check_labels(labels, self.num_classes)
        targets, weights = torch.cat(find_classes(labels)), self.balance.weights()
        masks = torch.tensor(float(len(targets)), device=labels.device)
        weight = masks if weights is None else weights[targets].sum()
        return torch.stack([torch.full_like(masks, len(labels)), masks, weight])

    def _predict(self, features: Features, queries: Queries) -> Predictions:
        """Return class and mask logits; all of them are trained."""
        raise NotImplementedError

    def _check_queries(self, queries: Queries, width: int) -> None:
        """Raise ConfigError if an adapter's queries are missing, unexpected or of another width."""
        name = type(self).__name__
        if not self.external_queries and queries is not None:
            raise ConfigError(
                f"{name} learns its own queries, but the adapter makes some too: build the head "
                "with external_queries=True or switch the query link off"
            )
        if self.external_queries and queries is None:
            raise ConfigError(
                f"{name} has external_queries=True, but the adapter makes none: switch its query "
                "link on or build the head with external_queries=False"
            )
        if queries is not None and queries.shape[-1] != width:
            raise ConfigError(
                f"the adapter's queries have width {queries.shape[-1]}, those of {name} {width}: "
                "give both the same"
            )
