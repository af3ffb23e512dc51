"""Export a trained model as a file that runs without this package, checked before it is kept.

The file holds the `WindowModel` of one size. Its classes are compared with the model's on real
images; below 99.9 % equal pixels nothing is written.
"""

import functools
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from causalseg.build.data import build_domains
from causalseg.build.loaded import load
from causalseg.build.pairs import decoding_of
from causalseg.build.window import WindowModel
from causalseg.config import Config
from causalseg.config.load import load_config
from causalseg.data.dataset import Sample, decode_image
from causalseg.errors import ConfigError, RunError, did_you_mean
from causalseg.heads.pyramid import resize
from causalseg.jobs.pictures import Picture, find_pictures
from causalseg.runs.packed import opened
from causalseg.version import __version__
from causalseg.writing import replacing, write_text

_EQUAL = 0.999  # of pixels
_NEAR = 0.05  # of confidence
_IMAGES = 20  # that are compared
_INPUT, _OUTPUTS = "images", ["classes", "confidence"]
Pixels = Int[np.ndarray, "b H W 3"]
Outputs = tuple[Int[np.ndarray, "b H W"], Float[np.ndarray, "b H W"]]
Runner = Callable[[Pixels], Outputs]
"""Runs an exported file."""


class Exported(NamedTuple):
    """An exported file, and how near it is to the model over ``images`` images."""

    file: Path
    images: int
    equal: float
    """Fraction of pixels of the same class."""
    difference: float
    """Largest difference of confidence."""


def export_run(
    path: Path | str,
    format: str,
    size: tuple[int, int],
    out: Path,
    checkpoint: str = "last",
    images: str | None = None,
) -> Exported:
    """Export a run for images of ``size``, height and width in pixels, in float32.

    ``images`` are compared, as `predict` takes them; None takes those of the run's domains.

    Raises ConfigError if a format, size or package is wrong, RunError if the file and the model
    differ, and MissingFileError or DataError without images to compare.
    """
    if format not in FORMATS:
        raise ConfigError(f"format {format!r}: {did_you_mean(format, FORMATS)}")
    write, run_file, ending = FORMATS[format]
    if out.suffix != ending:
        raise ConfigError(f"out is {out}: a file of {format} ends in {ending}")
    with opened(path) as run:
        config = load_config(run.need(run.config))
        model = WindowModel(load(run, checkpoint=checkpoint).models[0], size)
        about = _describe(Path(path).name, config, model, size)
    pixels = _find_images(config, images, size)
    with tempfile.TemporaryDirectory() as name:
        made = Path(name) / out.name
        write(model, made, about)
        equal, difference = _compare(model, run_file(made), pixels)
        if not (equal >= _EQUAL and difference <= _NEAR):
            raise RunError(
                f"{format} gives {equal:.2%} of the pixels the class that the model gives them, "
                f"and its confidence differs by up to {difference:.2g}: nothing was written, since "
                f"{_EQUAL:.1%} and {_NEAR} are needed. Try another format or size"
            )
        about |= {"compared_images": len(pixels), "equal_pixels": equal}
        about |= {"largest_difference_of_confidence": difference}
        out.unlink(missing_ok=True)  # the last file that is written says that all are there
        write_text(out.with_name(f"{out.name}.json"), json.dumps(about, indent=2) + "\n")
        if made.with_suffix(".bin").is_file():  # OpenVINO's weights
            with replacing(out.with_suffix(".bin")) as temporary:
                shutil.copyfile(made.with_suffix(".bin"), temporary)
        with replacing(out) as temporary:
            shutil.copyfile(made, temporary)
    return Exported(out, len(pixels), equal, difference)


def _describe(
    name: str, config: Config, model: WindowModel, size: tuple[int, int]
) -> dict[str, Any]:
    classes = model.model.classes
    return {
        "made_by": f"causalseg {__version__}",
        "run": name,
        "backbone": config.backbone.name,
        "size": list(size),
        "classes": list(classes.names),
        "palette": [list(colour) for colour in classes.palette],
        "label_ids": list(classes.ids),
    }


