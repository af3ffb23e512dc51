"""Adapters: what trains beside a frozen backbone."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from causalseg.adapters.adaptformer import AdaptFormer
    from causalseg.adapters.base import Adapter, Chain, attach, trainable_parameters
    from causalseg.adapters.causal_lora import CausalLora
    from causalseg.adapters.causal_tune import CausalTune
    from causalseg.adapters.fada import Fada
    from causalseg.adapters.full import FullTune
    from causalseg.adapters.peft import PeftAdapter
    from causalseg.adapters.rein import Rein
    from causalseg.adapters.set import SetAdapter
    from causalseg.adapters.soma import Soma
    from causalseg.adapters.vpt import Vpt

__all__ = [
    "AdaptFormer",
    "Adapter",
    "CausalLora",
    "CausalTune",
    "Chain",
    "Fada",
    "FullTune",
    "PeftAdapter",
    "Rein",
    "SetAdapter",
    "Soma",
    "Vpt",
    "attach",
    "trainable_parameters",
]

_MODULES = {
    "base": ("Adapter", "Chain", "attach", "trainable_parameters"),
    "full": ("FullTune",),
    "set": ("SetAdapter",),
    "peft": ("PeftAdapter",),
    "adaptformer": ("AdaptFormer",),
    "causal_lora": ("CausalLora",),
    "causal_tune": ("CausalTune",),
    "fada": ("Fada",),
    "rein": ("Rein",),
    "soma": ("Soma",),
    "vpt": ("Vpt",),
}


def __getattr__(name: str) -> Any:
    """Import a method when it is first used: each needs other libraries."""
    from importlib import import_module

    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"causalseg.adapters.{module}"), name)
    raise AttributeError(f"module 'causalseg.adapters' has no attribute {name!r}")
