"""AdaptFormer (Chen et al., NeurIPS 2022, arXiv 2205.13535): a side path beside every block's MLP.

With x' the tokens after a block's attention:

    (1) side = ReLU(LN(x') W_down + b_down) W_up + b_up
    (2) out  = x' + MLP(LN(x')) + s side

W_up, b_up and b_down are 0 at first. A hook on ``mlp`` takes LN(x'), one on ``drop_path2``, the
last step before the sum, adds the side path: outside of LayerScale.
"""

import math
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from causalseg.adapters.base import Adapter, Removable
from causalseg.backbones.trunk import PerThread, find_trunk
from causalseg.config.adapters import AdaptFormerConfig
from causalseg.config.mistakes import check
from causalseg.errors import ConfigError


class AdaptFormer(Adapter):
    """A bottleneck beside the MLP of every block; for all tokens, prefix tokens too."""

    has_one_width = True

    def __init__(self, width: int, depth: int, **options: Any):
        checked = check(AdaptFormerConfig, options)
        super().__init__(width, depth, checked.layers)
        self.options = checked
        self.sides = nn.ModuleList(
            _SidePath(width, checked.bottleneck, checked.scale) for _ in self.layers
        )

    def install(self, vit: nn.Module) -> list[Removable]:
        """Hook the side path into blocks with ``mlp`` and ``drop_path2``, else ConfigError."""
        handles: list[Removable] = []
        names = find_trunk(vit).names
        blocks: list[Any] = [vit.get_submodule(names[layer]) for layer in self.layers]
        for block in blocks:
            if not (hasattr(block, "mlp") and hasattr(block, "drop_path2")):
                raise ConfigError(
                    f"{type(block).__name__} has no mlp and drop_path2: AdaptFormer needs blocks "
                    "like timm's Block or EvaBlock"
                )
        for side, block in zip(self.sides, blocks, strict=True):
            hook = _SideHook(side)
            handles.append(block.mlp.register_forward_hook(hook.take))
            handles.append(block.drop_path2.register_forward_hook(hook.add))
        return handles


class _SidePath(nn.Module):
    """``s side`` of one block."""

    def __init__(self, width: int, bottleneck: int, scale: float):
        super().__init__()
        self.scale = scale
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        hidden = self.down(tokens.to(self.down.weight.dtype)).relu()
        return self.scale * self.up(hidden)  # (1)


class _SideHook:
    """Takes the input of a block's MLP and adds its side path to the output of `drop_path2`."""

    def __init__(self, side: nn.Module):
        self.side = side
        self.tokens = PerThread[Tensor]()

    def take(self, mlp: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.tokens.put(inputs[0])

    def add(self, drop_path: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        tokens = self.tokens.get()
        self.tokens.put(None)
        return output + self.side(tokens).to(output.dtype)  # (2)