def _find_images(config: Config, images: str | None, size: tuple[int, int]) -> Pixels:
    """Return up to 20 images at the size of the window, spread over the domains."""
    readers: list[Callable[[], Float[Tensor, "3 H W"]]] = []
    if images is not None:
        for picture in find_pictures(images, [], is_recursive=True):
            readers.append(functools.partial(_decode, picture, config))
    elif config.data.domains:
        for domain in build_domains(config.data, config.inference).values():
            count = len(domain.data)  # type: ignore[arg-type]
            readers += [functools.partial(_image_of, domain.data, index) for index in range(count)]
    else:
        raise ConfigError("the run names no data to compare the file with: give --images FOLDER")
    used = min(_IMAGES, len(readers))
    found = [readers[number * len(readers) // used]() for number in range(used)]
    scaled = [resize(image[None], size, antialias=True)[0] for image in found]
    return (255 * torch.stack(scaled).clamp(0, 1)).round().byte().movedim(1, -1).numpy()


def _decode(picture: Picture, config: Config) -> Float[Tensor, "3 H W"]:
    return decode_image(picture.read(), picture.where, decoding_of(config.data))


def _image_of(data: Dataset[Sample], index: int) -> Float[Tensor, "3 H W"]:
    return data[index].image


@torch.inference_mode()
def _compare(model: WindowModel, runner: Runner, pixels: Pixels) -> tuple[float, float]:
    """Return the share of equal pixels and the largest difference; also for a batch of three."""
    equal, difference = [], 0.0
    batches = [pixels[i : i + 1] for i in range(len(pixels))]
    if len(pixels) >= 3:
        batches.append(pixels[:3])
    for batch in batches:
        ours = [output.numpy() for output in model(torch.from_numpy(batch))]
        theirs = runner(batch)
        equal.append(float(np.mean(ours[0] == theirs[0])))
        difference = float(np.maximum(difference, np.abs(ours[1] - theirs[1]).max()))  # NaN stays
    return float(np.mean(equal)), difference


def _program(model: WindowModel) -> torch.export.ExportedProgram:
    images = torch.zeros(2, *model.size, 3, dtype=torch.uint8)
    dynamic = {_INPUT: {0: torch.export.Dim("batch", min=1)}}
    with torch.no_grad():
        return torch.export.export(model, (images,), dynamic_shapes=dynamic)


def _write_torch(model: WindowModel, file: Path, about: dict[str, Any]) -> None:
    torch.export.save(_program(model), file, extra_files={"about.json": json.dumps(about)})


def _write_onnx(model: WindowModel, file: Path, about: dict[str, Any]) -> None:
    onnx, _ = _import("onnx", "onnxscript", extra="export")
    for talkative in ("onnxscript", "onnx_ir"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    names = {"input_names": [_INPUT], "output_names": _OUTPUTS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about its own parts
        made = torch.onnx.export(_program(model), dynamo=True, verbose=False, **names)  # type: ignore[arg-type]
    assert made is not None
    made.save(str(file))
    content = onnx.load(str(file))
    for key, value in about.items():
        content.metadata_props.add(key=key, value=json.dumps(value))
    onnx.save(content, str(file))


def _write_openvino(model: WindowModel, file: Path, about: dict[str, Any]) -> None:
    openvino, *_ = _import("openvino", extra="export")
    with tempfile.TemporaryDirectory() as name:
        _write_onnx(model, Path(name) / "x.onnx", about)
        converted = openvino.convert_model(str(Path(name) / "x.onnx"))
    for key, value in about.items():
        converted.set_rt_info(json.dumps(value), ["causalseg", key])
    openvino.save_model(converted, str(file), compress_to_fp16=False)


def _run_torch(file: Path) -> Runner:
    program = torch.export.load(file).module()

    def run(pixels: Pixels) -> Outputs:
        classes, confidence = program(torch.from_numpy(pixels))
        return classes.numpy(), confidence.numpy()

    return run


def _run_onnx(file: Path) -> Runner:
    (onnxruntime,) = _import("onnxruntime", extra="export")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    return lambda pixels: tuple(session.run(_OUTPUTS, {_INPUT: pixels}))


def _run_openvino(file: Path) -> Runner:
    (openvino,) = _import("openvino", extra="export")
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    options["INFERENCE_NUM_THREADS"] = str(torch.get_num_threads())
    compiled = openvino.Core().compile_model(str(file), "CPU", options)

    def run(pixels: Pixels) -> Outputs:
        outputs = compiled(pixels)
        return outputs[0], outputs[1]

    return run


def _import(*names: str, extra: str) -> list[Any]:
    from importlib import import_module

    try:
        return [import_module(name) for name in names]
    except ImportError as error:
        raise ConfigError(f"this needs {error.name}: pip install 'causalseg[{extra}]'") from None


Writer = Callable[[WindowModel, Path, dict[str, Any]], None]
FORMATS: dict[str, tuple[Writer, Callable[[Path], Runner], str]] = {
    "onnx": (_write_onnx, _run_onnx, ".onnx"),
    "openvino": (_write_openvino, _run_openvino, ".xml"),
    "torch": (_write_torch, _run_torch, ".pt2"),
}
