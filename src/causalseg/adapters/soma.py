"""SoMA (Yun et al., CVPR 2025, arXiv 2412.04077): train the minor singular components of a weight.

The large singular components of a pre-trained weight carry its general knowledge; the smallest ones
can change at little loss. With W = U S V^T, singular values falling, and the last r of them:

    (1) B0 = U_r S_r^1/2,  A0 = S_r^1/2 V_r^T
    (2) W_res = W - B0 A0                       frozen
    (3) W' = W_res + B A                        B = B0, A = A0 at first, so that W' = W

The layers are peft's LoRA with scale 1; this file initialises them and replaces W by W_res.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from causalseg.adapters.base import Removable, Swap
from causalseg.adapters.peft import PeftAdapter
from causalseg.config.adapters import LoraAdapterConfig, SomaConfig
from causalseg.config.mistakes import check
from causalseg.errors import ConfigError


class Soma(PeftAdapter):
    """The minor singular components of linear layers train.

    They are computed in float64 on the CPU, so they are the same on every machine; W_res is
    computed at every attachment and never saved. The options are the fields of `SomaConfig`.

    Raises:
        ConfigError: as `PeftAdapter`, or if the rank is above a side of a weight.
    """

    def __init__(self, vit: nn.Module, **options: Any):
        checked = check(SomaConfig, options)
        rank = checked.rank
        lora = {"alpha": float(rank)} | checked.model_dump(exclude={"name"})
        super().__init__(vit, LoraAdapterConfig(**lora))
        self.options = checked
        self._initial: dict[str, tuple[Tensor, Tensor]] = {}
        for path, shape in self._shapes.items():
            check_rank(rank, path, shape)
            weight = vit.get_parameter(f"{path}.weight")
            if weight.is_meta:  # a model without values, to check options and count parameters
                continue
            factors = minor_components(weight, rank)
            key = path.replace(".", "/")
            with torch.no_grad():
                for letter, factor in zip("BA", factors, strict=True):
                    self.values[f"{key}/lora_{letter}/default/weight"].copy_(factor)
            self._initial[path] = factors

    def install(self, vit: nn.Module) -> list[Removable]:
        """Install peft's layers around linear layers with the weight W_res."""
        linears = {path: vit.get_submodule(path) for path in self._shapes}
        handles = super().install(vit)
        for path, linear in linears.items():
            W: Tensor = linear.weight  # type: ignore[assignment]
            if W.is_meta:
                continue
            B0, A0 = (factor.cpu().double() for factor in self._initial[path])
            W_res = (W.detach().cpu().double() - B0 @ A0).to(W)  # (2)
            handles.append(Swap(linear, "weight", nn.Parameter(W_res, requires_grad=False)))
        return handles


def check_rank(rank: int, path: str, shape: tuple[int, ...]) -> None:
    """Raise ConfigError if a weight has fewer singular components than ``rank``."""
    if rank > min(shape):
        raise ConfigError(
            f"rank = {rank}: {path} has {min(shape)} singular components, rank must not be above "
            "that"
        )


def minor_components(
    W: Float[Tensor, "o i"], rank: int
) -> tuple[Float[Tensor, "o r"], Float[Tensor, "r i"]]:
    """Return B0, A0: the factors of the ``rank`` smallest singular components, in W's dtype."""
    U, S, Vt = torch.linalg.svd(W.detach().cpu().double(), full_matrices=False)
    root = S[-rank:].sqrt()
    B0, A0 = U[:, -rank:] * root, root[:, None] * Vt[-rank:]  # (1)
    return B0.to(W), A0.to(W)
