"""LoRA, DoRA and kin: the library `peft` inside the linear layers of a frozen ViT.

LoRA (Hu et al., ICLR 2022, arXiv 2106.09685) adds a product of two thin matrices to a weight that
stays frozen; DoRA (Liu et al., ICML 2024, arXiv 2402.09353) learns the length of its rows too:

    LoRA: W' = W + (alpha / r) B A                  A (r, in), B (out, r), B = 0 at the start
    DoRA: W' = m (W + (alpha / r) B A) / norm       norm: of each row, a constant for gradients

All formulas are peft's. Here its layers are made on copies of the linear layers, take their places
when the adapter is attached, and leave when it is detached; a model is never changed by making an
adapter for it. What peft makes for a layer is stored under the layer's path, with "/" for ".".
So are biases that peft lets train (``bias="lora_only"``): they are its copies, and take the places
of the frozen ones likewise.
"""

import copy
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from peft import PeftConfig, PeftType, inject_adapter_in_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn

from causalseg.adapters.base import Adapter, Removable, Swap
from causalseg.backbones.trunk import find_trunk
from causalseg.errors import ConfigError, did_you_mean

# Types that act layer by layer and keep all they know in parameters, or in a seed. The others share
# weights between layers, need data, a schedule or task ids, mix images, or start from an SVD of the
# weight that nothing stores.
_KNOWN = (
    *("BEFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "GLORA", "GRALORA", "HIRA", "HRA", "IA3"),
    *("LOHA", "LOKR", "LORA", "MISS", "OFT", "PEANUT", "RANDLORA", "ROAD", "WAVEFT"),
)
PEFT_TYPES = tuple(name for name in _KNOWN if name in PeftType.__members__)
_ALL = "all"
_PAST_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.MultiheadAttention)
# A block within a stage: targets are named within a block.
_IN_STAGE = re.compile(r"^(blocks\.)?\d+\.")
# EVA's and BEiT's attention reads the weight past the layer `qkv`, unless this flag is set.
_BIAS_APART = "qkv_bias_separate"
_TRAINED_BIAS = "lora_only"  # peft's name for the biases of the adapted layers
# What `targets`, `layers` and this package decide, and peft's notes for its own files.
_RESERVED = frozenset(
    (
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
        *("modules_to_save", "bias", "inference_mode", "peft_type", "task_type"),
        *("auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    )
)


@torch.compiler.substitute_in_graph(dequantize_module_weight)
def _plain_weight(module: nn.Module) -> nn.Parameter:
    """Stand in for peft's function in a traced graph: Dynamo of torch 2.14 cannot follow its check.

    Raises:
        TypeError: for a quantized weight; causalseg makes none.
    """
    weight = module.weight
    if weight.__class__.__name__ in ("Params4bit", "Int8Params"):  # of bitsandbytes
        raise TypeError("a quantized weight under DoRA cannot be compiled beside causalseg")
    return weight  # type: ignore[return-value]


def lora_config(
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    targets: Sequence[str] = ("attn.qkv",),
    use_dora: bool = False,
    train_bias: bool = False,
) -> PeftConfig:
    """Configure LoRA or DoRA.

    Args:
        rank: r.
        alpha: the product of A and B is scaled by alpha / r.
        dropout: probability in [0, 1) that an input of A is dropped in training.
        targets: linear layers of a block, such as ``attn.qkv``; ``all`` for every one.
        use_dora: also learn the length of the weight's rows.
        train_bias: also train the biases of these layers.

    Raises:
        ConfigError: if a number is out of range.
    """
    if rank < 1 or alpha <= 0 or not 0 <= dropout < 1:
        raise ConfigError(
            f"rank = {rank}, alpha = {alpha}, dropout = {dropout}: allowed are rank from 1, "
            "alpha above 0, dropout in [0, 1)"
        )
    options = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "use_dora": use_dora}
    config = peft_config("LORA", options, targets)
    if train_bias:
        config.bias = _TRAINED_BIAS
    return config


def peft_config(
    type: str, options: Mapping[str, Any], targets: Sequence[str] = ("attn.qkv",)
) -> PeftConfig:
    """Configure any method of peft that acts layer by layer.

    Args:
        type: a name of `PEFT_TYPES`, such as ``LOHA``.
        options: fields of peft's configuration of that type, such as ``{"r": 4}``.
        targets: linear layers of a block, such as ``attn.qkv``; ``all`` for every one.

    Raises:
        ConfigError: if the type or an option is not known, or peft refuses a value.
    """
    _check_type(type)
    make = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(type)]
    known = {field.name for field in dataclasses.fields(make) if field.init} - _RESERVED
    unknown = sorted(options.keys() - known)
    if unknown:
        raise ConfigError(
            f"peft {type} has no option {unknown[0]}: {did_you_mean(unknown[0], known)}"
        )
    modules = targets if isinstance(targets, str) else list(targets)
    defaults: dict[str, Any] = {"feedforward_modules": []} if type == "IA3" else {}
    try:
        return make(target_modules=modules, **(defaults | dict(options)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"peft {type} refuses {dict(options)}: {error}") from error


class PeftAdapter(Adapter):
    """Layers of peft in the places of linear layers.

    Args:
        vit: the backbone; stays as it is.
        config: from `lora_config` or `peft_config`.
        layers: the blocks it works on; None for all.

    Attributes:
        values: the parameters that peft made, by path; what trains and is saved.

    Raises:
        ConfigError: if the type of the configuration is not offered, a target names no linear
            layer of a block, biases are to train and there is none, or peft refuses the sizes.
    """

    def __init__(self, vit: nn.Module, config: PeftConfig, layers: Sequence[int] | None = None):
        trunk = find_trunk(vit)
        super().__init__(trunk.widths, len(trunk.names), layers)
        _check_type(PeftType(config.peft_type).value)
        named = config.target_modules
        targets = {named} if isinstance(named, str) else set(named or ())
        linears = _find_linears(vit, targets, [trunk.names[layer] for layer in self.layers])
        # A plain dict: the layers are no submodules here, as they hold layers of the backbone.
        self._tuners, biases = _make_tuners(config, linears)
        self._biases = {path: f"{path}.bias".replace(".", "/") for path in biases}
        self._shapes = {path: tuple(linear.weight.shape) for path, linear in linears.items()}
        self._placements: list[_Placement] = []
        self.values = nn.ParameterDict(
            {
                f"{path}.{name}".replace(".", "/"): parameter
                for path, tuner in self._tuners.items()
                for name, parameter in tuner.named_parameters()
            }
            | {self._biases[path]: bias for path, bias in biases.items()}
        )

    def install(self, vit: nn.Module) -> list[Removable]:
        """Put peft's layers in the places of the linear layers.

        Raises:
            ConfigError: if it is at work already, the model has no such layers, or another adapter
                has taken their places.
        """
        if self._placements:
            raise ConfigError(f"{type(self).__name__} is attached to a model: detach it first")
        for path, shape in self._shapes.items():
            _check_linear(vit, path, shape, path in self._biases)
        swaps: list[Removable] = []
        for path, tuner in self._tuners.items():
            parent, _, name = path.rpartition(".")
            owner = vit.get_submodule(parent)
            placement = _Placement(owner, name, tuner, self._placements)
            if name == "qkv" and hasattr(owner, _BIAS_APART):
                swaps.append(Swap(owner, _BIAS_APART, True))
            if path in self._biases:
                swaps.append(Swap(placement.original, "bias", self.values[self._biases[path]]))
        return [*self._placements, *swaps]

    def merge(self) -> None:
        """Put plain linear layers with the adapted weights in the places of peft's layers."""
        for placement in self._placements:
            placement.merge()

    def is_decayed(self, name: str) -> bool:
        """Matrices are decayed; factors per channel and other vectors, at rest at 1, are not."""
        shape = self.get_parameter(name).shape
        return len(shape) > 1 and min(shape) > 1

    def train(self, mode: bool = True) -> Self:
        """Set training mode, dropout of peft's layers included."""
        for module in self._own_modules():
            module.training = mode
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or convert the buffers of peft's layers too; their parameters are `values`."""
        for module in self._own_modules():
            for name, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, name, fn(buffer))
        return super()._apply(fn, recurse)

    def _own_modules(self) -> Iterator[nn.Module]:
        """Peft's layers and what is in them, without the backbone's layers."""
        for tuner in self._tuners.values():
            for name, module in tuner.named_modules():
                if name.partition(".")[0] != "base_layer":
                    yield module


