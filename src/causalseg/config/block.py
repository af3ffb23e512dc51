"""The base class of every group of options, and types of common options."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Layers = (
    Annotated[int, Field(ge=1, strict=True)]
    | Annotated[list[Annotated[int, Field(ge=0, strict=True)]], Field(min_length=1)]
    | None
)
Radius = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]


class Block(BaseModel):
    """A group of options: frozen, no unknown keys, documented by its docstrings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def refuse_changes(self, keys: set[str], cause: str) -> None:
        """Raise ValueError if one of these options, idle with ``cause``, is not at its default."""
        for key in sorted(keys):
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} has no effect with {cause}: leave it out")


def named(default: str) -> BeforeValidator:
    """``adapter: none`` is short for ``adapter: {name: none}``; no name means the default one."""

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        return {"name": default, **value} if isinstance(value, dict) else value

    return BeforeValidator(fill)
