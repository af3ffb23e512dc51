"""SoMA (Yun et al., CVPR 2025, arXiv 2412.04077): train the minor singular components of a weight.

The large singular components of a pre-trained weight hold what it knows in general; the smallest
ones can change at little loss. With W = U S V^T, singular values falling, and the last r of them:

    (1) B0 = U_r S_r^1/2,  A0 = S_r^1/2 V_r^T
    (2) W_res = W - B0 A0                       frozen
    (3) W' = W_res + B A                        B, A start as B0, A0: the start is W

The layers are peft's LoRA with scale 1; this file sets their start and swaps W_res in.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from causalseg.adapters.base import Removable, Swap
from causalseg.adapters.peft import PeftAdapter, lora_config
from causalseg.errors import ConfigError


class Soma(PeftAdapter):
    """The minor singular components of linear layers train.

    The components are computed in float64 on the CPU, so they are the same on every machine; W_res
    is made anew at every attachment and is never saved.

    Args:
        vit: the backbone; stays as it is.
        rank: r, components of a layer.
        targets: linear layers of a block, such as ``attn.qkv``; ``all`` for every one.
        layers: the blocks it works on; None for all.
        train_bias: also train the biases of these layers; the published code trains all biases.

    Raises:
        ConfigError: if a target names no linear layer, the rank is above a side of a weight, or
            there is no bias to train.
    """

    def __init__(
        self,
        vit: nn.Module,
        rank: int = 16,
        targets: Sequence[str] = "all",
        layers: Sequence[int] | None = None,
        train_bias: bool = False,
    ):
        lora = lora_config(rank, rank, targets=targets, train_bias=train_bias)
        super().__init__(vit, lora, layers)
        self._start: dict[str, tuple[Tensor, Tensor]] = {}
        for path, shape in self._shapes.items():
            if rank > min(shape):
                raise ConfigError(
                    f"rank = {rank}: {path} has {min(shape)} singular components, rank must not be "
                    "above that"
                )
            weight = vit.get_parameter(f"{path}.weight")
            if weight.is_meta:  # a model without numbers, to check options and count parameters
                continue
            start = minor_components(weight, rank)
            key = path.replace(".", "/")
            with torch.no_grad():
                for letter, factor in zip("BA", start, strict=True):
                    self.values[f"{key}/lora_{letter}/default/weight"].copy_(factor)
            self._start[path] = start

    def install(self, vit: nn.Module) -> list[Removable]:
        """Put peft's layers in their places, around linear layers with the weight W_res."""
        linears = {path: vit.get_submodule(path) for path in self._shapes}
        handles = super().install(vit)
        for path, linear in linears.items():
            W: Tensor = linear.weight  # type: ignore[assignment]
            if W.is_meta:
                continue
            B0, A0 = (factor.cpu().double() for factor in self._start[path])
            W_res = (W.detach().cpu().double() - B0 @ A0).to(W)  # (2)
            handles.append(Swap(linear, "weight", nn.Parameter(W_res, requires_grad=False)))
        return handles


def minor_components(
    W: Float[Tensor, "o i"], rank: int
) -> tuple[Float[Tensor, "o r"], Float[Tensor, "r i"]]:
    """Return B0, A0: the factors of the ``rank`` smallest singular components, in W's dtype."""
    U, S, Vt = torch.linalg.svd(W.detach().cpu().double(), full_matrices=False)
    root = S[-rank:].sqrt()
    B0, A0 = U[:, -rank:] * root, root[:, None] * Vt[-rank:]  # (1)
    return B0.to(W), A0.to(W)
