"""LoRA, DoRA and kin: the library `peft` inside the linear layers of a frozen ViT.

LoRA (Hu et al., ICLR 2022, arXiv 2106.09685) adds a product of two thin matrices to a weight that
stays frozen; DoRA (Liu et al., ICML 2024, arXiv 2402.09353) learns the length of its rows too:

    LoRA: W' = W + (alpha / r) B A                  A (r, in), B (out, r), B = 0 at first
    DoRA: W' = m (W + (alpha / r) B A) / norm       norm: of each row, a constant for gradients

All formulas are peft's. Its layers are made on copies of the linear layers and replace them while
the adapter is attached; making an adapter never changes the model. The parameters of a layer are
stored under its path, with "/" for ".", in float32 even beside a backbone in half precision. So are
trained biases (``bias="lora_only"`` in peft): copies that replace the frozen ones, as precise.
"""

import copy
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Self

import torch
from peft import LoraConfig, PeftConfig, PeftType, inject_adapter_in_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn

from causalseg.adapters.base import Adapter, Removable, Swap
from causalseg.backbones.trunk import find_trunk
from causalseg.config.adapters import DoraAdapterConfig, LoraAdapterConfig, PeftAdapterConfig
from causalseg.config.mistakes import check
from causalseg.errors import ConfigError, did_you_mean

# Types that act layer by layer and store everything in parameters, or a seed. The others share
# weights between layers, need data, a schedule or task ids, mix images, or are initialised by an
# SVD of the weight that is not stored.
_KNOWN = (
    "BEFT C3A DEFT DELORA FOURIERFT GLORA GRALORA HIRA HRA IA3 LOHA LOKR LORA MISS OFT PEANUT "
    "RANDLORA ROAD WAVEFT"
)
PEFT_TYPES = tuple(name for name in _KNOWN.split() if name in PeftType.__members__)
_ALL = "all"
_BLOCKS: dict[str, type[LoraAdapterConfig | PeftAdapterConfig]] = {
    "lora": LoraAdapterConfig,
    "dora": DoraAdapterConfig,
    "peft": PeftAdapterConfig,
}
_TORCH_ATTENTION = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.MultiheadAttention)
# A block within a stage: targets are named within a block.
_IN_STAGE = re.compile(r"^(blocks\.)?\d+\.")
# EVA's and BEiT's attention does not call the layer `qkv`, unless this flag is set.
_BIAS_APART = "qkv_bias_separate"
_TRAINED_BIAS: Final = "lora_only"  # peft's name for the biases of the adapted layers
# Set by `targets`, `layers` and this package, or metadata of peft's own files.
_RESERVED = {field.name for field in dataclasses.fields(PeftConfig)}
_RESERVED |= {"target_modules", "exclude_modules", "modules_to_save", "bias"}
_RESERVED |= {"layers_to_transform", "layers_pattern"}


@torch.compiler.substitute_in_graph(dequantize_module_weight)
def _plain_weight(module: nn.Module) -> nn.Parameter:
    """Replace peft's function in a traced graph: Dynamo of torch 2.14 cannot follow its check."""
    weight: Any = module.weight
    if weight.__class__.__name__ in ("Params4bit", "Int8Params"):  # of bitsandbytes
        raise TypeError("a quantized weight under DoRA cannot be compiled beside causalseg")
    return weight


def peft_config(options: LoraAdapterConfig | PeftAdapterConfig) -> PeftConfig:
    """Return peft's configuration of a method that acts layer by layer.

    Raises ConfigError if its type or an option is unknown, or peft refuses a value.
    """
    if isinstance(options, LoraAdapterConfig):
        return LoraConfig(
            r=options.rank,
            lora_alpha=options.alpha,  # type: ignore[arg-type]  # floats work
            lora_dropout=options.dropout,
            use_dora=isinstance(options, DoraAdapterConfig),
            target_modules=options.targets,
            bias=_TRAINED_BIAS if options.bias == "adapted" else "none",
        )
    if options.type not in PEFT_TYPES:
        raise ConfigError(f"peft type {options.type!r}: {did_you_mean(options.type, PEFT_TYPES)}")
    make = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(options.type)]
    known = {field.name for field in dataclasses.fields(make) if field.init} - _RESERVED
    for name in sorted(options.options.keys() - known):
        raise ConfigError(f"peft {options.type} has no option {name}: {did_you_mean(name, known)}")
    defaults: dict[str, Any] = {"feedforward_modules": []} if options.type == "IA3" else {}
    try:
        return make(target_modules=options.targets, **(defaults | options.options))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"peft {options.type} refuses {options.options}: {error}") from error


