"""The base class of every group of options, and types of common options."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Layers = (
    Annotated[int, Field(ge=1, strict=True)]
    | Annotated[list[Annotated[int, Field(ge=0, strict=True)]], Field(min_length=1)]
    | None
)
# What is above these bounds is a slip: it would overflow, fill the memory, or end in NaN.
Count = Annotated[int, Field(ge=1, le=10**9)]
Width = Annotated[int, Field(ge=1, le=65_536)]  # of something that is held in memory
Index = Annotated[int, Field(ge=0, le=2**63 - 1)]  # a seed or a position
Positive = Annotated[float, Field(gt=0, le=1e9)]
NonNegative = Annotated[float, Field(ge=0, le=1e9)]
Size = tuple[Width, Width]


class Block(BaseModel):
    """A group of options: frozen, no unknown keys, documented by its docstrings."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    def _find_mistakes(self) -> Iterator[str]:
        """Yield messages about options that contradict each other; the first one is raised."""
        yield from ()

    def find_idle(self, keys: Iterable[str], cause: str) -> Iterator[str]:
        """Yield a message for each option without effect that is not at its default."""
        for key in keys:
            if getattr(self, key) != type(self).model_fields[key].default:
                yield f"{key} has no effect with {cause}: leave it out"

    @model_validator(mode="after")
    def _raise_mistake(self) -> Self:
        for mistake in self._find_mistakes():
            raise ValueError(mistake)
        return self


def named(default: str, key: str = "name") -> BeforeValidator:
    """``adapter: none`` is short for ``adapter: {name: none}``; no name means the default one."""

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            return {key: value}
        return {key: default, **value} if isinstance(value, dict) else value

    return BeforeValidator(fill)
