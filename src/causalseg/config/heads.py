"""The options of every head."""

from typing import Annotated, Literal

from pydantic import Field

from causalseg.config.block import Block, named


class LinearHeadConfig(Block):
    """One linear layer over the four levels, trained with cross-entropy."""

    name: Literal["linear"] = "linear"
    """The head."""


class Mask2FormerConfig(Block):
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


HeadConfig = Annotated[
    Mask2FormerConfig | LinearHeadConfig, Field(discriminator="name"), named("mask2former")
]
