"""What every group of options is made of."""

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


def named(default: str) -> BeforeValidator:
    """``adapter: none`` is short for ``adapter: {name: none}``; no name means the default one."""

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        return {"name": default, **value} if isinstance(value, dict) else value

    return BeforeValidator(fill)
