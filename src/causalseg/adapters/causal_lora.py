"""Causal LoRA: LoRA whose bottleneck is filtered over the patch grid, each part by a band.

For a linear layer with weight W (o, i) and input x, parts k of r_k channels, r in all, and
s = alpha / r:

    (1) y = W x + s sum_k U_k F_k(V_k x)      V_k (r_k, i) as in LoRA, U_k (o, r_k) = 0 at first

F_k filters each channel over the grid of patches; prefix tokens pass it. With H and L the Gaussian
low-passes of radius R_H and R_L (`causalseg.spectral.bands`) it is one of

    (2) low  L        causal  H - L        high  1 - H        all  1

so that low + causal + high = all, and ``all`` alone is LoRA (Hu et al., ICLR 2022). A filter over
positions commutes with mixing channels, so it costs r channels, not i. From the minor components of
W (`causalseg.adapters.soma`), s U V at first, the initial term is subtracted; then ``all`` is SoMA.
"""

import functools
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from causalseg.adapters.base import Adapter, Removable, Swap
from causalseg.adapters.peft import call_layer, check_linear, find_linears
from causalseg.adapters.soma import check_rank, minor_components
from causalseg.backbones.trunk import PatchGrid, find_trunk, watch_grid
from causalseg.config.adapters import CausalLoraConfig
from causalseg.config.mistakes import check
from causalseg.errors import ConfigError
from causalseg.spectral.bands import band_pass
from causalseg.spectral.grid import GridSize, Tokens, grid_to_tokens, tokens_to_grid
from causalseg.spectral.transforms import widen


