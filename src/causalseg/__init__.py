"""causalseg: fine-tune a frozen vision foundation model for segmentation on unseen domains."""

from typing import TYPE_CHECKING, Any

from causalseg.version import __version__

if TYPE_CHECKING:
    from causalseg.adapters.base import Adapter, attach
    from causalseg.adapters.base import trainable_parameters as count_trainable
    from causalseg.adapters.causal_tune import CausalTune
    from causalseg.build.adapter import load_adapter
    from causalseg.build.loaded import LoadedModel, load
    from causalseg.build.model import load_run as load_segmenter
    from causalseg.config.initialisation import Init
    from causalseg.engine.prediction import Prediction
    from causalseg.model import Segmenter

__all__ = [
    "Adapter",
    "CausalTune",
    "Init",
    "LoadedModel",
    "Prediction",
    "Segmenter",
    "__version__",
    "attach",
    "count_trainable",
    "load",
    "load_adapter",
    "load_segmenter",
]

_PLACES = {
    "Adapter": ("causalseg.adapters.base", "Adapter"),
    "CausalTune": ("causalseg.adapters.causal_tune", "CausalTune"),
    "Init": ("causalseg.config.initialisation", "Init"),
    "Segmenter": ("causalseg.model", "Segmenter"),
    "attach": ("causalseg.adapters.base", "attach"),
    "count_trainable": ("causalseg.adapters.base", "trainable_parameters"),
    "load_adapter": ("causalseg.build.adapter", "load_adapter"),
    "load": ("causalseg.build.loaded", "load"),
    "load_segmenter": ("causalseg.build.model", "load_run"),
    "LoadedModel": ("causalseg.build.loaded", "LoadedModel"),
    "Prediction": ("causalseg.engine.prediction", "Prediction"),
}


def __dir__() -> list[str]:
    """Return the public names, those not yet imported included."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command line must not wait for torch."""
    if name not in _PLACES:
        raise AttributeError(f"module 'causalseg' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)
