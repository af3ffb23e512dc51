"""The options of every head."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from causalseg.config.block import Block, named


class LogitAdjustmentConfig(Block):
    """Logit adjustment by the fractions of the classes in the sources."""

    tau: Annotated[float, Field(ge=0, le=3)] = 0.5
    """Strength, above 0 and up to 3: the logits are shifted by tau * log(fraction of the class).
    1 aims at equal accuracy over classes instead of pixels, less at a compromise."""
    at: Literal["loss", "inference"] = "loss"
    """loss: added to the logits in the training loss alone; inference: subtracted when predicting,
    from a head trained without it."""

    @model_validator(mode="after")
    def _adjusts_something(self) -> Self:
        if self.tau == 0:
            raise ValueError("tau = 0 has no effect: leave logit_adjustment out")
        return self


class BalancedConfig(Block):
    """What a head does about classes that are rare in the sources."""

    class_weights: Literal["none", "auto"] = "none"
    """auto weighs the classes in the loss by 1 / ln(1.02 + fraction of the labelled source pixels),
    scaled so that the mean over these pixels is 1; with mask2former the classes that queries are
    matched to. none weighs them alike."""
    logit_adjustment: LogitAdjustmentConfig | None = None
    """Logit adjustment, so that common classes are not favoured; null is none."""


class LinearHeadConfig(BalancedConfig):
    """One linear layer over the four levels, trained with cross-entropy."""

    name: Literal["linear"] = "linear"
    """The head."""


class Mask2FormerConfig(BalancedConfig):
    """Mask2Former: pixel decoder, masked-attention decoder, set loss."""

    name: Literal["mask2former"] = "mask2former"
    """The head."""
    hidden: Annotated[int, Field(ge=32, multiple_of=32)] = 256
    """Width of the decoder and its queries, a multiple of 32."""
    num_queries: Annotated[int, Field(ge=1)] = 100
    """Number of queries; an adapter with tokens gives them, and must have as many."""
    encoder_layers: Annotated[int, Field(ge=1)] = 6
    """Layers of the pixel decoder."""
    decoder_layers: Annotated[int, Field(ge=1)] = 9
    """Layers of the query decoder."""
    feedforward: Annotated[int, Field(ge=1)] = 2048
    """Hidden width of the query decoder's MLPs; the pixel decoder's is half of it."""
    num_points: Annotated[int, Field(ge=1)] = 12544
    """Points a mask is compared at."""
    class_weight: Annotated[float, Field(ge=0)] = 2.0
    """Weight of the class term of the loss."""
    mask_weight: Annotated[float, Field(ge=0)] = 5.0
    """Weight of the mask's binary cross-entropy."""
    dice_weight: Annotated[float, Field(ge=0)] = 5.0
    """Weight of the dice term."""
    no_object_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the class `no object` within the class term."""

    @model_validator(mode="after")
    def _no_idle_balance(self) -> Self:
        adjusted = self.logit_adjustment
        idle = {
            "class_weights": self.class_weights != "none",
            "logit_adjustment.at = loss": adjusted is not None and adjusted.at == "loss",
        }
        used = [key for key, is_set in idle.items() if is_set]
        if used and self.class_weight == 0:
            raise ValueError(
                f"{used[0]} has no effect with class_weight = 0: leave it out, or give the class "
                "term a weight"
            )
        return self


HeadConfig = Annotated[
    Mask2FormerConfig | LinearHeadConfig, Field(discriminator="name"), named("mask2former")
]
