"""The options of sources, domains and class lists."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from causalseg.config.block import Block, Size
from causalseg.config.stages import COMPUTING, Stage
from causalseg.errors import did_you_mean

Channel = Annotated[int, Field(ge=0, le=255)]


class CorruptConfig(Block):
    """A corruption of every image, the same each time."""

    name: str
    """Which: docs/corruptions.md shows all."""
    severity: Annotated[int, Field(ge=1, le=5)] = 3
    """How strong, from 1 to 5."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of what is random in it."""


class _PairsConfig(Block):
    """What all kinds of sources and domains have."""

    every: Annotated[int, Field(ge=1)] = 1
    """Use every k-th image in the order of names."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Of a source: its part of the training images; give it to all sources or to none. null draws
    from all images alike."""
    resize: Size | None = None
    """Height and width: of a source's images and labels before augmentation; of a domain's images
    in place of eval.size. null keeps them."""
    keep_ratio: bool = False
    """Keep the images' proportions: they fit inside resize, turned where upright."""
    corrupt: CorruptConfig | None = None
    """A corruption of the images; null is none."""

    @model_validator(mode="after")
    def _ratio_of_a_size(self) -> Self:
        if self.keep_ratio and self.resize is None:
            raise ValueError("keep_ratio has no effect without resize")
        return self


class ClassesConfig(Block):
    """Classes given in place: what a classes.json holds, or just their names."""

    names: Annotated[list[str], Field(min_length=1)]
    """One name for each class, in the order of train ids."""
    palette: list[tuple[Channel, Channel, Channel]] | None = None
    """One RGB colour for each class; null makes distinct ones."""
    ids: list[int] | None = None
    """Label id in the files of each class; null is 0, 1, 2 ..."""
    ignore: list[int] = [255]
    """Label ids that mean `no class`."""
    ignore_colours: list[tuple[Channel, Channel, Channel]] = []
    """Colours that mean `no class`, in labels whose encoding is colours."""


def _names_alone(value: Any) -> Any:
    return {"names": value} if isinstance(value, list) else value


class FolderConfig(_PairsConfig):
    """Images and labels of the same stem in two folders, or of the same fields in two templates."""

    type: Literal["folder"] = "folder"
    """A pair of folders."""
    images: str
    """Folder of images, within data.root if relative; PNG, JPEG or WebP. Or a template, such as
    'day/{city}/{name}_photo.jpg': a field is any text without a slash."""
    labels: str
    """Folder of labels, PNG or lossless WebP, or a template such as 'masks/{name}_mask.png', whose
    fields are among those of images."""
    encoding: Literal["ids", "colours"] = "ids"
    """What labels hold: one channel of class ids, or the RGB colours of the palette of classes."""
    id_map: dict[int, int] | None = None
    """Label id in the file -> train id (255 to ignore); null takes the class list's ids."""
    classes: Annotated[str | ClassesConfig | None, BeforeValidator(_names_alone)] = None
    """The classes of its labels, in the forms of data.classes, which null takes. Those of a source
    have the same names; a domain of others is scored on its own where a map is known."""

    @model_validator(mode="after")
    def _options_are_of_the_encoding(self) -> Self:
        if self.encoding == "colours" and self.id_map is not None:
            raise ValueError("id_map has no effect with encoding: colours")
        return self


class LayoutConfig(_PairsConfig):
    """A published data set as it was downloaded: a directory, or its zip files in one."""

    type: Literal["layout"] = "layout"
    """A published data set."""
    layout: str
    """Which: `causalseg data list` lists them."""
    split: str
    """Its split, such as train or val."""
    root: str | None = None
    """Where it lies, within data.root if relative; null takes data.roots, or the folder of its name
    in data.root."""


class ScenesConfig(_PairsConfig):
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
        return value.get("type", "layout" if "layout" in value else "folder")
    return getattr(value, "type", "folder")


SourceConfig = Annotated[
    Annotated[FolderConfig, Tag("folder")]
    | Annotated[LayoutConfig, Tag("layout")]
    | Annotated[ScenesConfig, Tag("scenes")],
    Discriminator(_source_type),
]


