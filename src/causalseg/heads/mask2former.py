"""The Mask2Former head: a set of queries, each of which predicts one class and one mask.

A pixel decoder (deformable attention over three strides, then a stride-4 map of pixel embeddings)
and a transformer decoder (queries attend to the pixels inside their own last mask) give, after
every decoder layer, class logits (b, q, k + 1) and mask logits (b, q, h, w). Training matches
queries to the classes present in an image; inference sums the queries,

    score(k, pixel) = sum over q of  softmax(class logits)[q, k] * sigmoid(mask logits)[q, pixel].

Method: Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", 2022.
The modules are those of transformers; here they follow a ViT, are initialised and supervised.

The queries are either learnt here or made by an adapter (the query link): then they are the
positional part of the decoder's queries, and the content part is a linear map of them.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Mask2FormerConfig
from transformers.models.mask2former import modeling_mask2former as stock

from causalseg.config.heads import Mask2FormerHeadConfig
from causalseg.data.classes import IGNORE
from causalseg.errors import ConfigError
from causalseg.heads import base
from causalseg.heads.base import Features, Head, Labels, Losses, Queries, Scores
from causalseg.heads.pyramid import build_pyramid, resize
from causalseg.spectral.grid import grid_to_tokens

_OUTSIDE = -30.0  # a mask logit that is surely outside: its sigmoid is 0 to 1e-13


class Mask2FormerHead(Head):
    """Pixel decoder, masked-attention decoder and set loss on four feature maps.

    The weights are initialised as in the stock model and depend only on torch's random state.
    ``widths`` are the channels of the maps; ``external_queries`` says whether an adapter makes the
    queries, otherwise they are learnt here.
    """

    def __init__(
        self,
        widths: Sequence[int],
        num_classes: int,
        options: Mask2FormerHeadConfig,
        external_queries: bool = False,
    ) -> None:
        super().__init__(num_classes, options)
        config, hidden = _stock_config(num_classes, options), options.hidden
        self.terms = {  # ours: the criterion's name and our weight
            "class": ("loss_cross_entropy", options.class_weight),
            "mask": ("loss_mask", options.mask_weight),
            "dice": ("loss_dice", options.dice_weight),
        }
        self.pixel_decoder = stock.Mask2FormerPixelDecoder(config, feature_channels=list(widths))
        self.position_embedding = stock.Mask2FormerSinePositionEmbedding(
            hidden // 2, normalize=True
        )
        self.level_embed = nn.Embedding(3, hidden)
        self.decoder = stock.Mask2FormerMaskedAttentionDecoder(config)
        self.class_predictor = nn.Linear(hidden, num_classes + 1)
        self.criterion = _SetCriterion(config)
        self.ignores_points = options.ignore_points
        self.external_queries = external_queries
        # `apply` goes children first, as the stock model does: parents overwrite what the rule for
        # plain linear layers has set, such as the offsets of the deformable attention.
        self.apply(stock.Mask2FormerPreTrainedModel(config)._init_weights)
        # Last, so that all other weights are the same whichever part makes the queries.
        if external_queries:
            self.content_from_position = nn.Linear(hidden, hidden)
        else:
            self.query_content = nn.Embedding(options.num_queries, hidden)
            self.query_position = nn.Embedding(options.num_queries, hidden)

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

    def loss(self, features: Features, queries: Queries, labels: Labels) -> Losses:
        """Return ``class``, ``mask`` and ``dice``, summed over the outputs of all decoder layers.

        The target of an image is one mask per class present in it. Points are sampled with torch's
        global random state: seed it for a reproducible loss.

        Class weights act within the class term, where `no object` keeps its own. An adjustment is
        added to the logits of the classes, not to that of `no object`, for matching as well.
        """
        base.check_labels(labels, self.num_classes)
        class_labels, mask_labels = _find_targets(labels)
        predictions = self._predict(features, queries)
        weights, shift = self.balance.weights(), self.balance.shift("loss")
        if weights is not None:
            self.criterion.set_class_weights(weights)
        # Of `no object`, the last, the logit is not adjusted.
        added = 0 if shift is None else F.pad(shift, (0, 1))
        ignored = (labels == IGNORE)[:, None] if self.ignores_points else None
        self.criterion.ignore(ignored)
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

    def _predict(
        self, features: Features, queries: Queries
    ) -> list[tuple[Float[Tensor, "b q _"], Float[Tensor, "b q _ _"]]]:
        """Class and mask logits of the queries themselves and after each decoder layer."""
        content, position = self._build_queries(queries)
        pixels = self.pixel_decoder(build_pyramid(features))
        levels = pixels.multi_scale_features  # coarse to fine
        batch = features[0].shape[0]  # `len` would fix the batch size of an exported head
        decoded = self.decoder(
            inputs_embeds=content[:, None].expand(-1, batch, -1),
            query_position_embeddings=position[:, None].expand(-1, batch, -1),
            encoder_hidden_states=[
                _to_sequence(x + embed[:, None, None])
                for x, embed in zip(levels, self.level_embed.weight, strict=True)
            ],
            multi_stage_positional_embeddings=[
                _to_sequence(self.position_embedding(x.shape, x.device, torch.float32))
                for x in levels
            ],
            pixel_embeddings=pixels.mask_features,
            feature_size_list=[x.shape[-2:] for x in levels],
            return_dict=True,
        )
        states, masks = decoded.intermediate_hidden_states, decoded.masks_queries_logits
        classes = [self.class_predictor(state.transpose(0, 1)) for state in states]
        return list(zip(classes, masks, strict=True))

    def _build_queries(self, queries: Queries) -> tuple[Float[Tensor, "q d"], Float[Tensor, "q d"]]:
        if not self.external_queries:
            if queries is not None:
                raise ConfigError(
                    "the Mask2Former head learns its own queries, but the adapter makes some too: "
                    "build the head with external_queries=True or switch the query link off"
                )
            return self.query_content.weight, self.query_position.weight
        hidden = self.content_from_position.in_features
        if queries is None:
            raise ConfigError(
                "the Mask2Former head has external_queries=True, but the adapter makes none: "
                "switch its query link on or build the head with external_queries=False"
            )
        if queries.shape[-1] != hidden:
            raise ConfigError(
                f"the adapter's queries have width {queries.shape[-1]}, the Mask2Former head "
                f"{hidden}: give both the same"
            )
        return self.content_from_position(queries), queries


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


class _SetCriterion(stock.Mask2FormerLoss):
    """The stock set loss, normalised over all processes; its settings are not saved.

    Points at ignored pixels are sampled, but count in neither mask term.
    """

    empty_weight: Float[Tensor, "_"]
    matcher: _Matcher

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__(config, weight_dict={})
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
        """Mean number of target masks per process, at least 1."""
        count = torch.tensor(float(sum(map(len, class_labels))), device=device)
        return base.mean_over_processes(count).clamp(min=1)

    def loss_labels(
        self,
        class_queries_logits: Float[Tensor, "b q _"],
        class_labels: list[Int[Tensor, "_"]],
        indices: list[tuple[Tensor, Tensor]],
    ) -> dict[str, Float[Tensor, ""]]:
        """Class term: the stock mean over this process's weights, rescaled to all processes."""
        losses = super().loss_labels(class_queries_logits, class_labels, indices)
        pairs = zip(class_labels, indices, strict=True)
        matched = torch.cat([labels[targets] for labels, (_, targets) in pairs])
        num_empty = class_queries_logits[..., 0].numel() - len(matched)
        total = self.empty_weight[matched].sum().item() + self.eos_coef * num_empty
        weight = class_queries_logits.new_tensor(total)
        scale = weight / base.mean_over_processes(weight).clamp(min=1e-6)
        return {name: value * scale for name, value in losses.items()}


