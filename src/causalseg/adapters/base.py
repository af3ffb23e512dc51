"""The adapter contract, and attaching one to a frozen backbone.

Most adapters edit patch tokens after a block: they derive from `Adapter` and write `forward`. Those
that work elsewhere in a block write `install` instead. `attach` installs an adapter;
`Attachment.detach`, or leaving its context, restores the model bit for bit.

Hooks are callable objects of module-level classes: a closure would silently break deepcopy and
pickle, a wrapper module would rename the state dict.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from jaxtyping import Float
from torch import Tensor, nn

from causalseg.adapters.saved import OneName, check_about, note_about, save_tensors
from causalseg.adapters.sizes import check_layers, check_sizes, describe_widths
from causalseg.backbones.trunk import EditGrid, EditTokens, find_trunk, watch_grid
from causalseg.config.block import Block
from causalseg.errors import ConfigError, WeightsError
from causalseg.spectral.grid import GridSize, Tokens

# Options of training: weights of any fit, and say nothing about what is computed with them.
_FREE = {"dropout", "rate", "rates", "layer_decay", "init"}


class Removable(Protocol):
    """A hook or a `Swap`."""

    def remove(self) -> None:
        """Undo the installation."""


class Adapter(nn.Module):
    """The trainable part beside a frozen backbone.

    The methods of this package take the fields of their block in `config.adapters` as keywords,
    with the same defaults and checks as in a configuration file.

    Args:
        width: c, channels of the backbone; one for each block where they differ.
        depth: number of blocks of the backbone, or of stages where it is hierarchical.
        layers: indices of the blocks to adapt, or k for the last k; None for all.

    Raises:
        ConfigError: if an option is unknown or out of range, or a layer is no block.
    """

    needs_model: ClassVar[bool] = False  # whether it is made for a model, not for its sizes
    has_one_width: ClassVar[bool] = False  # whether its blocks must not differ in width

    def __init__(
        self, width: int | Sequence[int], depth: int, layers: int | Sequence[int] | None = None
    ):
        super().__init__()
        check_sizes(type(self), width, depth)
        self.widths = (width,) * depth if isinstance(width, int) else tuple(width)
        self.width, self.depth = self.widths[-1], depth
        self.layers = check_layers(layers, depth)
        self.options: Block | None = None  # set by methods of this package
        self.register_state_dict_post_hook(note_about)
        self.register_load_state_dict_pre_hook(check_about)
        self.register_load_state_dict_post_hook(_tie)

    @classmethod
    def for_model(cls, vit: nn.Module, **options: Any) -> "Adapter":
        """Return an adapter for a model: one of this class, or one for each stage it adapts.

        Args:
            vit: as for `attach`; it is not changed.
            options: the keywords of the class without width and depth.
        """
        trunk = find_trunk(vit)
        if cls.needs_model:
            return cls(vit, **options)  # type: ignore[arg-type]
        if len(set(trunk.widths)) == 1:
            return cls(trunk.widths[0], len(trunk.names), **options)
        if cls.forward is Adapter.forward:
            raise ConfigError(
                f"{cls.__name__} needs the blocks of a ViT, not the stages of "
                f"{type(vit).__name__}: choose another adapter, such as CausalTune or Rein"
            )
        layers = check_layers(options.pop("layers", None), len(trunk.names))
        last = {"query_width": options.pop("query_width")} if "query_width" in options else {}
        edits = [cls(trunk.widths[layer], 1, **options) for layer in layers[:-1]]
        edits.append(cls(trunk.widths[layers[-1]], 1, **options, **last))  # it makes the queries
        return Stages(edits, trunk.widths, layers)

    def forward(self, tokens: Tokens, layer: int, grid: GridSize) -> Tokens:
        """Return adapted patch tokens of a block, in their dtype; ``layer`` indexes `layers`."""
        raise NotImplementedError(f"{type(self).__name__} works inside the blocks: attach it")

    def queries(self) -> Float[Tensor, "q d"] | None:
        """Return queries for a query-based head, or None."""
        return None

    def install(self, vit: nn.Module) -> list[Removable]:
        """Install the adapter in a model; here: `forward` after each of ``layers``."""
        return install_after_blocks(vit, self, self.layers)

    def merge(self) -> None:
        """Merge an attached adapter into the backbone's weights, where the method allows it.

        For inference: the same outputs at less cost, but no training. Detaching restores the model.
        """

    def tie(self) -> None:
        """Use the parameters as they are now, also where an attached adapter has placed them.

        Called after `load_state_dict`, which with ``assign=True`` replaces them.
        """

    def describe(self) -> dict[str, Any]:
        """Return what the adapter is, as JSON: method, widths, blocks and options.

        Saved beside its weights, which only fit an adapter that is the same.
        """
        about = {"name": type(self).__name__}
        if self.options is not None:
            about = self.options.model_dump(mode="json")
        about |= {"class": type(self).__name__}
        return about | {"widths": list(self.widths), "layers": list(self.layers)}

    def check_same(self, about: Mapping[str, Any]) -> None:
        """Raise WeightsError if ``about``, of saved weights, describes another adapter."""
        ours = self.describe()
        fields = type(self.options).model_fields if self.options else {}
        # An option that the file does not have is younger than it.
        about = {**{key: ours[key] for key in ours if key in fields}, **about}
        wrong = [
            f"{key} = {about.get(key)}, here {ours.get(key)}"
            for key in {**about, **ours}
            if about.get(key) != ours.get(key)
            and (key not in _FREE or str in (type(about.get(key)), type(ours.get(key))))
        ]
        if wrong:
            raise WeightsError(
                f"these weights are of another adapter: {'; '.join(wrong)}. Make the adapter as "
                "it was saved"
            )

    def save(self, folder: Path | str) -> None:
        """Write adapter.safetensors, which `causalseg.load_adapter` reads."""
        save_tensors(Path(folder) / "adapter.safetensors", self.state_dict(), self.describe())

    def extra_repr(self) -> str:
        """Say what the adapter is, and its number of trainable parameters."""
        about = self.describe()
        options = {k: v for k, v in about.items() if k not in ("name", "class", "widths")}
        texts = [about["name"], *(f"{key}={value}" for key, value in options.items())]
        return ", ".join([*texts, f"{trainable_parameters(self):,} trainable parameters"])

    def rate(self, name: str) -> float:
        """Return the factor on the learning rate of a parameter, by its name."""
        return 1.0

    def is_decayed(self, name: str) -> bool:
        """Return whether weight decay applies to a parameter, beside the rules for all modules."""
        return True


class _Parts(Adapter):
    """An adapter made of others: the base class of `Chain` and `Stages`."""

    parts: Any

    def __init__(
        self,
        adapters: Sequence[Adapter],
        widths: Sequence[int],
        layers: int | Sequence[int] | None = None,
    ):
        super().__init__(widths, len(widths), layers)
        self.parts = nn.ModuleList(adapters)

    def queries(self) -> Float[Tensor, "q d"] | None:
        """Return the queries of the last part that has some."""
        offers = [part.queries() for part in self.parts]
        return next((queries for queries in reversed(offers) if queries is not None), None)

    def describe(self) -> dict[str, Any]:
        """Return what every part is."""
        about = {"name": type(self).__name__, "parts": [part.describe() for part in self.parts]}
        return about | {"widths": list(self.widths), "layers": list(self.layers)}

    def check_same(self, about: Mapping[str, Any]) -> None:
        """Check every part; their own weights are described too."""
        theirs, ours = about.get("parts", []), self.describe()
        outer = {key: value for key, value in ours.items() if key != "parts"}
        if len(theirs) != len(self.parts) or any(about.get(k) != v for k, v in outer.items()):
            super().check_same(about)
        for part, its in zip(self.parts, theirs, strict=True):
            part.check_same(its)

    def extra_repr(self) -> str:
        return ""  # the parts say it

    def rate(self, name: str) -> float:
        part, inner = self._find(name)
        return part.rate(inner)

    def is_decayed(self, name: str) -> bool:
        part, inner = self._find(name)
        return part.is_decayed(inner)

    def _find(self, name: str) -> tuple[Adapter, str]:
        _, index, inner = name.split(".", 2)
        return self.parts[int(index)], inner


class Chain(_Parts):
    """Several adapters on one model, in this order; the last with queries gives them."""

    def __init__(self, adapters: Sequence[Adapter]):
        if not adapters:
            raise ConfigError("a chain needs at least one adapter")
        super().__init__(adapters, adapters[0].widths)

    def install(self, vit: nn.Module) -> list[Removable]:
        """Install every part; hooks on a block run in this order."""
        handles: list[Removable] = []
        try:
            for part in self.parts:
                handles += part.install(vit)
        except BaseException:
            Attachment(handles).detach()
            raise
        return handles

    def merge(self) -> None:
        """Merge the parts that can be merged."""
        for part in self.parts:
            part.merge()


class Stages(_Parts):
    """A separate adapter, made for one block, after each stage of a hierarchical model."""

    def forward(self, tokens: Tokens, layer: int, grid: GridSize) -> Tokens:
        """Return the features of a stage, edited by its own adapter."""
        return self.parts[layer](tokens, 0, grid)


class Swap:
    """A replacement of a parameter, submodule or flag, until `remove`."""

    owner: Any

    def __init__(self, owner: nn.Module, name: str, replacement: nn.Module | nn.Parameter | bool):
        self.owner, self.name, self.original = owner, name, getattr(owner, name)
        self.replace(replacement)

    @property
    def is_on_top(self) -> bool:
        """Whether the replacement is in use: neither removed nor replaced again."""
        return self.owner is not None and getattr(self.owner, self.name) is self.replacement

    def replace(self, replacement: nn.Module | nn.Parameter | bool | None) -> None:
        """Take another replacement."""
        self.replacement = replacement
        setattr(self.owner, self.name, replacement)

    def remove(self) -> None:
        """Put the original back, on the device and in the dtype the model now has."""
        now, original = getattr(self.owner, self.name), self.original
        if isinstance(original, nn.Parameter):
            original.data = original.data.to(now.device, now.dtype)
        elif isinstance(original, nn.Module):
            like = next(now.parameters())
            original.to(like.device, like.dtype)
        setattr(self.owner, self.name, original)
        self.owner = self.original = self.replacement = None  # an adapter alone keeps no backbone


class Attachment:
    """An attached adapter; a context manager that detaches on leaving."""

    def __init__(self, handles: list[Removable]):
        self._handles, self._is_entered = handles, False

    def detach(self) -> None:
        """Restore the model. Safe to call twice.

        Raises ConfigError if an adapter attached later has changed the same layers.
        """
        swaps = [handle for handle in self._handles if isinstance(handle, Swap)]
        for swap in {(swap.owner, swap.name): swap for swap in swaps}.values():  # the last of each
            if not swap.is_on_top:
                raise ConfigError(
                    f"{swap.name} of {type(swap.owner).__name__} was replaced again by an adapter "
                    "attached later: detach that one first"
                )
        if self._handles:
            _forget_compiled()
        while self._handles:
            self._handles.pop().remove()

    def __enter__(self) -> Self:
        if self._is_entered:
            raise ConfigError("this attachment was entered before: attach the adapter again")
        self._is_entered = True
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()


def _forget_compiled() -> None:
    """Let torch compile again what it has compiled: that code does not look for new hooks."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None and dynamo.utils.counters["stats"]["unique_graphs"]:
        dynamo.reset()