class RareClassesConfig(Block):
    """Rare-class sampling of DAFormer (Hoyer et al., CVPR 2022): a class, then an image with it."""

    temperature: Annotated[float, Field(gt=0)] = 0.01
    """T of P(class) = softmax((1 - its share of all pixels) / T): less, and rare classes come
    more often."""
    min_pixels: Annotated[int, Field(ge=1)] = 3000
    """An image has a class if so many of its pixels do."""


_Names = Annotated[list[str], Field(min_length=1)]


class DataConfig(Block):
    """Where images come from: one or more sources to train on, named domains to be judged on."""

    root: Annotated[str | None, COMPUTING] = None
    """Folder that relative paths of this block start from, and that holds published data sets in
    folders of their layouts' names; null is the working directory."""
    roots: Annotated[dict[str, str], COMPUTING] = {}
    """Where published data sets lie, by layout: data.roots.cityscapes=/data/cityscapes; relative
    paths start from data.root."""
    classes: Annotated[str | ClassesConfig, BeforeValidator(_names_alone), Stage(0)] = (
        "cityscapes19"
    )
    """cityscapes19, camvid11, camvid32, idd7, the path of a classes.json, a list of class names, or
    a block."""
    ignore: Annotated[int, Field(ge=0, le=255)] = 255
    """A label id that means `no class`, beside those the class list names."""
    sources: Annotated[list[SourceConfig], Stage.TRAINING]
    """Training data; several sources are joined. Empty only in an imported run."""
    domains: Annotated[dict[str, SourceConfig], Stage.SCORES | Stage.USE]
    """Evaluation data by domain name, which becomes the name of a folder; each is scored on its
    own. Empty only in an imported run, until it is scored."""
    mean_over: Annotated[_Names | None, Stage.SCORES | Stage.USE] = None
    """Domains whose mIoU is averaged (the unseen ones, say); null averages all."""
    only: Annotated[_Names | None, Stage.SCORES | Stage.USE] = None
    """Score only these domains; null scores all."""
    rare_classes: Annotated[RareClassesConfig | None, Stage.TRAINING] = None
    """Draw images with rare classes more often; null draws from all images alike."""
    cache: Annotated[Literal["none", "memory"], Stage.RESUME | Stage.TRAINING] = "none"
    """memory decodes every training image once, before the first step, and keeps it at 8 bits a
    channel."""

    @property
    def seen(self) -> list[str]:
        """The domains that are like the training data: `mean_over` names the unseen ones, and what
        is corrupted is unseen, too. Without `mean_over` there are none.
        """
        if self.mean_over is None:
            return []
        domains = self.domains.items()
        return [name for name, of in domains if name not in self.mean_over and not of.corrupt]

    @property
    def averaged(self) -> list[str]:
        """The domains whose mIoU is averaged, of those that are scored."""
        if self.only is None:
            return self.mean_over or list(self.domains)
        return [name for name in self.only if name in (self.mean_over or self.only)] or self.only

    @model_validator(mode="after")
    def _domains_name_folders(self) -> Self:
        for name in self.domains:
            if name in ("", ".", "..") or any(slash in name for slash in "/\\"):
                raise ValueError(
                    f"domain name {name!r}: pictures of a domain lie in a folder of its name, so "
                    r"it may not be empty, '.' or '..', nor have '/' or '\' in it"
                )
        if "mean" in self.domains:
            raise ValueError("domain name 'mean' stands for the mean over domains: take another")
        return self

    @model_validator(mode="after")
    def _mean_is_over_known_domains(self) -> Self:
        for key, names in (("mean_over", self.mean_over), ("only", self.only)):
            if len(set(names or [])) < len(names or []):
                raise ValueError(f"{key} = {names} names a domain twice: name each once")
            unknown = [name for name in names or [] if name not in self.domains]
            if unknown:
                raise ValueError(
                    f"{key} names {unknown[0]!r}: {did_you_mean(unknown[0], self.domains)}"
                )
        return self

    @model_validator(mode="after")
    def _weights_are_shares_of_all(self) -> Self:
        weighted = [source.weight is not None for source in self.sources]
        if any(weighted) and not all(weighted):
            raise ValueError("give a weight to all sources or to none")
        if any(domain.weight is not None for domain in self.domains.values()):
            raise ValueError("a weight has no effect on a domain: every image is scored once")
        if any(weighted) and self.rare_classes:
            raise ValueError("rare_classes draws from all sources alike: drop their weights")
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
