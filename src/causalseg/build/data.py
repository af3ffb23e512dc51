"""From the options of data to objects: sources, their order, domains."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Int
from torch.utils.data import ConcatDataset, Dataset

from causalseg.build.pairs import (
    AnyConfig,
    Opened,
    build_classes,
    classes_of,
    name_of,
    open_pairs,
)
from causalseg.config import Config
from causalseg.config.data import ClassesConfig, DataConfig, LayoutConfig
from causalseg.config.inference import InferenceConfig
from causalseg.corruptions import check_corruption
from causalseg.data.catalogue import CLASS_LISTS, LAYOUTS, map_classes
from causalseg.data.classes import ClassList
from causalseg.data.dataset import Sample
from causalseg.data.layout_data import LayoutData
from causalseg.data.loader import Draws, PermutedDraws, WeightedDraws
from causalseg.data.sampling import count_pixels, image_chances
from causalseg.data.wrappers import CachedData, CorruptedData, ResizedData
from causalseg.engine.evaluate import Domain
from causalseg.errors import CausalsegError, ConfigError, did_you_mean
from causalseg.model import Segmenter
from causalseg.runs.log import logger


def with_classes_inside(config: Config) -> Config:
    """Return the configuration with a classes.json read into it: a run must not need the file."""
    if isinstance(config.data.classes, ClassesConfig) or config.data.classes in CLASS_LISTS:
        return config
    classes = build_classes(config.data)
    inside = ClassesConfig(
        names=list(classes.names),
        palette=list(classes.palette) if classes.has_palette else None,
        ids=list(classes.ids),
        ignore=list(classes.ignore),
        ignore_colours=list(classes.ignore_colours),
    )
    return config.model_copy(update={"data": config.data.model_copy(update={"classes": inside})})


def with_steps(config: Config, num_images: int) -> Config:
    """Return the configuration with the steps that its epochs make of the training images.

    Raises:
        ConfigError: if the schedule does not fit into them.
    """
    train = config.train
    if train.epochs is None:
        return config
    steps = math.ceil(train.epochs * num_images / train.batch)
    if mistake := train.schedule_mistake(steps):
        raise ConfigError(f"train.epochs = {train.epochs:g} are {steps} steps: train.{mistake}")
    changed = train.model_copy(update={"steps": steps, "epochs": None})
    return config.model_copy(update={"train": changed})


def build_data(
    data: DataConfig, inference: InferenceConfig
) -> tuple[ConcatDataset[Sample], dict[str, Domain]]:
    """Build what is trained on and what is scored.

    Raises:
        CausalsegError: as `build_sources` and `build_domains`, with all that is wrong in both.
    """
    sources, problems = _try_sources(data)
    domains, others = _try_domains(data, inference)
    if problems:
        hint = f"\nThese domains can be scored: {', '.join(domains)}" if domains else ""
        _refuse(problems | others, hint)
    _refuse_domains(others, domains)
    return _joined_sources(data, sources), domains


def build_sources(data: DataConfig) -> ConcatDataset[Sample]:
    """Build the training data: all sources, joined.

    Raises:
        ConfigError: if there is none, or one has other classes.
        CausalsegError: if one is not there or not as it should be; names all of them.
    """
    sources, problems = _try_sources(data)
    if problems:
        _refuse(problems)
    return _joined_sources(data, sources)


def _try_sources(data: DataConfig) -> tuple[list[Dataset[Sample]], dict[str, CausalsegError]]:
    if not data.sources:
        raise ConfigError(
            "data.sources is empty, there is nothing to train on: name one at least, such as "
            "'data.sources=[{images: day/images, labels: day/labels}]'"
        )
    _check_roots(data)
    classes, sources = build_classes(data), []
    problems: dict[str, CausalsegError] = {}
    for name, source in _named_sources(data).items():
        try:
            built, own = _build_pairs(data, source, classes)
            _need_same_classes(source, own, classes)
        except CausalsegError as error:
            problems[name] = error
            continue
        if source.resize is not None:
            built = ResizedData(built, source.resize, source.keep_ratio)
        sources.append(built)
    return sources, problems


def _joined_sources(data: DataConfig, sources: list[Dataset[Sample]]) -> ConcatDataset[Sample]:
    return ConcatDataset([CachedData(each) if data.cache == "memory" else each for each in sources])


def count_for_head(
    model: Segmenter, sources: ConcatDataset[Sample], workers: int = 0
) -> Int[np.ndarray, "n k"] | None:
    """Count the pixels of every class for a head that balances them; ``workers`` processes read.

    Returns:
        The pixels of every image and class; None if the head does not need them.

    Raises:
        DataError: if no pixel has a class.
    """
    balance = model.head.balance
    if not balance.is_used:
        return None
    counts = count_pixels(sources, len(model.classes.names), workers)
    balance.count(counts.sum(0))
    return counts


def build_draws(
    data: DataConfig,
    sources: ConcatDataset[Sample],
    seed: int,
    workers: int = 0,
    counts: Int[np.ndarray, "n k"] | None = None,
) -> Draws:
    """Build the order in which training images are drawn.

    Args:
        data: says how they are drawn.
        sources: the images.
        seed: the same seed is the same order.
        workers: processes that read labels, where these must be counted.
        counts: pixels of every image and class, where they are known.
    """
    if data.rare_classes:
        given = data.rare_classes
        if counts is None:
            counts = count_pixels(sources, len(build_classes(data).names), workers)
        return WeightedDraws(image_chances(counts, given.temperature, given.min_pixels), seed)
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


def build_domains(data: DataConfig, inference: InferenceConfig) -> dict[str, Domain]:
    """Build what is scored.

    Args:
        data: sources and domains.
        inference: how an image is predicted, where a domain says nothing else.

    Raises:
        ConfigError: if there is no domain.
        CausalsegError: if a domain is not there or not as it should be; says which ones are.
    """
    domains, problems = _try_domains(data, inference)
    _refuse_domains(problems, domains)
    return domains


def _try_domains(
    data: DataConfig, inference: InferenceConfig
) -> tuple[dict[str, Domain], dict[str, CausalsegError]]:
    _need_domains(data)
    _check_roots(data)
    classes, domains = build_classes(data), {}
    problems: dict[str, CausalsegError] = {}
    for name in data.only or data.domains:
        try:
            domains[name] = _build_domain(data, name, classes, inference)
        except CausalsegError as error:
            problems[name] = error
    return domains, problems


def _refuse_domains(problems: Mapping[str, CausalsegError], domains: Mapping[str, Domain]) -> None:
    if problems:
        rest = f"[{','.join(domains)}]"
        _refuse(problems, f"\nThe others can be scored: data.only={rest}" if domains else "")


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
    sources = _named_sources(data)
    domains = {f"domain {name}": data.domains[name] for name in data.only or data.domains}
    mistakes = []
    for name, given in (sources | domains).items():
        try:
            own = classes_of(data, given, classes)
            if given.corrupt:
                check_corruption(given.corrupt.name, given.corrupt.severity)
            if name in sources:
                _need_same_classes(given, own, classes)
            map_classes(classes, own)
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
            opened[name] = partial(open_pairs, data, given, classes, is_strict=False)
    return {_joined(same): opened[same[0]] for same in names.values()}


def _named_sources(data: DataConfig) -> dict[str, AnyConfig]:
    return {f"source {i}: {name_of(each)}": each for i, each in enumerate(data.sources, start=1)}


def _refuse(problems: Mapping[str, CausalsegError], hint: str = "") -> NoReturn:
    """Raise one error of all, the same text once."""
    names: dict[str, list[str]] = {}
    for name, error in problems.items():
        names.setdefault(str(error), []).append(name)
    kind = type(next(iter(problems.values())))
    raise kind("\n".join(f"{_joined(of)}: {text}" for text, of in names.items()) + hint)


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
    """Refuse a root of no data set, and warn of one that nothing uses."""
    given = (*data.sources, *data.domains.values())
    used = {each.layout for each in given if isinstance(each, LayoutConfig) and not each.root}
    for name in data.roots:
        if name not in LAYOUTS:
            allowed = did_you_mean(name, used & LAYOUTS.keys() or LAYOUTS)
            raise ConfigError(f"data.roots names no data set {name!r}: {allowed}")
        if name not in used:
            reads = f"read {', '.join(sorted(used))}" if used else "are no published data sets"
            _warn_once(f"data.roots.{name} is not used: sources and domains {reads}")


def _build_domain(
    data: DataConfig, name: str, classes: ClassList, inference: InferenceConfig
) -> Domain:
    domain = data.domains[name]
    pairs, own = _build_pairs(data, domain, classes)
    entries: dict[str, Any] = {}
    if isinstance(domain, LayoutConfig):
        entries["split"] = f"{domain.layout} {domain.split}"
    if domain.resize:
        size, inside = (None, domain.resize) if domain.keep_ratio else (domain.resize, None)
        rule = {"size": size, "inside": inside, "shortest": None, "scale": None}
        inference = inference.model_copy(update=rule)
        entries["fit_inside" if domain.keep_ratio else "resized_to"] = list(domain.resize)
    if domain.corrupt:
        entries["corruption"] = {
            "name": domain.corrupt.name,
            "severity": domain.corrupt.severity,
            "clean": _clean(data, domain),
        }
    mapping = None
    if own.names != classes.names:
        mapping = map_classes(classes, own)
        entries["classes"] = {"names": own.names, "palette": own.palette}
    return Domain(pairs, inference, own, mapping, entries)


def _clean(data: DataConfig, corrupted: AnyConfig) -> str | None:
    """Return the scored domain that is the same but for the corruption."""
    clean = corrupted.model_copy(update={"corrupt": None})
    return next((n for n in data.only or data.domains if data.domains[n] == clean), None)


def _build_pairs(data: DataConfig, source: AnyConfig, classes: ClassList) -> Opened:
    """Build a source or domain, corrupted where asked for; say so if it is not complete."""
    pairs, own = open_pairs(data, source, classes)
    if isinstance(pairs, LayoutData) and pairs.shortfall:
        _warn_once(f"{pairs.describe()}: {pairs.shortfall}")
    if source.corrupt:
        given = source.corrupt
        pairs = CorruptedData(pairs, given.name, given.severity, given.seed)
    return pairs, own


def _need_same_classes(source: AnyConfig, own: ClassList, classes: ClassList) -> None:
    if own.names != classes.names:
        raise ConfigError(
            f"source {name_of(source)} has the classes {', '.join(own.names)}; data.classes are "
            "others: set data.classes to them, or train on another source"
        )


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)
