"""A run that is served, and the views of it: without its adapter, with another band."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from causalseg.adapters.causal_tune import CausalTune
from causalseg.analysis.colours import pca_colours
from causalseg.build.loaded import LoadedModel
from causalseg.engine.infer import model_size
from causalseg.errors import ConfigError
from causalseg.heads.pyramid import resize
from causalseg.spectral.bands import band_pass

Band = tuple[float, float]
_LEAST, _MOST = 0.01, 3.0  # of a radius


class Variant(NamedTuple):
    """How a run is looked at; jobs with equal views may be predicted together.

    ``band`` are other radii R_L and R_H for Causal-Tune.
    """

    has_adapter: bool = True
    band: Band | None = None


class Served:
    """A model and what it is called; ``again`` loads it once more.

    ``band`` are the radii of Causal-Tune, where the run has it and both are set.
    """

    def __init__(self, name: str, model: LoadedModel, again: Callable[[], LoadedModel]):
        self.name, self.model, self._again = name, model, again
        radii = [(adapter.low, adapter.high) for adapter in _tuned(model)]
        both = [(low, high) for low, high in radii if low is not None and high is not None]
        self.band: Band | None = both[0] if both else None

    @property
    def has_adapter(self) -> bool:
        """Whether something adapts the backbone."""
        return any(model.adapter is not None for model in self.model.models)

    def check(self, view: Variant) -> None:
        """Raise ConfigError if the run has no such view."""
        if view.band is None:
            return
        low, high = view.band
        if self.band is None:
            raise ConfigError(f"{self.name} has no band: low and high are for Causal-Tune")
        if not (_LEAST <= low <= high - _LEAST and high <= _MOST):
            raise ConfigError(
                f"low {low:g} and high {high:g}: give {_LEAST} to {_MOST:g}, low the smaller by "
                f"{_LEAST} at least"
            )

    @contextmanager
    def seen(self, view: Variant) -> Iterator[LoadedModel]:
        """Give the model as the view has it; for one thread."""
        if not view.has_adapter:
            yield self._bare
            return
        adapters = _tuned(self.model) if view.band else []
        before = [(adapter.low, adapter.high) for adapter in adapters]
        try:
            for adapter in adapters:
                assert view.band is not None
                adapter.low, adapter.high = view.band
            yield self.model
        finally:
            for adapter, band in zip(adapters, before, strict=True):
                adapter.low, adapter.high = band

    @torch.inference_mode()
    def draw_band(
        self, image: Float[Tensor, "3 H W"], view: Variant
    ) -> tuple[Image.Image, Image.Image]:
        """Return the last features in the band and the rest, as colours of one basis."""
        low, high = view.band or self.band or (None, None)
        with self.seen(view) as loaded:
            model = loaded.models[0]
            patch, size = (
                model.backbone.patch,
                model_size(loaded.config.inference, *image.shape[1:]),
            )
            h, w = (max(patch, round(side / patch) * patch) for side in size)
            device = next(model.head.parameters()).device
            resized = resize(image[None].to(device), (h, w), antialias=True)
            features = model.backbone(resized)[-1].float().movedim(1, -1)
        causal = band_pass(features, low, high)
        _, inside, outside = pca_colours(
            [part[0].cpu() for part in (features, causal, features - causal)]
        )
        full = (image.shape[2], image.shape[1])
        smooth = Image.Resampling.BICUBIC
        return tuple(Image.fromarray(part).resize(full, smooth) for part in (inside, outside))  # type: ignore[return-value]

    @cached_property
    def _bare(self) -> LoadedModel:
        loaded = self._again()
        for model in loaded.models:
            if model.attachment is not None:
                model.attachment.detach()
        return loaded


def _tuned(loaded: LoadedModel) -> list[CausalTune]:
    parts = [part for model in loaded.models for part in model.modules()]
    return [part for part in parts if isinstance(part, CausalTune)]