class PeftAdapter(Adapter):
    """Layers of peft in place of linear layers; their parameters, `values`, train and are saved.

    Raises ConfigError if a target is no linear layer of a block, ``bias`` is adapted without a bias
    to train, or peft refuses an option or the sizes.
    """

    needs_model = True

    def __init__(self, vit: nn.Module, options: LoraAdapterConfig | PeftAdapterConfig):
        if not isinstance(options, LoraAdapterConfig | PeftAdapterConfig):
            raise ConfigError(
                f"PeftAdapter takes a LoraAdapterConfig, DoraAdapterConfig or PeftAdapterConfig, "
                f"not {type(options).__name__}: or use PeftAdapter.for_model(vit, name='lora')"
            )
        trunk = find_trunk(vit)
        super().__init__(trunk.widths, len(trunk.names), options.layers)
        self.options = options
        targets: set[str] = {_ALL} if isinstance(options.targets, str) else set(options.targets)
        linears = find_linears(vit, targets, [trunk.names[layer] for layer in self.layers])
        # A plain dict: the layers are no submodules here, as they hold layers of the backbone.
        self._tuners, biases = _make_tuners(peft_config(options), linears)
        self._biases = {path: f"{path}.bias".replace(".", "/") for path in biases}
        self._shapes = {path: tuple(linear.weight.shape) for path, linear in linears.items()}
        self._placements: list[_Placement] = []
        self._bias_swaps: dict[str, Swap] = {}
        values = {self._biases[path]: bias for path, bias in biases.items()}
        self._places: dict[str, tuple[str, str]] = {}  # of a value: layer, parameter of its tuner
        for path, tuner in self._tuners.items():
            for name, parameter in tuner.named_parameters():
                key = f"{path}.{name}".replace(".", "/")
                values[key], self._places[key] = _widen(parameter), (path, name)
        self.values = nn.ParameterDict(values)
        self.tie()

    @classmethod
    def for_model(cls, vit: nn.Module, **options: Any) -> Adapter:
        """Return ``PeftAdapter.for_model(vit, name="lora", rank=8)``, or dora, or peft."""
        if cls is not PeftAdapter:
            return super().for_model(vit, **options)
        name = options.get("name", "lora")
        if name not in _BLOCKS:
            raise ConfigError(f"name = {name!r}: {did_you_mean(str(name), _BLOCKS)}")
        return cls(vit, check(_BLOCKS[name], options))

    def install(self, vit: nn.Module) -> list[Removable]:
        """Replace the linear layers by peft's layers.

        Raises ConfigError if it is attached already, or they are missing or replaced by others.
        """
        if self._placements:
            raise ConfigError(f"{type(self).__name__} is attached to a model: detach it first")
        for path, shape in self._shapes.items():
            check_linear(vit, path, shape, path in self._biases)
        swaps: list[Removable] = []
        for path, tuner in self._tuners.items():
            parent, _, name = path.rpartition(".")
            owner = vit.get_submodule(parent)
            placement = _Placement(owner, name, tuner, self._placements)
            swaps += call_layer(owner, name)
            if path in self._biases:
                key = self._biases[path]
                self._bias_swaps[key] = Swap(placement.original, "bias", self.values[key])
                swaps.append(self._bias_swaps[key])
        return [*self._placements, *swaps]

    def tie(self) -> None:
        """Let peft's layers use the parameters as they are in `values`."""
        for key, (path, name) in self._places.items():
            module, _, attribute = name.rpartition(".")
            setattr(self._tuners[path].get_submodule(module), attribute, self.values[key])
        for key, swap in self._bias_swaps.items():
            if swap.is_on_top:
                swap.replace(self.values[key])

    def merge(self) -> None:
        """Replace peft's layers by plain linear layers with the adapted weights."""
        for placement in self._placements:
            placement.merge()

    def is_decayed(self, name: str) -> bool:
        """Decay matrices, not vectors such as factors per channel, which are 1 at first."""
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
        """Peft's layers and their submodules, without the backbone's layers."""
        for tuner in self._tuners.values():
            for name, module in tuner.named_modules():
                if name.partition(".")[0] != "base_layer":
                    yield module


