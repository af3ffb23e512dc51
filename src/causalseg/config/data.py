"""The options of sources, domains and class lists."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from causalseg.config.block import Block, Size
from causalseg.errors import did_you_mean


class FolderConfig(Block):
    """Images and label PNGs of the same stem in two folders."""

    type: Literal["folder"] = "folder"
    """A pair of folders."""
    images: str
    """Folder of images, within data.root if relative; PNG, JPEG or WebP."""
    labels: str
    """Folder of label PNGs: one channel, one class id a pixel."""
    id_map: dict[int, int] | None = None
    """Label id in the file -> train id (255 to ignore); null takes the class list's ids."""
    every: Annotated[int, Field(ge=1)] = 1
    """Use every k-th image in the order of names."""


class ScenesConfig(Block):
    """Procedural street scenes: nothing to download, Cityscapes train ids."""

    type: Literal["scenes"] = "scenes"
    """The scene generator."""
    domain: Literal["clear", "night", "fog", "rain", "snow"] = "clear"
    """Weather and light."""
    count: Annotated[int, Field(ge=1)] = 200
    """Number of scenes."""
    first: Annotated[int, Field(ge=0)] = 0
    """Seed of the first scene; scene i has seed first + i, the same street in every domain."""
    size: Size = (240, 320)
    """Height and width in pixels."""


def _source_type(value: Any) -> str:
    if isinstance(value, dict):
        return value.get("type", "folder")
    return getattr(value, "type", "folder")


SourceConfig = Annotated[
    Annotated[FolderConfig, Tag("folder")] | Annotated[ScenesConfig, Tag("scenes")],
    Discriminator(_source_type),
]


class ClassesConfig(Block):
    """Classes given in place: what a classes.json holds, or just their names."""

    names: Annotated[list[str], Field(min_length=1)]
    """One name for each class, in the order of train ids."""
    palette: list[tuple[int, int, int]] | None = None
    """One RGB colour for each class; null makes distinct ones."""
    ids: list[int] | None = None
    """Label id in the files of each class; null is 0, 1, 2 ..."""
    ignore: list[int] = [255]
    """Label ids that mean `no class`."""


def _names_alone(value: Any) -> Any:
    return {"names": value} if isinstance(value, list) else value


class DataConfig(Block):
    """Where images come from: one or more sources to train on, named domains to be judged on."""

    root: str | None = None
    """Folder that relative paths below start from; null is the working directory."""
    classes: Annotated[str | ClassesConfig, BeforeValidator(_names_alone)] = "cityscapes19"
    """cityscapes19, camvid11, the path of a classes.json, a list of class names, or a block."""
    ignore: Annotated[int, Field(ge=0, le=255)] = 255
    """A label id that means `no class`, beside those the class list names."""
    sources: list[SourceConfig]
    """Training data; several sources are joined. Empty only in an imported run."""
    domains: dict[str, SourceConfig]
    """Evaluation data by domain name; each is scored on its own. Empty only in an imported run,
    until it is scored."""
    mean_over: Annotated[list[str], Field(min_length=1)] | None = None
    """Domains whose mIoU is averaged (the unseen ones, say); null averages all."""

    @model_validator(mode="after")
    def _mean_is_over_known_domains(self) -> Self:
        unknown = [name for name in self.mean_over or [] if name not in self.domains]
        if unknown:
            raise ValueError(
                f"mean_over names {unknown[0]!r}: {did_you_mean(unknown[0], self.domains)}"
            )
        return self

    @model_validator(mode="after")
    def _scenes_are_not_scored_on_streets_trained_on(self) -> Self:
        trained = [source for source in self.sources if isinstance(source, ScenesConfig)]
        for name, scored in self.domains.items():
            if isinstance(scored, ScenesConfig) and any(_overlap(scored, t) for t in trained):
                raise ValueError(
                    f"domain {name} holds scenes whose street is trained on (a seed is one street "
                    "in every domain): set `first` of the source to a seed beyond, such as 10000"
                )
        return self


def _overlap(a: ScenesConfig, b: ScenesConfig) -> bool:
    return a.first < b.first + b.count and b.first < a.first + a.count