class CausalLora(Adapter):
    """Filtered low-rank updates of linear layers; the options are the fields of `CausalLoraConfig`.

    Attributes:
        values: V and U of every layer and part, by path with "/" for ".".
    """

    needs_model = True

    def __init__(self, vit: nn.Module, **options: Any):
        checked, trunk = check(CausalLoraConfig, options), find_trunk(vit)
        super().__init__(trunk.widths, len(trunk.names), checked.layers)
        self.options: CausalLoraConfig = checked
        blocks = [trunk.names[layer] for layer in self.layers]
        targets = [checked.targets] if isinstance(checked.targets, str) else checked.targets
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._sites: list[_Site] = []
        self.values = nn.ParameterDict()
        for path, linear in find_linears(vit, set(targets), blocks).items():
            self._shapes[path] = tuple(linear.weight.shape)
            V, U = self._start(linear, path)
            sizes = list(checked.ranks.values())
            for part, v, u in zip(checked.split, V.split(sizes), U.split(sizes, 1), strict=True):
                self.values[_key(path, part, "V")] = nn.Parameter(v.contiguous().clone())
                self.values[_key(path, part, "U")] = nn.Parameter(u.contiguous().clone())

    def install(self, vit: nn.Module) -> list[Removable]:
        """Hook the updates into the linear layers; ConfigError if tokens are no sequence there."""
        if self._sites:
            raise ConfigError("CausalLora is attached to a model: detach it first")
        if find_trunk(vit).layout != "tokens":
            raise ConfigError(
                f"the layers of {type(vit).__name__} do not see its patch tokens in a sequence: "
                "causal_lora works on a ViT, such as DINOv2 or CLIP; choose another adapter"
            )
        for path, shape in self._shapes.items():
            check_linear(vit, path, shape, has_bias=False)
        grid, watch = watch_grid(vit)
        handles: list[Removable] = [watch]
        for path in self._shapes:
            parent, _, name = path.rpartition(".")
            handles += call_layer(vit.get_submodule(parent), name)
            handles.append(_Site(vit.get_submodule(path), self, path, grid))
        return handles

    def update(self, x: Float[Tensor, "b p_n i"], path: str, grid: GridSize) -> Tensor:
        """Return the second term of (1) for the layer at ``path``, (b, p + n, o)."""
        terms = (self._pass(x, V, U, path, grid) for V, U in self._list_factors(path))
        return functools.reduce(torch.add, terms)

    def _pass(self, x: Tensor, V: Tensor, U: Tensor, path: str, grid: GridSize) -> Tensor:
        hidden, n = functional.linear(x.to(V.dtype), V), grid[0] * grid[1]
        if hidden.ndim != 3 or hidden.shape[1] < n:
            raise ConfigError(
                f"{path} gets an input of shape {tuple(x.shape)}, and the image has {n} patches: "
                "causal_lora needs layers that see all patch tokens; choose other targets"
            )
        prefix, patches = hidden[:, :-n], hidden[:, -n:]
        with torch.autocast(x.device.type, enabled=False):
            filtered = self._filter(widen(patches), grid).to(hidden.dtype)
        return self._scale * functional.linear(torch.cat([prefix, filtered], dim=1), U)

    def merge(self) -> None:
        """Merge into the weights where nothing is filtered, with ``all`` alone."""
        if list(self.options.split) == ["all"]:
            for site in self._sites:
                changes = (self._scale * U @ V for V, U in self._list_factors(site.path))
                site.merge(functools.reduce(torch.add, changes))

    def rate(self, name: str) -> float:
        """Return the factor of a parameter's part."""
        return self.options.rates.get(name.split("/")[-2], 1.0)  # type: ignore[call-overload]

    def is_decayed(self, name: str) -> bool:
        """Decay matrices, not vectors."""
        return min(self.get_parameter(name).shape) > 1

    def _start(self, linear: nn.Linear, path: str) -> tuple[Tensor, Tensor]:
        """Return V and U of all parts; minor components are also kept, to be subtracted."""
        rank, weight = self.options.rank, linear.weight
        V, U = torch.empty(rank, linear.in_features), torch.zeros(linear.out_features, rank)
        nn.init.kaiming_uniform_(V, a=math.sqrt(5))
        if self.options.init == "minor":
            check_rank(rank, path, tuple(weight.shape))
            if not weight.is_meta:  # a model without values, to count parameters
                U, V = minor_components(weight, rank)
                U = U / self._scale
            self.register_buffer(_key(path, "start", "V"), V, persistent=False)
            self.register_buffer(_key(path, "start", "U"), U, persistent=False)
        return V, U

    @property
    def _scale(self) -> float:
        return self.options.alpha / self.options.rank

    def _list_factors(self, path: str) -> list[tuple[Tensor, Tensor]]:
        """Return V (r, i) and U (o, r) of all parts, and the initial V and -U if they are kept."""
        V, U = ([self.values[_key(path, k, name)] for k in self.options.split] for name in "VU")
        factors = [(torch.cat(V), torch.cat(U, dim=1))]
        if self.options.init == "minor":
            initial = [self.get_buffer(_key(path, "start", name)) for name in "VU"]
            factors.append((initial[0], -initial[1]))
        return factors

    def _filter(self, hidden: Tokens, grid: GridSize) -> Tokens:
        """Filter the channels of each part by (2)."""
        band, ranks = self.options.band, self.options.ranks
        filtered = []
        for part, h in zip(ranks, hidden.split(list(ranks.values()), dim=-1), strict=True):
            X = tokens_to_grid(h, grid)
            match part:
                case "causal":
                    X = band_pass(X, band.low, band.high)
                case "low":
                    X = self._gain(X) * band_pass(X, None, band.low)
                case "high":
                    X = self._gain(X) * (X - band_pass(X, None, band.high))
            filtered.append(grid_to_tokens(X))
        return torch.cat(filtered, dim=-1)

    def _gain(self, X: Tensor) -> Tensor | float:
        if self.options.gains is None:
            return 1.0
        lowest, highest = self.options.gains
        if not self.training:
            return (lowest + highest) / 2
        return lowest + (highest - lowest) * torch.rand_like(X[:, :1, :1])


class _Site:
    """The update of one linear layer: added to its output by a hook, or merged into its weight."""

    def __init__(self, linear: nn.Module, adapter: CausalLora, path: str, grid: PatchGrid):
        self.linear, self.adapter, self.path, self.grid = linear, adapter, path, grid
        self.handles: list[Removable] = [linear.register_forward_hook(self)]
        adapter._sites.append(self)

    def __call__(self, linear: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return output + self.adapter.update(inputs[0], self.path, self.grid.size).to(output.dtype)

    def merge(self, change: Float[Tensor, "o i"]) -> None:
        self.handles.pop().remove()
        weight: Any = self.linear.weight
        merged = nn.Parameter((weight + change).to(weight.dtype).detach(), requires_grad=False)
        self.handles.append(Swap(self.linear, "weight", merged))

    def remove(self) -> None:
        self.handles.pop().remove()
        self.adapter._sites.remove(self)


def _key(path: str, part: str, name: str) -> str:
    return f"{path}.{part}.{name}".replace(".", "/")
