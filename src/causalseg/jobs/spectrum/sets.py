"""What a spectrum is measured on: a reference, the same images changed, and other images."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import Dataset, Subset

from causalseg.build.data import build_domains, build_sources
from causalseg.build.pairs import decoding_of
from causalseg.config import Config
from causalseg.config.data import CorruptConfig
from causalseg.corruptions import check_corruption
from causalseg.data.classes import IGNORE
from causalseg.data.dataset import Sample, decode_image
from causalseg.data.wrappers import CorruptedData, ResizedData
from causalseg.errors import ConfigError, DataError, did_you_mean
from causalseg.jobs.pictures import Picture, find_pictures

SOURCE = "source"


class Plan(NamedTuple):
    """What to measure.

    Args:
        config: backbone, adapter and data.
        run: folder with the trained adapter and head; None for the frozen backbone.
        folders: images without labels instead of the data of ``config``: the reference first.
        against: domains of ``config`` or folders to compare with the reference.
        corrupt: corruptions of the reference, at ``severity`` 1 to 5.
        images: at most so many of a set, evenly spaced.
        rings: number of rings of equal width.
        size: height and width in pixels to which images are resized.
        intervene: images of a domain for the interventions; 0 leaves them out.
    """

    config: Config
    run: Path | None = None
    folders: Sequence[Path] = ()
    against: Sequence[str] = ()
    corrupt: Sequence[str] = ()
    severity: int = 3
    images: int = 100
    rings: int = 8
    size: tuple[int, int] | None = None
    intervene: int = 0


class Sets(NamedTuple):
    """The reference, the same images changed, and others; all of one size."""

    reference: Dataset[Sample]
    paired: dict[str, Dataset[Sample]]
    unpaired: dict[str, Dataset[Sample]]
    labelled: frozenset[str]  # the sets with labels of the model's classes


class FolderImages(Dataset[Sample]):
    """Images of a folder without labels: every pixel is 255."""

    def __init__(self, pictures: Sequence[Picture], config: Config):
        self.pictures, self.how = pictures, decoding_of(config.data)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Sample:
        picture = self.pictures[index]
        image = decode_image(picture.read(), picture.where, self.how)
        label = torch.full(image.shape[1:], IGNORE, dtype=torch.long)
        return Sample(image, label, picture.name)


def open_sets(plan: Plan, size: tuple[int, int]) -> Sets:
    """Open the sets of a plan.

    Raises ConfigError for an unknown domain or corruption, and what opening data raises.
    """
    for name in plan.corrupt:
        check_corruption(name, plan.severity)
    reference = _open_reference(plan)
    # Resized after the corruption, which depends on pixels.
    changed = {
        name: CorruptedData(reference, CorruptConfig(name=name, severity=plan.severity))
        for name in plan.corrupt
    }
    others, labelled = _open_others(plan)
    if both := [name for name in others if name in (SOURCE, *changed)]:
        raise ConfigError(f"{both[0]} would name two sets: rename a folder, or leave one out")
    return Sets(
        ResizedData(reference, size),
        {name: ResizedData(each, size) for name, each in changed.items()},
        {name: ResizedData(_some(each, plan.images), size) for name, each in others.items()},
        frozenset(() if plan.folders else (SOURCE, *changed, *labelled)),
    )


def _open_reference(plan: Plan) -> Dataset[Sample]:
    if plan.folders:
        return _some(_open_folder(plan.folders[0], plan.config), plan.images)
    sources = build_sources(plan.config.data)
    # A part of one source keeps what its images know, such as their depth.
    whole = sources.datasets[0] if len(sources.datasets) == 1 else sources
    return _some(whole, plan.images)


def _open_others(plan: Plan) -> tuple[dict[str, Dataset[Sample]], list[str]]:
    """Return the other sets, and the names of those with labels of the model's classes."""
    others: dict[str, Dataset[Sample]] = {}
    labelled: list[str] = []
    domains = {} if plan.folders else plan.config.data.domains
    named = [name for name in plan.against if name in domains]
    if named:
        data = plan.config.data.model_copy(update={"only": named, "mean_over": None})
        opened = build_domains(data, plan.config.inference)
        others |= {name: domain.data for name, domain in opened.items()}
        labelled = [name for name, domain in opened.items() if domain.mapping is None]
    for name in plan.against:
        if name not in domains:
            if not Path(name).exists():
                known = did_you_mean(name, domains) if domains else "a folder of images is needed"
                raise ConfigError(f"--against {name} is no domain and no folder: {known}")
            _add(others, Path(name), plan.config)
    for folder in plan.folders[1:]:
        _add(others, folder, plan.config)
    return others, labelled


def _add(others: dict[str, Dataset[Sample]], folder: Path, config: Config) -> None:
    if folder.name in others:
        raise ConfigError(f"two sets are called {folder.name}: rename the folder {folder}")
    others[folder.name] = _open_folder(folder, config)


def _open_folder(folder: Path, config: Config) -> FolderImages:
    return FolderImages(find_pictures(str(folder), [], is_recursive=True), config)


def _some(data: Dataset[Sample], number: int) -> Dataset[Sample]:
    """Return up to ``number`` evenly spaced images."""
    total = len(data)  # type: ignore[arg-type]
    if not total:
        raise DataError("a set without images: check the folder")
    count = min(number, total)
    return Subset(data, [i * total // count for i in range(count)])
