"""`causalseg spectrum`: measure a run or a backbone and write page, JSON, CSV and YAML."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from causalseg.analysis.colours import pca_colours
from causalseg.analysis.rings import SECTORS, count_coefficients, ring_edge
from causalseg.analysis.verdict import RingVerdict, Verdict
from causalseg.backbones.timm import FrozenBackbone, build_backbone
from causalseg.build.model import build_segmenter
from causalseg.build.pairs import build_classes
from causalseg.config.adapters import label
from causalseg.engine.devices import make_fabric
from causalseg.errors import ConfigError, RunError
from causalseg.jobs.spectrum.features import BlockFeatures, UneditedBlocks
from causalseg.jobs.spectrum.interventions import intervene_on_rings
from causalseg.jobs.spectrum.measure import LEAST_IMAGES, measure_sets
from causalseg.jobs.spectrum.sets import Plan, Sets, open_sets
from causalseg.model import Segmenter
from causalseg.report.spectrum import write_spectrum
from causalseg.runs.checkpoint import load_weights
from causalseg.runs.folder import RunFolder
from causalseg.spectral.bands import band_pass
from causalseg.writing import write_json, write_text

_LARGEST = 32  # rings
_SHOWN = 4  # sets with pictures


def measure_model(plan: Plan, out: Path) -> dict[str, Any]:
    """Measure what a plan says and write OUT/spectrum.json, .csv, .html and, with a band, .yaml.

    Returns the content of spectrum.json. Raises ConfigError for a plan that cannot be, RunError if
    ``out`` is a file, and what loading model and data raises.
    """
    if out.is_file():
        raise RunError(f"--out {out} is a file: name a folder")
    if not 2 <= plan.rings <= _LARGEST:
        raise ConfigError(f"--rings {plan.rings}: give 2 to {_LARGEST}")
    if plan.intervene and plan.run is None:
        raise ConfigError("--intervene scores a trained run: name its folder")
    if plan.config.backbone.repair != "none":
        raise ConfigError(
            f"backbone.repair={plan.config.backbone.repair} changes what leaves the blocks, and a "
            "spectrum is of the blocks: set backbone.repair=none"
        )
    device = make_fabric(plan.config.run.model_copy(update={"devices": 1, "nodes": 1})).device
    model, backbone = _load(plan, device)
    size = _fit(plan.size or plan.config.train.crop, backbone.patch)
    grid = (size[0] // backbone.patch, size[1] // backbone.patch)
    sets = open_sets(plan, size)
    has_adapter = model is not None and model.adapter is not None
    unedited = None
    if has_adapter:
        frozen = build_backbone(plan.config.backbone, plan.config.run.first_seed).to(device)
        unedited = UneditedBlocks(backbone, frozen)
    blocks = BlockFeatures(backbone)
    classes = build_classes(plan.config.data)
    found, verdict = measure_sets(blocks, sets, plan.rings, len(classes.names), unedited)
    pictures = _draw_pictures(blocks, sets, unedited, verdict)
    blocks.remove()
    if unedited:
        unedited.remove()
    content: dict[str, Any] = {
        "model": plan.config.backbone.name,
        "run": None if plan.run is None else "/".join(plan.run.parts[-2:]),
        "adapter": label(plan.config.adapter) if has_adapter else "none",
        "size": list(size),
        "grid": list(grid),
        "edges": [ring_edge(k, plan.rings) for k in range(plan.rings + 1)],
        "coefficients": count_coefficients(grid, plan.rings).tolist(),
        "severity": plan.severity,
        **found,
        "interventions": None,
        "verdict": None if verdict is None else _write_verdict(verdict),
        "notes": _note(plan, sets, content_of=found, grid=grid),
    }
    if model is not None and plan.intervene:
        scored = {"source": sets.reference, **sets.paired, **sets.unpaired}
        labelled = {name: each for name, each in scored.items() if name in sets.labelled}
        content["interventions"] = intervene_on_rings(model, labelled, plan.rings, plan.intervene)
    write_json(out / "spectrum.json", content)
    write_text(out / "spectrum.csv", to_csv(content))
    (out / "band.yaml").unlink(missing_ok=True)  # of an earlier call
    if verdict is not None and (options := suggest_options(verdict)):
        text = f"# {verdict.describe()}\n{yaml.safe_dump(options, sort_keys=False)}"
        write_text(out / "band.yaml", text)
    write_spectrum(content, pictures, out / "spectrum.html")
    return content


def suggest_options(verdict: Verdict) -> dict[str, Any]:
    """Return the options that a verdict suggests, as a configuration has them."""
    if verdict.low is None and verdict.high is None:
        return {}
    low, high = (None if r is None else round(r, 3) for r in (verdict.low, verdict.high))
    options: dict[str, Any] = {
        "adapter": {"name": "causal_tune", "band": {"low": low, "high": high}}
    }
    intervene: dict[str, Any] = {"kind": "spectral", "high_gain": None}
    for side, radius, gain in (("low", low, verdict.low_gain), ("high", high, verdict.high_gain)):
        if radius is not None and gain is not None:
            intervene |= {side: radius, f"{side}_gain": list(gain)}
    return options | {"intervene": intervene}


def to_csv(content: dict[str, Any]) -> str:
    """Return every number by block and ring, one a line: quantity, set, block, ring, value."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["quantity", "set", "block", "ring", "value"])
    for quantity, name, rows in _matrices(content):
        for block, row in enumerate(rows):
            values = row if isinstance(row, list) else [row]
            for ring, value in enumerate(values):
                where = ring if isinstance(row, list) else ""
                table.writerow([quantity, name, block, where, "" if value is None else value])
    return text.getvalue()


