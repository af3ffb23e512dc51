"""Full fine-tuning: every parameter of the backbone trains, shallow ones more slowly.

    learning rate of block l = base * rate * layer_decay ** (depth - 1 - l)
    of everything before the blocks: l = -1

Layer-wise decay follows ELECTRA and BEiT (arXiv 2003.10555, 2106.08254). The adapter owns copies
of the parameters; while attached they replace the frozen ones.
"""

from typing import Any

from torch import nn

from causalseg.adapters.base import Adapter, Removable, Swap
from causalseg.backbones.trunk import find_trunk
from causalseg.config.adapters import FullConfig
from causalseg.config.mistakes import check
from causalseg.errors import ConfigError

# No part of a block's output: what timm's models do after the last block, or only in pre-training.
_UNUSED = ("norm", "fc_norm", "head", "head_dist", "fc", "attn_pool", "neck", "mask_token")
_TABLES = ("relative_position_bias_table", "rel_pos_h", "rel_pos_w")
_TOKENS = ("pos_embed", "cls_token", "dist_token", "reg_token")


class FullTune(Adapter):
    """Trainable copies of the backbone's parameters: `values`, by name with "/" for ".".

    With ``has_stem``, and always if all blocks train, so does what comes before the blocks: patch
    embedding, positions, class and register tokens. The options are the fields of `FullConfig`.
    """

    needs_model = True

    def __init__(self, vit: nn.Module, *, has_stem: bool = False, **options: Any):
        checked = check(FullConfig, options)
        trunk = find_trunk(vit)
        super().__init__(trunk.widths, len(trunk.names), checked.layers)
        self.options = checked
        has_stem = has_stem or checked.layers is None
        self.has_stem = has_stem
        self.base_rate, self.layer_decay = checked.rate, checked.layer_decay
        self._blocks = tuple(f"{name}." for name in trunk.names)
        chosen = tuple(self._blocks[layer] for layer in self.layers)
        values = {}
        for name, parameter in vit.named_parameters():
            is_stem = not name.startswith(self._blocks) and name.split(".")[0] not in _UNUSED
            if name.startswith(chosen) or (has_stem and is_stem):
                values[name.replace(".", "/")] = nn.Parameter(parameter.detach().clone())
        self.values = nn.ParameterDict(values)
        self._swaps: dict[str, Swap] = {}

    def install(self, vit: nn.Module) -> list[Removable]:
        """Replace the model's parameters; raise ConfigError if it has no such parameters."""
        frozen = dict(vit.named_parameters())
        swaps = []
        for key, value in self.values.items():
            name = key.replace("/", ".")
            if name not in frozen or frozen[name].shape != value.shape:
                raise ConfigError(
                    f"the model has no parameter {name} of shape {tuple(value.shape)}: attach to a "
                    "model like the one the adapter was made for, this adapter before others"
                )
            owner, _, attribute = name.rpartition(".")
            swaps.append((vit.get_submodule(owner), attribute, value))
        made = [Swap(*swap) for swap in swaps]
        self._swaps = dict(zip(self.values, made, strict=True))
        return [*made]

    def describe(self) -> dict[str, Any]:
        """Return what it is, whether the stem trains included."""
        return {**super().describe(), "has_stem": self.has_stem}

    def tie(self) -> None:
        """Place the parameters again."""
        for key, swap in self._swaps.items():
            if swap.is_on_top:
                swap.replace(self.values[key])

    def rate(self, name: str) -> float:
        """Return the factor on the learning rate, which falls from the last block to the stem."""
        path = name.removeprefix("values.").replace("/", ".")
        starts = [path.startswith(block) for block in self._blocks]
        block = starts.index(True) if any(starts) else -1
        return self.base_rate * self.layer_decay ** (self.depth - 1 - block)

    def is_decayed(self, name: str) -> bool:
        """Decay weight matrices, not biases, norms, LayerScale, positions and tokens."""
        is_position = name.endswith(_TABLES) or name.removeprefix("values.") in _TOKENS
        return self.get_parameter(name).ndim > 1 and not is_position
