"""What is saved of an adapter: its tensors, each under one name, and what they are of.

In a state dict what they are of is metadata, as torch's versions of modules are; in a file it is
metadata of safetensors.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from causalseg.errors import WeightsError
from causalseg.writing import replacing

_ABOUT = "adapter"  # key in the metadata


class Described(Protocol):
    """An adapter."""

    def describe(self) -> dict[str, Any]:
        """Return what it is."""

    def check_same(self, about: Mapping[str, Any]) -> None:
        """Raise WeightsError if ``about`` describes another."""


class OneName:
    """Keeps the parameters of an attached adapter out of the model's state dict, and from loading.

    They have one name, that in the adapter, also where it has placed them in the model's layers.
    The state dict of the model alone, which is not part of another, has them all the same.
    """

    def __init__(self, adapter: nn.Module):
        self.adapter = adapter

    def __call__(self, vit: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
        """Drop them from a state dict; a post-hook."""
        for name, _ in self._placed(vit) if prefix else ():
            state.pop(prefix + name, None)

    def keep(self, vit: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        """Let loading find them as they are; a pre-hook."""
        for name, parameter in self._placed(vit) if prefix else ():
            state[prefix + name] = parameter

    def _placed(self, vit: nn.Module) -> list[tuple[str, nn.Parameter]]:
        own = {id(parameter) for parameter in self.adapter.parameters()}
        named = vit.named_parameters(remove_duplicate=False)
        return [(name, parameter) for name, parameter in named if id(parameter) in own]


def note_about(adapter: Described, _: Any, prefix: str, metadata: dict[str, Any]) -> None:
    """Note what an adapter is in its state dict; a post-hook."""
    metadata[_ABOUT] = adapter.describe()


def check_about(
    adapter: Described, _: Any, prefix: str, metadata: Mapping[str, Any], *__: Any
) -> None:
    """Refuse the state dict of another adapter; a pre-hook of loading."""
    if _ABOUT in metadata:
        adapter.check_same(metadata[_ABOUT])


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Read what `save_tensors` wrote: tensors, and what the adapter is, None in older files.

    Raises:
        WeightsError: if the file is broken.
    """
    try:
        with safe_open(file, "pt") as content:
            about = (content.metadata() or {}).get(_ABOUT)
            tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
            return tensors, about and json.loads(about)
    except (SafetensorError, ValueError) as error:
        raise WeightsError(
            f"{file} is broken ({error}): copy it again or train again with run.resume=true"
        ) from error


def load_tensors(part: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Load all tensors of a file; raise WeightsError, which names those that do not fit."""
    expected = {key: tuple(value.shape) for key, value in part.state_dict().items()}
    saved = {key: tuple(value.shape) for key, value in tensors.items()}
    wrong = [
        f"{key}: file {saved.get(key, 'nothing')}, model {expected.get(key, 'nothing')}"
        for key in sorted(expected.keys() | saved.keys())
        if expected.get(key) != saved.get(key)
    ]
    if wrong:
        raise WeightsError(
            f"{file} belongs to another model; {len(wrong)} tensors differ:\n  "
            + "\n  ".join(wrong[:8])
            + "\nuse the config.yaml in the same folder"
        )
    part.load_state_dict(tensors)


def save_tensors(file: Path, tensors: Mapping[str, Tensor], about: Any) -> None:
    """Write tensors whole or not at all, with what they are of unless it is None."""
    metadata = None if about is None else {_ABOUT: json.dumps(about)}
    with replacing(file, is_durable=True) as temporary:
        save_file({key: value.contiguous() for key, value in tensors.items()}, temporary, metadata)