class _Placement(Swap):
    """A layer of peft in place of a linear layer, until `remove`."""

    def __init__(self, owner: nn.Module, name: str, tuner: Any, placements: "list[_Placement]"):
        super().__init__(owner, name, tuner)
        tuner.base_layer = self.original
        self.tuner, self.placements = tuner, placements
        placements.append(self)

    def merge(self) -> None:
        """Put a plain linear layer here; the original keeps its weights."""
        merged = copy.deepcopy(self.tuner)
        merged.merge()
        self.replace(merged.base_layer)

    def remove(self) -> None:
        """Put the original back; peft's layer lets go of it."""
        super().remove()
        self.tuner.base_layer = None
        self.placements.remove(self)


def call_layer(owner: nn.Module, name: str) -> list[Swap]:
    """Let EVA's and BEiT's attention call its layer ``qkv`` instead of using its weight."""
    is_apart = name == "qkv" and hasattr(owner, _BIAS_APART)
    return [Swap(owner, _BIAS_APART, True)] if is_apart else []


def find_linears(vit: nn.Module, targets: set[str], blocks: Sequence[str]) -> dict[str, nn.Linear]:
    """Return the targeted linear layers of the ``blocks`` by their path in the model."""
    chosen, offered = {}, set()
    for block in blocks:
        modules = dict(vit.get_submodule(block).named_modules())
        if any(isinstance(module, _TORCH_ATTENTION) for module in modules.values()):
            raise ConfigError(
                f"{block} has one of torch's own attention layers, which do not call their linear "
                "layers: replacing these would have no effect. Choose another adapter, or write "
                "the attention with linear layers"
            )
        for path, module in modules.items():
            if isinstance(module, nn.Linear):
                name = _IN_STAGE.sub("", path)
                offered.add(name)
                if name in targets or _ALL in targets:
                    chosen[f"{block}.{path}"] = module
    missing = sorted(targets - offered - {_ALL})
    if missing or not chosen:
        allowed = f"allowed are {', '.join(sorted(offered))} or all"
        raise ConfigError(
            f"targets {sorted(targets)}: no linear layer {' or '.join(missing) or 'at all'} in "
            f"{', '.join(blocks)}; {allowed if offered else 'choose another adapter'}"
        )
    return chosen


def _make_tuners(
    config: PeftConfig, linears: Mapping[str, nn.Linear]
) -> tuple[dict[str, nn.Module], dict[str, nn.Parameter]]:
    """Let peft make its layers; return them without the linear layers, and biases that train."""
    copies = nn.Module()
    for path, linear in linears.items():
        owner = copies
        *parents, name = path.split(".")
        for parent in parents:
            if parent not in owner._modules:
                owner.add_module(parent, nn.Module())
            owner = owner.get_submodule(parent)
        owner.add_module(name, copy.deepcopy(linear))
    config = copy.deepcopy(config)
    config.target_modules = set(linears)
    try:
        inject_adapter_in_model(config, copies)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        kind = PeftType(config.peft_type).value
        raise ConfigError(f"peft {kind} refuses the layers: {error}") from error
    tuners: dict[str, Any] = {path: copies.get_submodule(path) for path in linears}
    biases = {}
    trains_bias = getattr(config, "bias", None) == _TRAINED_BIAS
    for path, tuner in tuners.items():
        base = tuner.get_submodule("base_layer")
        _check_unchanged(base, linears[path], path)
        if trains_bias and base.bias is not None:
            biases[path] = base.bias
        tuner.base_layer = None
    if trains_bias and not biases:
        raise ConfigError(
            f"bias = adapted has no effect: {', '.join(linears)} have no bias. Choose other "
            "targets, or leave bias out"
        )
    return tuners, biases


def _widen(parameter: nn.Parameter) -> nn.Parameter:
    """Return a parameter in float32 if it is in half precision, where small steps are lost."""
    if parameter.dtype in (torch.float16, torch.bfloat16):
        return nn.Parameter(parameter.detach().float())
    return parameter


def _check_unchanged(base: nn.Module, linear: nn.Linear, path: str) -> None:
    """Raise if peft changed the frozen layer when it made its own."""
    pairs = zip(base.parameters(), linear.parameters(), strict=True)
    is_meta = linear.weight.is_meta  # a model without values, to count parameters
    if not is_meta and not all(torch.equal(new, old) for new, old in pairs):
        raise ConfigError(
            f"{path}: this initialisation of peft changes the frozen weight; choose another, or "
            "the adapter soma, which trains components of the weight"
        )


def check_linear(vit: nn.Module, path: str, shape: tuple[int, ...], has_bias: bool) -> None:
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