def _stock_config(num_classes: int, options: Mask2FormerHeadConfig) -> Mask2FormerConfig:
    """Return transformers' options; its defaults are those of the protocol."""
    return Mask2FormerConfig(
        num_labels=num_classes,
        num_queries=options.num_queries,
        feature_size=options.hidden,
        mask_feature_size=options.hidden,
        hidden_dim=options.hidden,
        encoder_layers=options.encoder_layers,
        decoder_layers=options.decoder_layers + 1,  # the stock model also counts the queries
        encoder_feedforward_dim=max(1, options.feedforward // 2),
        dim_feedforward=options.feedforward,
        train_num_points=options.num_points,
        class_weight=options.class_weight,
        mask_weight=options.mask_weight,
        dice_weight=options.dice_weight,
        no_object_weight=options.no_object_weight,
    )


def _to_sequence(x: Float[Tensor, "b d h w"]) -> Float[Tensor, "n b d"]:
    """The layout of transformers' decoder."""
    return grid_to_tokens(x.movedim(1, -1)).transpose(0, 1)


def _find_targets(labels: Labels) -> tuple[list[Int[Tensor, "_"]], list[Float[Tensor, "_ H W"]]]:
    """The classes present in each image and their masks; an image without any gives none."""
    present = [label[label != IGNORE].unique().long() for label in labels]
    pairs = zip(labels, present, strict=True)
    return present, [(label == classes[:, None, None]).float() for label, classes in pairs]