def _matrices(content: dict[str, Any]) -> Iterator[tuple[str, str, Sequence[Any]]]:
    """Yield quantity, set and the rows of its blocks."""
    for name, entry in content["sets"].items():
        yield "power", name, entry["power"]
        yield "power_low", name, entry["power_interval"][0]
        yield "power_high", name, entry["power_interval"][1]
        yield "power_with_outliers", name, entry["power_with_outliers"]
        for number, sector in enumerate(SECTORS):
            rows = [[ring[number] for ring in block] for block in entry["directions"]]
            yield f"power_{sector}", name, rows
        for key in ("share", "angle", "norm", "norm_of_others"):
            yield f"outliers_{key}", name, entry["outliers"][key]
    for name, rows in content["shift"].items():
        yield "shift", name, rows
    for name, entry in content["unpaired"].items():
        yield from ((key, name, entry[key]) for key in ("auc", "mixing"))
    for part in ("classes", "transfer"):
        for key, rows in (content[part] or {}).items():
            yield f"{part}_{key}", "source", rows
    for name, entry in (content["interventions"] or {}).items():
        for gain, rows in entry["change"].items():
            yield f"miou_change_gain_{gain}", name, rows


def _load(plan: Plan, device: torch.device) -> tuple[Segmenter | None, FrozenBackbone]:
    if plan.run is None:
        backbone = build_backbone(plan.config.backbone, plan.config.run.first_seed)
        return None, backbone.to(device)
    model = build_segmenter(plan.config)
    load_weights(RunFolder(plan.run), model)
    model.eval().requires_grad_(False).to(device)
    return model, model.backbone


def _fit(size: tuple[int, int], patch: int) -> tuple[int, int]:
    """Return the nearest size that the patch divides."""
    height, width = (max(1, round(side / patch)) * patch for side in size)
    return height, width


def _write_verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "sentence": verdict.describe(),
        "rings": [_write_ring(ring) for ring in verdict.rings],
        "low": verdict.low,
        "high": verdict.high,
        "low_gain": verdict.low_gain,
        "high_gain": verdict.high_gain,
    }


def _write_ring(ring: RingVerdict) -> dict[str, Any]:
    parts = {"classes": ring.classes, "missed": ring.missed, "shift": ring.shift}
    estimates = {name: [float(f"{v:.5g}") for v in each] for name, each in parts.items()}
    return {**estimates, "is_non_causal": ring.is_non_causal}


def _note(plan: Plan, sets: Sets, content_of: dict[str, Any], grid: tuple[int, int]) -> list[str]:
    """Return what is not shown, and why."""
    notes = []
    empty = [k for k, n in enumerate(count_coefficients(grid, plan.rings).tolist()) if not n]
    if empty:
        numbers = ", ".join(map(str, empty))
        notes.append(
            f"A grid of {grid[0]} x {grid[1]} patches has no frequency in ring {numbers}: larger "
            "images or fewer rings fill it."
        )
    count = len(sets.reference)  # type: ignore[arg-type]
    if "source" not in sets.labelled:
        notes.append("Without labels there is no class information and no verdict.")
    elif content_of["classes"] is None:
        notes.append(
            "Labels of two classes, in images of both halves, are needed for class information and "
            "a verdict."
        )
    elif not sets.paired:
        notes.append("Without a corruption there is no verdict: give some, such as fog,night.")
    if count < LEAST_IMAGES:
        notes.append(
            f"{count} images of the source are too few for a verdict: give {LEAST_IMAGES}."
        )
    if few := [name for name in sets.unpaired if name not in content_of["unpaired"]]:
        notes.append(f"Too few images to tell apart from the source: {', '.join(few)}.")
    if plan.run is None:
        notes.append("A frozen backbone: nothing is trained, so there is no transfer function.")
    elif plan.intervene:
        if left := [name for name in sets.unpaired if name not in sets.labelled]:
            named = ", ".join(left)
            notes.append(f"No interventions without labels of the model's classes: {named}.")
    else:
        notes.append("Interventions were not asked for.")
    return notes


Part = tuple[str, Image.Image]


def _draw_pictures(
    blocks: BlockFeatures, sets: Sets, unedited: UneditedBlocks | None, verdict: Verdict | None
) -> dict[str, list[Part]]:
    """Return pictures of the first image of some sets: features and parts as colours.

    One basis for all: the principal components of the last features of the source.
    """
    has_band = verdict is not None and (verdict.low or verdict.high)
    low, high = (verdict.low, verdict.high) if verdict and has_band else (0.2, 0.7)
    shown = {"source": sets.reference, **sets.paired, **sets.unpaired}
    parts: list[Float[Tensor, "h w c"]] = []
    images: dict[str, Image.Image] = {}
    ends = [f"{name} = {r:.2f}" for name, r in (("R_L", low), ("R_H", high)) if r]
    titles = ["all", f"band, {', '.join(ends)}", "the rest"]
    if unedited:
        titles.append("what the adapter adds")
    for name, data in list(shown.items())[:_SHOWN]:
        image = data[0].image
        images[name] = Image.fromarray((255 * image.movedim(0, -1)).round().byte().numpy())
        batch = image[None].to(blocks.backbone.mean.device)
        features = blocks(batch)
        last = features[-1]
        band = band_pass(last, low, high)
        parts += [each[0] for each in (last, band, last - band)]
        if unedited:
            parts.append((last - unedited(features, batch)[-1])[0])
    colours = iter(pca_colours(parts))
    return {
        name: [("image", image), *((title, Image.fromarray(next(colours))) for title in titles)]
        for name, image in images.items()
    }
