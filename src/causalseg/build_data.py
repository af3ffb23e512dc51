"""From the options of data to objects: class lists, sources, domains."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch.utils.data import ConcatDataset, Dataset, Subset

from causalseg.config import Config
from causalseg.config.data import (
    ClassesConfig,
    DataConfig,
    FolderConfig,
    LayoutConfig,
    ScenesConfig,
)
from causalseg.data.classes import CITYSCAPES19, ClassList, distinct_colours, read_classes
from causalseg.data.corruptions import check_corruption
from causalseg.data.dataset import Sample, ScenesData
from causalseg.data.folders import FolderData, read_colours, read_ids
from causalseg.data.folds import CLASS_LISTS, fold_classes
from causalseg.data.layout_data import LayoutData
from causalseg.data.loader import Draws, PermutedDraws, WeightedDraws
from causalseg.data.published import LAYOUTS
from causalseg.data.rare_classes import image_chances
from causalseg.data.wrappers import CachedData, CorruptedData, ResizedData
from causalseg.engine.evaluate import Domain
from causalseg.engine.infer import Inference
from causalseg.engine.log import logger
from causalseg.errors import CausalsegError, ConfigError, did_you_mean

Opened = tuple[Dataset[Sample], ClassList]
"""Images with labels, and the classes of the labels."""
AnyConfig = FolderConfig | LayoutConfig | ScenesConfig


def build_classes(data: DataConfig) -> ClassList:
    """Build the class list that ``data.classes`` names, holds or points to."""
    if isinstance(data.classes, ClassesConfig):
        given = data.classes
        palette = given.palette or distinct_colours(len(given.names))
        return ClassList(
            tuple(given.names), tuple(palette), tuple(given.ids or ()), tuple(given.ignore)
        )
    if data.classes in CLASS_LISTS:
        return CLASS_LISTS[data.classes]
    if not data.classes.endswith(".json"):
        raise ConfigError(
            f"data.classes = {data.classes!r}: allowed are {', '.join(CLASS_LISTS)}, a list of "
            "names, or the path of a .json file"
        )
    return read_classes(_find_path(data, data.classes))


def with_classes_inside(config: Config) -> Config:
    """Return the configuration with a classes.json read into it: a run must not need the file."""
    if isinstance(config.data.classes, ClassesConfig) or config.data.classes in CLASS_LISTS:
        return config
    classes = build_classes(config.data)
    inside = ClassesConfig(
        names=list(classes.names),
        palette=list(classes.palette),
        ids=list(classes.ids),
        ignore=list(classes.ignore),
    )
    return config.model_copy(update={"data": config.data.model_copy(update={"classes": inside})})


def build_sources(data: DataConfig) -> ConcatDataset[Sample]:
    """Build the training data: all sources, joined.

    Raises:
        ConfigError: if there is none, or one has other classes.
        CausalsegError: if one is not there or not as it should be.
    """
    if not data.sources:
        raise ConfigError(
            "data.sources is empty, there is nothing to train on: name one at least, such as "
            "'data.sources=[{images: day/images, labels: day/labels}]'"
        )
    _check_roots(data)
    classes = build_classes(data)
    sources = []
    for source in data.sources:
        built, own = _build_pairs(data, source, classes)
        _need_same_classes(source, own, classes)
        if source.resize is not None:
            built = ResizedData(built, source.resize)
        sources.append(built if data.cache == "none" else CachedData(built))
    return ConcatDataset(sources)


def build_draws(data: DataConfig, sources: ConcatDataset[Sample], seed: int) -> Draws:
    """Build the order in which training images are drawn."""
    if data.rare_classes:
        given, num_classes = data.rare_classes, len(build_classes(data).names)
        rare = image_chances(sources, num_classes, given.temperature, given.min_pixels)
        return WeightedDraws(rare, seed)
    weights = [source.weight for source in data.sources]
    if None in weights:
        return PermutedDraws(len(sources), seed)
    parts = sources.datasets
    chances = [
        weight / len(part)  # type: ignore[arg-type, operator]
        for weight, part in zip(weights, parts, strict=True)
        for _ in range(len(part))  # type: ignore[arg-type]
    ]
    return WeightedDraws(chances, seed)


def build_domains(data: DataConfig, inference: Inference) -> dict[str, Domain]:
    """Build what is scored.

    Args:
        data: sources and domains.
        inference: how an image is predicted, where a domain says nothing else.

    Raises:
        ConfigError: if there is no domain.
        CausalsegError: if a domain is not there or not as it should be; says which ones are.
    """
    _need_domains(data)
    _check_roots(data)
    classes, domains = build_classes(data), {}
    problems: dict[str, CausalsegError] = {}
    for name in data.only or data.domains:
        try:
            domains[name] = _build_domain(data, name, classes, inference)
        except CausalsegError as error:
            problems[name] = error
    if problems:
        rest = f"[{','.join(domains)}]"
        hint = f"\nThe others can be scored: data.only={rest}" if domains else ""
        kind = type(next(iter(problems.values())))
        raise kind("\n".join(f"{name}: {error}" for name, error in problems.items()) + hint)
    return domains


def list_pairs(data: DataConfig) -> dict[str, Callable[[], Opened]]:
    """Return by name what opens each source and domain as it lies on the disk.

    Sources and domains of the same files are opened once, under the names of all.
    What has no partner is left out there, and told by the data set.
    With ``data.only`` the other domains are left out.

    Raises:
        ConfigError: if a source or domain cannot be used with the classes, or is corrupted by
            something unknown; says which ones.
    """
    _need_domains(data)
    _check_roots(data)
    classes = build_classes(data)
    sources = {f"source {i}: {_name(each)}": each for i, each in enumerate(data.sources, start=1)}
    domains = {f"domain {name}": data.domains[name] for name in data.only or data.domains}
    mistakes = []
    for name, given in (sources | domains).items():
        try:
            own = _classes_of(data, given, classes)
            if given.corrupt:
                check_corruption(given.corrupt.name, given.corrupt.severity)
            if name in sources:
                _need_same_classes(given, own, classes)
            fold_classes(classes, own)
        except ConfigError as error:
            mistakes.append(f"{name}: {error}")
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    opened: dict[str, Callable[[], Opened]] = {}
    names: dict[str, list[str]] = {}
    for name, given in (sources | domains).items():
        plain = given.model_copy(
            update={"corrupt": None, "resize": None, "keep_ratio": False, "weight": None}
        )
        same = names.setdefault(plain.model_dump_json(), [])
        same.append(name)
        if len(same) == 1:
            opened[name] = partial(_open_pairs, data, given, classes, is_strict=False)
    return {_joined(same): opened[same[0]] for same in names.values()}


def _joined(names: Sequence[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 3 else ""
    return ", ".join(names[:2] if more else names) + more


def _need_domains(data: DataConfig) -> None:
    if not data.domains:
        raise ConfigError(
            "data.domains is empty, there is nothing to score: name one at least, such as "
            "'data.domains={night: {images: night/images, labels: night/labels}}'"
        )


def _check_roots(data: DataConfig) -> None:
    for name in data.roots:
        if name not in LAYOUTS:
            raise ConfigError(
                f"data.roots names no data set {name!r}: {did_you_mean(name, LAYOUTS)}"
            )


def _build_domain(data: DataConfig, name: str, classes: ClassList, inference: Inference) -> Domain:
    domain = data.domains[name]
    pairs, own = _build_pairs(data, domain, classes)
    about: dict[str, Any] = {}
    if isinstance(domain, LayoutConfig):
        about["split"] = f"{domain.layout} {domain.split}"
    if domain.resize:
        size, inside = (None, domain.resize) if domain.keep_ratio else (domain.resize, None)
        inference = replace(inference, size=size, inside=inside)
        about["fit_inside" if domain.keep_ratio else "resized_to"] = list(domain.resize)
    if domain.corrupt:
        about["corruption"] = {
            "name": domain.corrupt.name,
            "severity": domain.corrupt.severity,
            "clean": _clean(data, domain),
        }
    fold = None
    if own.names != classes.names:
        fold = fold_classes(classes, own)
        about["classes"] = {"names": own.names, "palette": own.palette}
    return Domain(pairs, inference, own, fold, about)


def _clean(data: DataConfig, corrupted: AnyConfig) -> str | None:
    """Return the scored domain that is the same but for the corruption."""
    clean = corrupted.model_copy(update={"corrupt": None})
    return next((n for n in data.only or data.domains if data.domains[n] == clean), None)


def _build_pairs(data: DataConfig, source: AnyConfig, classes: ClassList) -> Opened:
    """Build a source or domain, corrupted where asked for; say so if it is not complete."""
    pairs, own = _open_pairs(data, source, classes)
    if isinstance(pairs, LayoutData) and pairs.shortfall:
        _warn_once(f"{pairs.describe()}: {pairs.shortfall}")
    if source.corrupt:
        given = source.corrupt
        pairs = CorruptedData(pairs, given.name, given.severity, given.seed)
    return pairs, own


def _open_pairs(
    data: DataConfig, source: AnyConfig, classes: ClassList, is_strict: bool = True
) -> Opened:
    """Build a source or domain as it lies on the disk."""
    own = _classes_of(data, source, classes)
    pairs: Dataset[Sample]
    match source:
        case FolderConfig():
            images, labels = (_find_path(data, path) for path in (source.images, source.labels))
            if source.encoding == "colours":
                reader = read_colours(own, source.ignore_colours)
            else:
                reader = read_ids(own, data.ignore, source.id_map)
            pairs = FolderData(images, labels, reader, source.every, is_strict)
        case LayoutConfig():
            root = _root_of(data, source)
            layout = LAYOUTS[source.layout]
            pairs = LayoutData(layout, source.split, root, source.every, is_strict)
        case ScenesConfig():
            pairs = ScenesData(source.domain, source.count, source.first, source.size)
            if source.every > 1:
                pairs = Subset(pairs, range(0, source.count, source.every))
    return pairs, own


def _classes_of(data: DataConfig, source: AnyConfig, classes: ClassList) -> ClassList:
    """Return the classes of the labels of a source or domain."""
    match source:
        case LayoutConfig(layout=name):
            if name not in LAYOUTS:
                raise ConfigError(f"layout = {name!r}: {did_you_mean(name, LAYOUTS)}")
            return LAYOUTS[name].classes
        case ScenesConfig():
            if classes != CITYSCAPES19:
                raise ConfigError("scenes have the classes of cityscapes19: set data.classes to it")
        case FolderConfig(classes=given) if given is not None:
            return build_classes(data.model_copy(update={"classes": given}))
    return classes


def _need_same_classes(source: AnyConfig, own: ClassList, classes: ClassList) -> None:
    if own.names != classes.names:
        raise ConfigError(
            f"source {_name(source)} has the classes {', '.join(own.names)}; data.classes are "
            "others: set data.classes to them, or train on another source"
        )


def _root_of(data: DataConfig, source: LayoutConfig) -> Path:
    """Where a published data set lies; a root of its own stands before those of all."""
    own = source.root or data.roots.get(source.layout)
    if own:
        return _find_path(data, own)
    if data.root is None:
        raise ConfigError(
            f"{source.layout} has no root: give data.roots.{source.layout}=PATH, or data.root, "
            f"a folder that holds {source.layout}/"
        )
    return _find_path(data, source.layout)


def _name(source: AnyConfig) -> str:
    match source:
        case LayoutConfig(layout=name, split=split):
            return f"{name} {split}"
        case FolderConfig(images=images):
            return images
        case ScenesConfig(domain=domain):
            return f"scenes {domain}"


def _find_path(data: DataConfig, path: str) -> Path:
    """Return a path with ``~`` spelled out; a relative one starts from ``data.root``, if set."""
    try:
        return Path(data.root or ".").expanduser() / Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"no home folder for the ~ of {path} or of data.root = {data.root}: write it out"
        ) from error


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)
