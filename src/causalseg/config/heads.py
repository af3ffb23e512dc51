"""The options of every head; the blocks are also what the heads take."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from causalseg.config.block import Block, NonNegative, Width, named


class LogitAdjustmentConfig(Block):
    """Logit adjustment by the fractions of the classes in the sources."""

    tau: Annotated[float, Field(gt=0, le=3)] = 0.5
    """Strength, above 0 and up to 3: the logits are shifted by tau * log(fraction of the class).
    1 aims at equal accuracy over classes instead of pixels, less at a compromise."""
    at: Literal["loss", "inference"] = "loss"
    """loss: added to the logits in the training loss only; inference: subtracted when predicting,
    from a head trained without it."""


class BalancedConfig(Block):
    """How a head treats classes that are rare in the sources."""

    class_weights: Literal["none", "auto"] = "none"
    """auto weighs the classes in the loss by 1 / ln(1.02 + fraction of the labelled source pixels),
    scaled to a mean of 1 over these pixels; with queries the classes that they are matched to.
    none weighs them equally."""
    logit_adjustment: LogitAdjustmentConfig | None = None
    """Logit adjustment, so that common classes are not favoured; null is none."""


class LinearHeadConfig(BalancedConfig):
    """One linear layer over the four levels, trained with cross-entropy."""

    name: Literal["linear"] = "linear"
    """The head."""


class SetLossConfig(BalancedConfig):
    """Queries, each of which predicts one class and one mask, and their set loss."""

    num_queries: Width = 100
    """Number of queries; an adapter that makes the queries must have as many tokens."""
    num_points: Width = 12544
    """Pixels sampled per mask, for matching and for the mask terms."""
    class_weight: NonNegative = 2.0
    """Weight of the class term, in the loss and in the matching."""
    mask_weight: NonNegative = 5.0
    """Weight of the binary cross-entropy of masks, likewise."""
    dice_weight: NonNegative = 5.0
    """Weight of the dice term, likewise."""
    no_object_weight: NonNegative = 0.1
    """Weight of the class `no object` within the class term."""
    ignore_points: bool = True
    """Pixels without a class, padding included, carry no loss; false takes them as outside of every
    mask, as the published code does."""

    def _find_mistakes(self) -> Iterator[str]:
        if self.class_weight:
            return
        if not (self.mask_weight or self.dice_weight):
            yield "class_weight, mask_weight and dice_weight are all 0: raise one"
        yield from self.find_idle(["class_weights"], "class_weight = 0")
        if self.logit_adjustment and self.logit_adjustment.at == "loss":
            yield "logit_adjustment.at = loss has no effect with class_weight = 0: drop it"


class QueriesHeadConfig(SetLossConfig):
    """Queries that pass the last blocks of the frozen ViT with its patch tokens; set loss."""

    name: Literal["queries"] = "queries"
    """The head."""
    blocks: Width = 1
    """Number of last blocks, up to the last level, that the queries pass."""


class Mask2FormerHeadConfig(SetLossConfig):
    """Mask2Former: pixel decoder, masked-attention decoder, set loss."""

    name: Literal["mask2former"] = "mask2former"
    """The head."""
    hidden: Annotated[int, Field(ge=32, le=65_536, multiple_of=32)] = 256
    """Width of the decoder and its queries, a multiple of 32."""
    encoder_layers: Width = 6
    """Layers of the pixel decoder."""
    decoder_layers: Width = 9
    """Layers of the query decoder."""
    feedforward: Width = 2048
    """Hidden width of the query decoder's MLPs; the pixel decoder's is half of it."""


HeadConfig = Annotated[
    Mask2FormerHeadConfig | QueriesHeadConfig | LinearHeadConfig,
    Field(discriminator="name"),
    named("mask2former"),
]
