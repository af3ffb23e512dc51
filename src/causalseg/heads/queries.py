"""The queries head: learnt queries that pass the last blocks of the frozen ViT with its tokens.

With Q the queries and X the patch tokens after the last k blocks (`causalseg.backbones.joined`):

    (1) class logits (b, q, k + 1) = linear(LN(Q))
    (2) mask logits (b, q, 4h, 4w) = MLP(LN(Q)) . upscale(LN(X)),   upscale: twice
        LN(depthwise(GELU(deconvolution_2x2(X)))), each time to half of the channels

`MaskHead` makes scores and loss of them. The blocks do what Mask2Former has a pixel decoder and a
query decoder for: "Your ViT is Secretly an Image Segmentation Model" (EoMT,
Kerssies et al., CVPR 2025, arXiv 2503.19108). There the ViT is trained, and queries attend within
their masks at first; here it is frozen, an adapter may work in it, and attention is never masked.

The queries are learnt here, or made by an adapter (the query link).
"""

import torch
from jaxtyping import Float
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from causalseg.config.heads import QueriesHeadConfig
from causalseg.errors import ConfigError
from causalseg.heads.base import Features, Queries
from causalseg.heads.masks import MaskHead, Predictions


class QueriesHead(MaskHead):
    """Classes and masks of queries that have passed the last blocks of a ViT of ``width`` channels.

    ``external_queries`` says whether an adapter makes the queries, otherwise they are learnt here.
    Of the feature maps only the last is used.
    """

    def __init__(
        self,
        width: int,
        num_classes: int,
        options: QueriesHeadConfig,
        external_queries: bool = False,
    ) -> None:
        super().__init__(num_classes, options, external_queries)
        self.blocks = options.blocks
        self.norm = nn.LayerNorm(width)  # in place of the ViT's own, which is after all blocks
        self.upscale = nn.Sequential(_Upscale(width), _Upscale(width // 2))
        self.class_predictor = nn.Linear(width, num_classes + 1)
        self.mask_embedding = nn.Sequential(
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, width // 4),
        )
        # Last, so that all other weights are the same whichever part makes the queries.
        self.queries = None if external_queries else nn.Embedding(options.num_queries, width)

    def joining(self, queries: Queries) -> Float[Tensor, "q c"]:
        """Return the queries that enter the first of the blocks: the adapter's, or its own."""
        self._check_queries(queries, self.class_predictor.in_features)
        return queries if self.queries is None else self.queries.weight  # type: ignore[return-value]

    def _predict(self, features: Features, queries: Queries) -> Predictions:
        if queries is None or queries.ndim != 3:
            raise ConfigError(
                "the queries head takes the queries (b, q, c) that have passed the blocks of a "
                "ViT: use it in a Segmenter"
            )
        Q = self.norm(queries)
        X = self.upscale(self.norm(features[-1].movedim(1, -1)).movedim(-1, 1))
        masks = torch.einsum("bqc,bchw->bqhw", self.mask_embedding(Q), X)  # (2)
        return [(self.class_predictor(Q), masks)]  # (1)


class _Upscale(nn.Sequential):
    """Maps of twice the size and half of the channels, at the cost of one linear layer."""

    def __init__(self, width: int) -> None:
        half = width // 2
        super().__init__(
            nn.ConvTranspose2d(width, half, kernel_size=2, stride=2),
            nn.GELU(),
            nn.Conv2d(half, half, kernel_size=3, padding=1, groups=half, bias=False),
            LayerNorm2d(half),
        )
