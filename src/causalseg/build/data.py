"""From the options of data to objects: training images, the order of drawing them, and domains."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
from jaxtyping import Int
from torch.utils.data import ConcatDataset, Subset

from causalseg.build.pairs import Pairs, build_classes, describe_source, find_classes, open_pairs
from causalseg.config import Config
from causalseg.config.data import ClassesConfig, DataConfig, FolderConfig, LayoutConfig, Source
from causalseg.config.inference import InferenceConfig
from causalseg.corruptions import check_corruption
from causalseg.data.catalogue import CLASS_LISTS, LAYOUTS, map_classes
from causalseg.data.classes import ClassList
from causalseg.data.dataset import Sample
from causalseg.data.layout_data import LayoutData
from causalseg.data.loader import Draws, PermutedDraws, WeightedDraws
from causalseg.data.sampling import count_pixels, weigh_images
from causalseg.data.wrappers import CachedData, CorruptedData, ResizedData
from causalseg.engine.evaluate import Domain
from causalseg.errors import CausalsegError, ConfigError, did_you_mean, list_some
from causalseg.model import Segmenter
from causalseg.runs.log import logger

_NUM_SAMPLED = 64  # labels that are read to find classes without a pixel
Problems = dict[str, CausalsegError]
"""The error of each source or domain that cannot be used, by name."""


def with_classes_inside(config: Config) -> Config:
    """Return the configuration with its classes.json read in: a run must not need the file."""
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
    return config.with_options("data", classes=inside)


def with_steps(config: Config, num_images: int) -> Config:
    """Turn epochs of ``num_images`` images into steps; ConfigError if the schedule does not fit."""
    train = config.train
    if train.epochs is None:
        return config
    steps = math.ceil(train.epochs * num_images / train.batch)
    if mistake := train.schedule_mistake(steps):
        raise ConfigError(f"train.epochs = {train.epochs:g} are {steps} steps: train.{mistake}")
    return config.with_options("train", steps=steps, epochs=None)


def build_data(
    data: DataConfig, inference: InferenceConfig
) -> tuple[ConcatDataset[Sample], dict[str, Domain]]:
    """Build training images, all sources joined, and domains; an error names all wrong ones.

    The first image of each is read, so that what is wrong everywhere shows now.
    """
    problems: Problems = {}
    sources = _open_sources(data, problems)
    domains = build_domains(data, inference, problems)
    if data.cache == "memory":
        sources = [CachedData(each) for each in sources]
    joined: ConcatDataset[Sample] = ConcatDataset(sources)
    for dataset in (joined, *(domain.data for domain in domains.values())):
        dataset[0]
    return joined, domains


def build_sources(data: DataConfig) -> ConcatDataset[Sample]:
    """Build training images alone, all sources joined; an error names all wrong ones."""
    problems: Problems = {}
    sources = _open_sources(data, problems)
    _raise_problems(problems)
    return ConcatDataset(sources)


def _open_sources(data: DataConfig, problems: Problems) -> list[Any]:
    """Open the sources; what is wrong with one is added to the problems."""
    if not data.sources:
        raise ConfigError(
            "data.sources is empty: give at least one to train on, such as "
            "'data.sources=[{images: day/images, labels: day/labels}]'"
        )
    _check_roots(data)
    classes, sources = build_classes(data), []
    for name, source in _name_sources(data).items():
        with _collecting(problems, name):
            _check_use(data, source, classes, is_source=True)
            pairs, _ = _build_pairs(data, source, classes)
            if source.resize is not None:
                pairs = ResizedData(pairs, source.resize, source.keep_ratio)
            sources.append(pairs)
    return sources


def build_domains(
    data: DataConfig, inference: InferenceConfig, problems: Problems | None = None
) -> dict[str, Domain]:
    """Build domains; an error names all wrong ones, after the ``problems`` of sources."""
    _need_domains(data)
    _check_roots(data)
    classes, domains, problems = build_classes(data), {}, dict(problems or {})
    for name in data.only or data.domains:
        with _collecting(problems, name):
            domains[name] = _build_domain(data, data.domains[name], classes, inference)
    _raise_problems(problems, domains)
    return domains


def count_for_head(
    model: Segmenter, sources: ConcatDataset[Sample], workers: int = 0
) -> Int[np.ndarray, "n k"] | None:
    """Count the pixels of each image and class for a head that balances classes, else None."""
    if not model.head.balance.is_used:
        return None
    counts = count_pixels(sources, len(model.classes.names), workers)
    model.head.balance.count(counts.sum(0))
    return counts


def find_missing_classes(
    classes: ClassList,
    sources: ConcatDataset[Sample],
    counts: Int[np.ndarray, "n k"] | None = None,
    workers: int = 0,
) -> str:
    """Return a sentence on classes without a pixel in the sources, or none.

    Without ``counts`` of all images those of a sample are made, spread evenly.
    """
    total = len(sources)
    if counts is None:
        chosen = sorted({total * i // _NUM_SAMPLED for i in range(_NUM_SAMPLED)})
        counts = count_pixels(Subset(sources, chosen), len(classes.names), workers)
    pixels = counts.sum(0).tolist()
    missing = [name for name, count in zip(classes.names, pixels, strict=True) if not count]
    if not missing:
        return ""
    where = f"{len(counts)} of {total} training labels" if len(counts) < total else "the sources"
    what = ", ".join(missing) if any(pixels) else "any class"
    return f"no pixel of {what} in {where}: check label ids, data.ignore and id_map"


def build_draws(
    data: DataConfig,
    sources: ConcatDataset[Sample],
    seed: int,
    workers: int = 0,
    counts: Int[np.ndarray, "n k"] | None = None,
) -> Draws:
    """Build the order in which training images are drawn, by rare classes or source weights.

    ``counts`` are the pixels of every image and class; without them ``workers`` processes count.
    """
    if data.rare_classes:
        if counts is None:
            counts = count_pixels(sources, len(build_classes(data).names), workers)
        return WeightedDraws(weigh_images(counts, data.rare_classes), seed)
    weights = [
        source.weight / len(part)  # type: ignore[arg-type]
        for source, part in zip(data.sources, sources.datasets, strict=True)
        if source.weight is not None
        for _ in range(len(part))  # type: ignore[arg-type]
    ]
    return WeightedDraws(weights, seed) if weights else PermutedDraws(len(sources), seed)


def list_pairs(data: DataConfig) -> dict[str, Callable[[], Pairs]]:
    """Return by name a function that opens each source and scored domain without its changes.

    Those of the same files are opened once, under all their names. Unpaired files are skipped; the
    data set lists them. ConfigError names those of other classes or an unknown corruption.
    """
    _need_domains(data)
    _check_roots(data)
    classes, sources = build_classes(data), _name_sources(data)
    used = sources | {f"domain {name}": data.domains[name] for name in data.only or data.domains}
    problems: Problems = {}
    names: dict[str, list[str]] = {}
    for name, source in used.items():
        with _collecting(problems, name):
            _check_use(data, source, classes, is_source=name in sources)
        changes = {"corrupt": None, "resize": None, "keep_ratio": False, "weight": None}
        names.setdefault(source.model_copy(update=changes).model_dump_json(), []).append(name)
    _raise_problems(problems)
    return {
        _join(same): partial(open_pairs, data, used[same[0]], classes, is_strict=False)
        for same in names.values()
    }


def _name_sources(data: DataConfig) -> dict[str, Source]:
    named = enumerate(data.sources, start=1)
    return {f"source {i}: {describe_source(each)}": each for i, each in named}


@contextmanager
def _collecting(problems: Problems, name: str) -> Iterator[None]:
    try:
        yield
    except CausalsegError as error:
        problems[name] = error


def _raise_problems(problems: Problems, usable: Mapping[str, Domain] | None = None) -> None:
    """Raise one error for all problems, each text once, with the domains that can be scored."""
    if not problems:
        return
    names: dict[str, list[str]] = {}
    for name, error in problems.items():
        names.setdefault(str(error), []).append(name)
    lines = [f"{_join(same)}: {text}" for text, same in names.items()]
    if usable:
        lines.append(f"domains that can be scored: data.only=[{','.join(usable)}]")
    raise type(next(iter(problems.values())))("\n".join(lines))


def _join(names: Sequence[str]) -> str:
    return list_some(names, 2 if len(names) > 3 else 3)


def _need_domains(data: DataConfig) -> None:
    if not data.domains:
        raise ConfigError(
            "data.domains is empty: give at least one to score, such as "
            "'data.domains={night: {images: night/images, labels: night/labels}}'"
        )


def _check_roots(data: DataConfig) -> None:
    """Refuse a root of an unknown data set; warn of an unused one."""
    sources = (*data.sources, *data.domains.values())
    used = {each.layout for each in sources if isinstance(each, LayoutConfig) and not each.root}
    for name in data.roots:
        if name not in LAYOUTS:
            allowed = did_you_mean(name, used & LAYOUTS.keys() or LAYOUTS)
            raise ConfigError(f"data.roots names no data set {name!r}: {allowed}")
        if name not in used:
            reads = f"read {', '.join(sorted(used))}" if used else "are no published data sets"
            _warn_once(f"data.roots.{name} is not used: sources and domains {reads}")


def _check_use(data: DataConfig, source: Source, classes: ClassList, is_source: bool) -> None:
    """Refuse a source of other classes, a domain without a class mapping, unknown corruptions."""
    own = find_classes(data, source, classes)
    if source.corrupt:
        check_corruption(source.corrupt.name, source.corrupt.severity)
    if is_source and own.names != classes.names:
        raise ConfigError(
            f"source {describe_source(source)} has the classes {', '.join(own.names)}, but "
            "data.classes has others: set data.classes to them, or train on another source"
        )
    map_classes(classes, own)


def _build_domain(
    data: DataConfig, domain: Source, classes: ClassList, inference: InferenceConfig
) -> Domain:
    pairs, own = _build_pairs(data, domain, classes)
    entries: dict[str, Any] = {}
    if isinstance(domain, LayoutConfig):
        entries["split"] = f"{domain.layout} {domain.split}"
    if domain.resize:
        inference = inference.resized_to(domain.resize, domain.keep_ratio)
        entries["fit_inside" if domain.keep_ratio else "resized_to"] = list(domain.resize)
    if corrupt := domain.corrupt:
        clean = domain.model_copy(update={"corrupt": None})
        same = (name for name in data.only or data.domains if data.domains[name] == clean)
        corruption = corrupt.model_dump(include={"name", "severity"})
        entries["corruption"] = {**corruption, "clean": next(same, None)}
    mapping = None
    if own.names != classes.names:
        mapping = map_classes(classes, own)
        entries["classes"] = {"names": own.names, "palette": own.palette}
    unknown = None
    if isinstance(domain, FolderConfig) and domain.unknown:
        unknown, _ = open_pairs(data, domain, classes, finds_unknown=True)
    return Domain(pairs, inference, own, mapping, entries, unknown)


def _build_pairs(data: DataConfig, source: Source, classes: ClassList) -> Pairs:
    """Build a source or domain with its corruption; warn if it is not complete."""
    pairs, own = open_pairs(data, source, classes)
    if isinstance(pairs, LayoutData) and pairs.shortfall:
        _warn_once(f"{pairs.describe()}: {pairs.shortfall}")
    return CorruptedData(pairs, source.corrupt) if source.corrupt else pairs, own


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)