class _Placement(Swap):
    """A layer of peft in the place of a linear layer, until `remove`."""

    def __init__(
        self, owner: nn.Module, name: str, tuner: nn.Module, placements: "list[_Placement]"
    ):
        super().__init__(owner, name, tuner)
        tuner.base_layer = self.original
        self.tuner, self.placements = tuner, placements
        placements.append(self)

    def merge(self) -> None:
        """Put a plain linear layer here; the original keeps its weights."""
        merged = copy.deepcopy(self.tuner)
        merged.merge()  # type: ignore[operator]
        setattr(self.owner, self.name, merged.base_layer)

    def remove(self) -> None:
        """Put the original back; peft's layer lets go of it."""
        super().remove()
        self.tuner.base_layer = None  # type: ignore[assignment]
        self.placements.remove(self)


def _check_type(type: str) -> None:
    if type not in PEFT_TYPES:
        raise ConfigError(f"peft type {type!r}: {did_you_mean(type, PEFT_TYPES)}")


def _find_linears(vit: nn.Module, targets: set[str], blocks: Sequence[str]) -> dict[str, nn.Linear]:
    """Return the targeted linear layers of the ``blocks`` by their path in the model."""
    found, used, offered = {}, set(), set()
    for block in blocks:
        if any(isinstance(module, _PAST_LAYERS) for module in vit.get_submodule(block).modules()):
            raise ConfigError(
                f"{block} holds one of torch's own attention layers, which read their weights past "
                "the linear layers: nothing put in their places would have an effect. Choose "
                "another adapter, or write the attention with linear layers of your own"
            )
        for path, module in vit.get_submodule(block).named_modules():
            if not isinstance(module, nn.Linear):
                continue
            name = _IN_STAGE.sub("", path)
            offered.add(name)
            if name in targets or _ALL in targets:
                found[f"{block}.{path}"] = module
                used.add(name)
    missing = sorted(targets - used - {_ALL})
    if missing or not found:
        raise ConfigError(
            f"targets {sorted(targets)}: no linear layer {' or '.join(missing) or 'at all'} in "
            f"{', '.join(blocks)}; allowed are "
            + (
                ", ".join([*sorted(offered), "or all"])
                if offered
                else "other backbones or adapters"
            )
        )
    return found


