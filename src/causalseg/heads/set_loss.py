"""The set loss of Mask2Former: queries are matched to the classes present in an image.

The modules are those of transformers; here ignored pixels carry no loss, and every term is divided
by counts that are given, such as those of a batch in several parts.
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import Mask2FormerConfig
from transformers.models.mask2former import modeling_mask2former as stock

from causalseg.config.heads import SetLossConfig
from causalseg.data.classes import IGNORE
from causalseg.heads.base import Counts, Labels

_OUTSIDE = -30.0  # a mask logit that is surely outside: its sigmoid is 0 to 1e-13


class _Matcher(stock.Mask2FormerHungarianMatcher):
    """The stock matcher; what a mask holds at ignored pixels costs nothing."""

    ignored: Bool[Tensor, "b 1 H W"] | None = None

    def forward(self, masks_queries_logits: Float[Tensor, "b q h w"], *args: Any) -> Any:
        """Match as if no mask held an ignored pixel, up to the resolution of the masks."""
        masks = masks_queries_logits
        if self.ignored is not None:
            ignored = F.interpolate(self.ignored.float(), masks.shape[-2:], mode="nearest") > 0
            masks = masks.masked_fill(ignored, _OUTSIDE)
        return super().forward(masks, *args)


class SetCriterion(stock.Mask2FormerLoss):
    """The stock set loss, normalised by given counts; its settings are not saved.

    Points at ignored pixels are sampled, but count in neither mask term.
    """

    counts: Counts  # as `causalseg.heads.masks.MaskHead.count` has them
    empty_weight: Float[Tensor, "_"]
    matcher: _Matcher

    def __init__(self, num_classes: int, options: SetLossConfig) -> None:
        super().__init__(Mask2FormerConfig(**loss_options(num_classes, options)), weight_dict={})
        costs = {
            f"cost_{kind}": getattr(self.matcher, f"cost_{kind}")
            for kind in ("class", "mask", "dice")
        }
        self.matcher = _Matcher(**costs, num_points=self.num_points)
        # Not saved: a head keeps the no-object weight of its own run.
        self.register_buffer("empty_weight", self.empty_weight, persistent=False)

    def ignore(self, pixels: Bool[Tensor, "b 1 H W"] | None) -> None:
        """Ignore pixels of the next images; None ignores none."""
        self.matcher.ignored = pixels

    def loss_masks(
        self,
        masks_queries_logits: Float[Tensor, "b q h w"],
        mask_labels: list[Float[Tensor, "_ H W"]],
        indices: list[tuple[Tensor, Tensor]],
        num_masks: Float[Tensor, ""],
    ) -> dict[str, Float[Tensor, ""]]:
        """Mask terms; of the sampled points those without a class are left out."""
        ignored = self.matcher.ignored
        if ignored is None:
            return super().loss_masks(masks_queries_logits, mask_labels, indices, num_masks)
        images, queries = self._get_predictions_permutation_indices(indices)
        pairs = zip(mask_labels, indices, strict=True)
        targets = torch.cat([masks[chosen] for masks, (_, chosen) in pairs])[:, None]
        predicted = masks_queries_logits[images, queries][:, None]
        with torch.no_grad():
            points = self.sample_points_using_uncertainty(
                predicted,
                self.calculate_uncertainty,
                self.num_points,
                self.oversample_ratio,
                self.importance_sample_ratio,
            )
            sample = partial(stock.sample_point, point_coordinates=points, align_corners=False)
            truth = sample(targets)[:, 0]
            counts = (sample(ignored[images].float())[:, 0] == 0).float()  # no part is ignored
        logits = sample(predicted)[:, 0].masked_fill(counts == 0, _OUTSIDE)
        truth = truth * counts
        entropy = F.binary_cross_entropy_with_logits(logits, truth, counts, reduction="none")
        return {
            "loss_mask": (entropy.sum(1) / counts.sum(1).clamp(min=1)).sum() / num_masks,
            "loss_dice": stock.dice_loss(logits, truth, num_masks),
        }

    def set_class_weights(self, weights: Float[Tensor, " k"]) -> None:
        """Weigh the classes in the class term; `no object` keeps its weight."""
        self.empty_weight = torch.cat([weights, self.empty_weight[-1:]])

    def get_num_masks(
        self, class_labels: list[Int[Tensor, "_"]], device: torch.device
    ) -> Float[Tensor, ""]:
        """Mean number of target masks, at least 1."""
        return self.counts[1].clamp(min=1)

    def loss_labels(
        self,
        class_queries_logits: Float[Tensor, "b q _"],
        class_labels: list[Int[Tensor, "_"]],
        indices: list[tuple[Tensor, Tensor]],
    ) -> dict[str, Float[Tensor, ""]]:
        """Class term: the weighted mean over all queries; those without a mask have `no object`.

        With more masks in an image than queries, the mean counts the masks that found none, too.
        """
        b, q, num_outputs = class_queries_logits.shape
        pairs = zip(class_labels, indices, strict=True)
        targets = class_labels[0].new_full((b, q), num_outputs - 1)
        found = self._get_predictions_permutation_indices(indices)
        targets[found] = torch.cat([labels[chosen] for labels, (_, chosen) in pairs])
        total = F.cross_entropy(
            class_queries_logits.transpose(1, 2), targets, self.empty_weight, reduction="sum"
        )
        images, masks, weight = self.counts
        mean = weight + self.eos_coef * (q * images - masks)
        return {"loss_cross_entropy": total / mean.clamp(min=1e-6)}


def loss_options(num_classes: int, options: SetLossConfig) -> dict[str, Any]:
    """Return the options of the loss as transformers names them."""
    return {
        "num_labels": num_classes,
        "num_queries": options.num_queries,
        "train_num_points": options.num_points,
        "class_weight": options.class_weight,
        "mask_weight": options.mask_weight,
        "dice_weight": options.dice_weight,
        "no_object_weight": options.no_object_weight,
    }


def find_classes(labels: Labels) -> list[Int[Tensor, "_"]]:
    """The classes present in each image."""
    return [label[label != IGNORE].unique().long() for label in labels]


def find_targets(labels: Labels) -> tuple[list[Int[Tensor, "_"]], list[Float[Tensor, "_ H W"]]]:
    """The classes present in each image and their masks; an image without any gives none."""
    present = find_classes(labels)
    pairs = zip(labels, present, strict=True)
    return present, [(label == classes[:, None, None]).float() for label, classes in pairs]