def _tie(adapter: Adapter, _: Any) -> None:
    adapter.tie()


def attach(vit: nn.Module, adapter: Adapter) -> Attachment:
    """Attach an adapter to a backbone; it takes the mode of the model, training or evaluation.

    The ``requires_grad`` of the model's parameters stays as it is: freeze the model yourself where
    you want it frozen. With activation checkpointing, finish the backward pass of one image size
    before the forward pass of another: blocks are recomputed on the grid of the last image.

    Args:
        vit: any model that `causalseg.backbones.trunk.find_trunk` takes.
        adapter: made for its width and depth.

    Raises:
        ConfigError: if the model has no block list, or the adapter does not fit its depth or width.
    """
    trunk = find_trunk(vit)
    if not isinstance(adapter, Adapter):
        raise ConfigError(
            f"{type(adapter).__name__} is no adapter: derive it from causalseg.adapters.base."
            "Adapter and write its forward(tokens, layer, grid)"
        )
    if adapter.widths != trunk.widths:
        has, made_for = describe_widths(trunk.widths), describe_widths(adapter.widths)
        raise ConfigError(
            f"{type(adapter).__name__} was made for {made_for}, the model has {has}: "
            "build the adapter for that"
        )
    _forget_compiled()
    handles, names = adapter.install(vit), OneName(adapter)
    handles.append(vit.register_state_dict_post_hook(names))
    handles.append(vit.register_load_state_dict_pre_hook(names.keep))
    adapter.train(vit.training)
    return Attachment(handles)


def install_after_blocks(vit: nn.Module, edit: nn.Module, layers: Sequence[int]) -> list[Removable]:
    """Call ``edit(patch tokens, index, grid)`` after each of ``layers``, without prefix tokens."""
    _forget_compiled()
    trunk = find_trunk(vit)
    outputs = [vit.get_submodule(trunk.outputs[layer]) for layer in layers]
    if trunk.layout != "tokens":
        hooks = [EditGrid(edit, k, trunk.layout == "maps") for k in range(len(layers))]
        return [out.register_forward_hook(hook) for out, hook in zip(outputs, hooks, strict=True)]
    grid, watch = watch_grid(vit)
    handles: list[Removable] = [watch]
    for number, output in enumerate(outputs):
        hook = EditTokens(edit, number, grid, trunk.num_prefix)
        handles.append(output.register_forward_hook(hook))
    return handles


def trainable_parameters(module: nn.Module) -> int:
    """Return the number of trainable values of a module."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
