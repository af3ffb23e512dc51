"""The Mask2Former head: a set of queries, each of which predicts one class and one mask.

A pixel decoder (deformable attention over three strides, then a stride-4 map of pixel embeddings)
and a transformer decoder (queries attend to the pixels inside their own last mask) give, after
every decoder layer, class logits (b, q, k + 1) and mask logits (b, q, h, w); `MaskHead` makes
scores and loss of them.

Method: Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", 2022.
The modules are those of transformers; here they follow a ViT, are initialised and supervised.

The queries are either learnt here or made by an adapter (the query link): then they are the
positional part of the decoder's queries, and the content part is a linear map of them.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Mask2FormerConfig
from transformers.models.mask2former import modeling_mask2former as stock

from causalseg.config.heads import Mask2FormerHeadConfig
from causalseg.heads.base import Features, Queries
from causalseg.heads.masks import MaskHead, Predictions
from causalseg.heads.pyramid import build_pyramid
from causalseg.heads.set_loss import loss_options
from causalseg.spectral.grid import grid_to_tokens


class Mask2FormerHead(MaskHead):
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
        super().__init__(num_classes, options, external_queries)
        config, hidden = _stock_config(num_classes, options), options.hidden
        self.pixel_decoder = stock.Mask2FormerPixelDecoder(config, feature_channels=list(widths))
        self.position_embedding = stock.Mask2FormerSinePositionEmbedding(
            hidden // 2, normalize=True
        )
        self.level_embed = nn.Embedding(3, hidden)
        self.decoder = stock.Mask2FormerMaskedAttentionDecoder(config)
        self.class_predictor = nn.Linear(hidden, num_classes + 1)
        # `apply` goes children first, as the stock model does: parents overwrite what the rule for
        # plain linear layers has set, such as the offsets of the deformable attention.
        self.apply(stock.Mask2FormerPreTrainedModel(config)._init_weights)
        # Last, so that all other weights are the same whichever part makes the queries.
        if external_queries:
            self.content_from_position = nn.Linear(hidden, hidden)
        else:
            self.query_content = nn.Embedding(options.num_queries, hidden)
            self.query_position = nn.Embedding(options.num_queries, hidden)

    def _predict(self, features: Features, queries: Queries) -> Predictions:
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
        self._check_queries(queries, self.class_predictor.in_features)
        if queries is None:
            return self.query_content.weight, self.query_position.weight
        return self.content_from_position(queries), queries


def _stock_config(num_classes: int, options: Mask2FormerHeadConfig) -> Mask2FormerConfig:
    """Return transformers' options; its defaults are those of the protocol."""
    return Mask2FormerConfig(
        feature_size=options.hidden,
        mask_feature_size=options.hidden,
        hidden_dim=options.hidden,
        encoder_layers=options.encoder_layers,
        decoder_layers=options.decoder_layers + 1,  # the stock model also counts the queries
        encoder_feedforward_dim=max(1, options.feedforward // 2),
        dim_feedforward=options.feedforward,
        **loss_options(num_classes, options),
    )


def _to_sequence(x: Float[Tensor, "b d h w"]) -> Float[Tensor, "n b d"]:
    """The layout of transformers' decoder."""
    return grid_to_tokens(x.movedim(1, -1)).transpose(0, 1)