def _make_tuners(
    config: PeftConfig, linears: Mapping[str, nn.Linear]
) -> tuple[dict[str, nn.Module], dict[str, nn.Parameter]]:
    """Let peft make its layers around copies of ``linears``.

    Returns:
        The layers without the copies, and of these the biases that train.
    """
    copies = nn.Module()
    for path, linear in linears.items():
        parent, _, name = path.rpartition(".")
        _make_path(copies, parent).add_module(name, copy.deepcopy(linear))
    config = copy.deepcopy(config)
    config.target_modules = set(linears)
    try:
        inject_adapter_in_model(config, copies)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ConfigError(
            f"peft {PeftType(config.peft_type).value} refuses the layers: {error}"
        ) from error
    tuners = {path: copies.get_submodule(path) for path in linears}
    biases = {}
    trains_bias = getattr(config, "bias", None) == _TRAINED_BIAS
    for path, tuner in tuners.items():
        _check_tuner(tuner, linears[path], path, trains_bias)
        bias = tuner.get_submodule("base_layer").bias
        if trains_bias and bias is not None:
            biases[path] = bias
        tuner.base_layer = None  # type: ignore[assignment]
    if trains_bias and not biases:
        raise ConfigError(
            f"bias = adapted has no effect: {', '.join(linears)} have no bias. Choose other "
            "targets, or leave bias out"
        )
    return tuners, biases  # type: ignore[return-value]


def _make_path(root: nn.Module, path: str) -> nn.Module:
    """Return the submodule at ``path``, made of empty modules where there is none."""
    for name in path.split("."):
        if name not in root._modules:
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    return root


def _check_tuner(tuner: nn.Module, linear: nn.Linear, path: str, trains_bias: bool) -> None:
    """Raise unless peft left the frozen layer as it was and made something that trains."""
    base = tuner.get_submodule("base_layer") if isinstance(tuner, BaseTunerLayer) else tuner
    own = [p for p in tuner.parameters() if all(p is not frozen for frozen in base.parameters())]
    frozen = [p for name, p in base.named_parameters() if not (trains_bias and name == "bias")]
    if any(p.requires_grad for p in frozen) or not any(p.requires_grad for p in own):
        raise ConfigError(
            f"{path}: nothing trains, or biases beside those of the adapted layers do: leave "
            "peft's options bias, inference_mode and those that choose layers at their defaults"
        )
    if not linear.weight.is_meta and any(  # meta: a model without numbers, to count parameters
        not torch.equal(new, old)
        for new, old in zip(base.parameters(), linear.parameters(), strict=True)
    ):
        raise ConfigError(
            f"{path}: this initialisation of peft changes the frozen weight; choose another, or "
            "the adapter soma, which starts from components of the weight"
        )


def _check_linear(vit: nn.Module, path: str, shape: tuple[int, ...], has_bias: bool) -> None:
    """Raise unless the model has a plain linear layer of this shape, and bias, at ``path``."""
    try:
        layer = vit.get_submodule(path)
    except AttributeError:
        layer = nn.Identity()
    is_plain = isinstance(layer, nn.Linear) and not isinstance(layer, BaseTunerLayer)
    if not is_plain or layer.weight.shape != shape or (has_bias and layer.bias is None):
        raise ConfigError(
            f"{path} of the model is no plain Linear of shape {shape}{' with a bias' * has_bias}: "
            "attach to a model like the one the adapter was made for, and only one adapter of this "
            "kind to a layer"
        )
