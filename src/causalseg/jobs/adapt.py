"""Adapt a trained run to unlabelled images of one domain: test-time adaptation of band gains.

The result is a run folder with the same configuration and weights, and gains.safetensors, which is
applied wherever the run is loaded. Scores of such a run are no domain generalization, and marked.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from causalseg.adapters.band_gains import BandGains
from causalseg.build.model import load_run
from causalseg.build.pairs import decoding_of
from causalseg.config import Config
from causalseg.config.adapt import AdaptConfig
from causalseg.config.load import dump_config, load_config
from causalseg.data.dataset import Decoding, decode_image
from causalseg.engine.adapt import adapt_gains, draw_views
from causalseg.engine.devices import make_fabric
from causalseg.errors import RunError
from causalseg.jobs.pictures import Picture, find_pictures
from causalseg.model import Segmenter
from causalseg.runs.folder import RunFolder
from causalseg.runs.log import logger
from causalseg.runs.packed import opened
from causalseg.runs.seal import sealing
from causalseg.writing import write_json, write_text

_DEFAULT = AdaptConfig()


class Adapted(NamedTuple):
    """An adapted run, the number of images, and the loss by step."""

    run: RunFolder
    images: int
    losses: dict[int, float]


def adapt_run(
    path: Path | str, images: Path | str, out: Path, options: AdaptConfig = _DEFAULT
) -> Adapted:
    """Train band gains on images without labels and write the run folder ``out``, in one process.

    ``path`` is as for `causalseg.load`, ``images`` as for `predict_run`. Raises RunError if ``out``
    is in use or the run was adapted before, MissingFileError or DataError if there is no image or
    one cannot be read, and TrainingError if the loss is not finite.
    """
    target = RunFolder(out)
    if target.path.exists() and (not target.path.is_dir() or any(target.path.iterdir())):
        raise RunError(f"{target.path} is in use: choose another folder with --out")
    with opened(path) as run:
        config = load_config(run.need(run.config))
        if run.gains.exists():
            raise RunError(f"{path} is adapted already: give the run that it was made from")
        pictures = find_pictures(str(images), [], is_recursive=True)
        model = load_run(run.path)
        origin = run.read_json(run.origin) if run.origin.is_file() else {}
    gains = BandGains(model.backbone.depth)
    model.scale_bands(gains)
    fabric = make_fabric(config.run.model_copy(update={"devices": 1, "nodes": 1}))
    fabric.to_device(model)
    logger.info("%d gains, %d images, on %s", gains.values.numel(), len(pictures), fabric.device)
    read = [partial(_read, picture, decoding_of(config.data)) for picture in pictures]
    generator = torch.Generator().manual_seed(config.run.seed)
    how = config.inference.resolve()
    views = draw_views(read, config.train.crop, options.batch, how, generator)
    with fabric.autocast():
        losses = adapt_gains(model, gains.values, views, options)
    about = {"run": str(path), "images": str(images), "count": len(pictures)}
    about |= {**options.model_dump(mode="json"), "gains": gains.values.numel(), "losses": losses}
    _write(target, config, model, {**origin, "adapted": about})
    return Adapted(target, len(pictures), losses)


def _read(picture: Picture, how: Decoding) -> Float[Tensor, "3 H W"]:
    return decode_image(picture.read(), picture.where, how)


def _write(run: RunFolder, config: Config, model: Segmenter, origin: dict[str, Any]) -> None:
    """Write a run folder; the gains before the head, so that it never loads without them."""
    assert model.band_gains is not None
    write_text(run.config, dump_config(config.with_options("run", out=str(run.path), resume=False)))
    write_json(run.origin, origin)
    with sealing(run, run.gains, run.adapter, run.head):
        model.band_gains.save(run.gains)
        model.save(run.path)
