"""The command that measures where classes and shift are in the spectrum of features."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from causalseg.cli.arguments import Count
from causalseg.errors import ConfigError

if TYPE_CHECKING:
    from causalseg.config import Config


@Parameter(name="*")  # options of the command
@dataclass(frozen=True)
class ImageOptions:
    """What is measured.

    Args:
        data: Folders of images without labels: the first is the source, the others are compared
            with it. Default: the data of the run or configuration.
        against: Domains or folders to compare with the source, such as dusk,night.
        corrupt: Corruptions of the source, such as fog,night.
        severity: Severity of the corruptions, 1 to 5.
        images: Images of each set, at most, evenly spaced.
    """

    data: Annotated[tuple[Path, ...], Parameter(negative="")] = ()
    against: str = ""
    corrupt: str = ""
    severity: int = 3
    images: Count = 100


_DEFAULT = ImageOptions()


def spectrum(
    *model: Annotated[str, Parameter(allow_leading_hyphen=False)],
    backbone: str | None = None,
    options: ImageOptions = _DEFAULT,
    rings: Count = 8,
    size: tuple[Count, Count] | None = None,
    intervene: int = 0,
    out: Path,
) -> None:
    """Show which frequencies of the features hold the classes, and which the domain shift.

    Writes OUT/spectrum.html, .json and .csv, and OUT/band.yaml where the data suggest a band.

    Args:
        model: Run folder, or a YAML configuration, whose backbone is taken without an adapter, and
            options as key=value, such as backbone.weights=wheel or data.root=PATH.
        backbone: A backbone instead of a run or configuration, such as dinov2_vits14; needs --data.
        rings: Rings of equal width into which the spectrum is divided.
        size: Height and width in pixels to which images are resized; default: the training crop.
        intervene: Images of each set on which every ring of every block is scaled and the run is
            scored again; 0 leaves it out.
    """
    from causalseg.jobs.spectrum import Plan, measure_model

    overrides = [text for text in model if "=" in text and not Path(text).exists()]
    named = [Path(text) for text in model if text not in overrides]
    if len(named) + (backbone is not None) != 1:
        raise ConfigError("name one run or configuration, or --backbone NAME")
    if backbone is not None and not options.data:
        raise ConfigError("--backbone needs images: --data FOLDER")
    config, run = _open_model(named, backbone, overrides)
    plan = Plan(
        config,
        run,
        options.data,
        _names(options.against),
        _names(options.corrupt),
        options.severity,
        options.images,
        rings,
        size,
        intervene,
    )
    content = measure_model(plan, out)
    if content["verdict"]:
        print(content["verdict"]["sentence"])
    print(f"page: {out / 'spectrum.html'}")


def _open_model(
    named: Sequence[Path], backbone: str | None, overrides: Sequence[str]
) -> "tuple[Config, Path | None]":
    """Return the configuration, and the run folder if one is named."""
    from causalseg.config.load import load_config, parse_config
    from causalseg.jobs.eval import open_run

    if backbone is not None:
        given = {"backbone": {"name": backbone}, "data": {"sources": [], "domains": {}}}
        return parse_config(given, overrides, "--backbone"), None
    if named[0].is_dir():
        run, config = open_run(named[0], overrides)
        return config, run.path
    return load_config(named[0], overrides), None


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
