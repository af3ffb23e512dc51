"""The options of sources, domains and class lists."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from causalseg.config.block import Block, Count, Index, Positive, Size
from causalseg.config.stages import COMPUTING, Stage
from causalseg.errors import did_you_mean

Channel = Annotated[int, Field(ge=0, le=255)]


class CorruptConfig(Block):
    """A corruption of every image, the same on every access."""

    name: str
    """Name of the corruption; docs/corruptions.md shows all."""
    severity: Annotated[int, Field(ge=1, le=5)] = 3
    """Severity, from 1 to 5."""
    seed: Index = 0
    """Seed of its random parts."""


class _PairsConfig(Block):
    """Options of all types of sources and domains."""

    every: Count = 1
    """Use every k-th image in the order of names."""
    weight: Positive | None = None
    """Sampling weight of a source, given for all sources or for none; null draws all images
    equally often."""
    resize: Size | None = None
    """Height and width: of a source's images and labels before augmentation, or of a domain's
    images instead of eval.size; null keeps the size."""
    keep_ratio: bool = False
    """Keep the aspect ratio: images fit inside resize, which is rotated for upright ones."""
    corrupt: CorruptConfig | None = None
    """A corruption of the images; null for none."""

    def _find_mistakes(self) -> Iterator[str]:
        if self.keep_ratio and self.resize is None:
            yield "keep_ratio has no effect without resize: give resize"


class ClassesConfig(Block):
    """Classes in the configuration: the content of a classes.json, or just their names."""

    names: Annotated[list[str], Field(min_length=1)]
    """One name for each class, in the order of train ids."""
    palette: list[tuple[Channel, Channel, Channel]] | None = None
    """One RGB colour for each class; null generates distinct ones."""
    ids: list[int] | None = None
    """Label id of each class in the files; null for 0, 1, 2 ..."""
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
    """Folder of PNG, JPEG or WebP images, relative to data.root, or a template such as
    'day/{city}/{name}_photo.jpg': a field is any text without a slash."""
    labels: str
    """Folder of PNG or lossless WebP labels, or a template such as 'masks/{name}_mask.png' with
    fields of the images."""
    encoding: Literal["ids", "colours"] = "ids"
    """Content of labels: one channel of class ids, or the RGB colours of the class palette."""
    id_map: dict[int, int] | None = None
    """Label id in the file -> train id (255 to ignore); null uses the ids of the class list."""
    unknown: list[Annotated[int, Field(ge=0, le=65535)]] = []
    """Label ids of things that no class names, such as an animal on the road: they are ignored, and
    eval.json says how many other pixels are as unsure as they are (fpr95)."""
    classes: Annotated[str | ClassesConfig | None, BeforeValidator(_names_alone)] = None
    """The classes of its labels, given like data.classes; null for data.classes. A source must have
    the same names; a domain may have others if a class mapping is known."""

    def _find_mistakes(self) -> Iterator[str]:
        yield from super()._find_mistakes()
        if self.encoding == "colours":
            yield from self.find_idle(["id_map", "unknown"], "encoding: colours")


class LayoutConfig(_PairsConfig):
    """A published data set as downloaded: a folder, unpacked or with its zip files."""

    type: Literal["layout"] = "layout"
    """A published data set."""
    layout: str
    """Name of the data set; `causalseg data list` prints all."""
    split: str
    """Split of the data set, such as train or val."""
    root: str | None = None
    """Folder of the data set, relative to data.root; null uses data.roots, or the folder of its
    name in data.root."""


class ScenesConfig(_PairsConfig):
    """Procedural street scenes: nothing to download, Cityscapes train ids."""

    type: Literal["scenes"] = "scenes"
    """The scene generator."""
    domain: Literal["clear", "night", "fog", "rain", "snow"] = "clear"
    """Weather and light."""
    count: Count = 200
    """Number of scenes."""
    first: Index = 0
    """Seed of the first scene; scene i has seed first + i, the same street in every domain."""
    size: Size = (240, 320)
    """Height and width in pixels."""


def _source_type(value: Any) -> str:
    if isinstance(value, dict):
        return value.get("type", "layout" if "layout" in value else "folder")
    return getattr(value, "type", "folder")


Source = FolderConfig | LayoutConfig | ScenesConfig
SourceConfig = Annotated[
    Annotated[FolderConfig, Tag("folder")]
    | Annotated[LayoutConfig, Tag("layout")]
    | Annotated[ScenesConfig, Tag("scenes")],
    Discriminator(_source_type),
]


class RareClassesConfig(Block):
    """Rare-class sampling of DAFormer (Hoyer et al., CVPR 2022): a class, then an image with it."""

    temperature: Positive = 0.01
    """T of P(class) = softmax((1 - its fraction of all pixels) / T): a lower T draws rare classes
    more often."""
    min_pixels: Count = 3000
    """Number of pixels from which an image has a class."""


_IN_A_NAME = re.compile(r"[^/\\\x00-\x1f\x7f]*")
_Names = Annotated[list[str], Field(min_length=1)]


class DataConfig(Block):
    """Sources of training images, and named domains for evaluation."""

    root: Annotated[str | None, COMPUTING] = None
    """Folder to which paths of this block are relative, with published data sets in folders of
    their names; null for the working directory."""
    roots: Annotated[dict[str, str], COMPUTING] = {}
    """Folders of published data sets by name, such as data.roots.cityscapes=/data/cityscapes,
    relative to data.root."""
    classes: Annotated[str | ClassesConfig, BeforeValidator(_names_alone), Stage(0)] = (
        "cityscapes19"
    )
    """cityscapes19, camvid11, camvid32, idd7, the path of a classes.json, a list of class names, or
    a block."""
    ignore: Annotated[int, Field(ge=0, le=255)] = 255
    """A label id that means `no class`, in addition to those of the class list."""
    exif: Literal["apply", "ignore"] = "apply"
    """Orientation in the EXIF data of an image: apply turns the image so, ignore takes it as it is
    stored. Labels have none."""
    bits: Annotated[int, Field(ge=9, le=16)] = 16
    """Bits that are used in images with 16 bits a channel: 12 for most sensors."""
    sources: Annotated[list[SourceConfig], Stage.TRAINING]
    """Training data; several sources are joined. Empty in imported runs only."""
    domains: Annotated[dict[str, SourceConfig], Stage.SCORES | Stage.USE]
    """Evaluation data by domain name, which becomes a folder name; each is scored separately.
    Empty in imported runs only, until they are scored."""
    mean_over: Annotated[_Names | None, Stage.SCORES | Stage.USE] = None
    """Domains whose mIoU is averaged, such as the unseen ones; null averages all."""
    only: Annotated[_Names | None, Stage.SCORES | Stage.USE] = None
    """Score only these domains; null scores all."""
    rare_classes: Annotated[RareClassesConfig | None, Stage.TRAINING] = None
    """Draw images with rare classes more often; null draws all images equally often."""
    cache: Annotated[Literal["none", "memory"], Stage.RESUME | Stage.TRAINING] = "none"
    """memory decodes every training image once, before the first step, and keeps 8 bits per
    channel."""

    @property
    def seen(self) -> list[str]:
        """In-distribution domains: neither corrupted nor in `mean_over`; none without it."""
        if self.mean_over is None:
            return []
        clean = [name for name, domain in self.domains.items() if not domain.corrupt]
        return [name for name in clean if name not in self.mean_over]

    @property
    def averaged(self) -> list[str]:
        """The scored domains whose mIoU is averaged."""
        if self.only is None:
            return self.mean_over or list(self.domains)
        return [name for name in self.only if name in (self.mean_over or self.only)] or self.only

    def _find_mistakes(self) -> Iterator[str]:
        yield from self._find_name_mistakes()
        weighted = [source.weight is not None for source in self.sources]
        if any(weighted) and not all(weighted):
            yield "give a weight to all sources or to none"
        if any(domain.weight is not None for domain in self.domains.values()):
            yield "a weight has no effect on a domain: every image is scored once"
        if any(weighted) and self.rare_classes:
            yield "rare_classes ignores weights of sources: drop them"
        trained = [source for source in self.sources if isinstance(source, ScenesConfig)]
        for name, scored in self.domains.items():
            if isinstance(scored, ScenesConfig) and any(_overlap(scored, t) for t in trained):
                yield (
                    f"domain {name} has scenes with training seeds (a seed is the same street in "
                    "every domain): set `first` of the source to another seed, such as 10000"
                )

    def _find_name_mistakes(self) -> Iterator[str]:
        for name in self.domains:
            if name in ("", ".", "..") or len(name) > 100 or not _IN_A_NAME.fullmatch(name):
                yield (
                    f"domain name {name[:100]!r} cannot be a folder name: it must not be empty, "
                    r"'.' or '..', nor contain '/', '\' or control characters, nor be longer than "
                    "100 letters"
                )
        if "mean" in self.domains:
            yield "domain name 'mean' is reserved for the mean: use another"
        for key, names in (("mean_over", self.mean_over), ("only", self.only)):
            if len(set(names or [])) < len(names or []):
                yield f"{key} = {names} has a domain twice: give each once"
            for name in names or []:
                if name not in self.domains:
                    yield f"{key} names {name!r}: {did_you_mean(name, self.domains)}"


def _overlap(a: ScenesConfig, b: ScenesConfig) -> bool:
    return a.first < b.first + b.count and b.first < a.first + a.count
