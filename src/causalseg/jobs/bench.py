"""Latency of a trained run on this machine by backend and precision, with the mIoU beside it."""

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from causalseg.build.loaded import load
from causalseg.build.window import WindowModel
from causalseg.config.load import load_config
from causalseg.jobs.export.formats import FORMATS, Order, Outputs, Runner
from causalseg.jobs.export.images import Pixels, labelled_images, source_images
from causalseg.jobs.export.job import CALIBRATED, miou, run_model
from causalseg.jobs.export.precision import Precision
from causalseg.runs.packed import opened

_WARM_UP = 2  # calls that are not timed
_FILES: Sequence[tuple[str, Precision]] = (
    ("onnx", "float32"),
    ("onnx", "int8"),
    ("openvino", "float32"),
    ("openvino", "int8"),
)


class Timed(NamedTuple):
    """Median milliseconds an image, over those of the first backend, and mIoU in percent."""

    backend: str
    precision: str
    milliseconds: float
    ratio: float
    miou: float


def bench_run(
    path: Path | str,
    size: tuple[int, int],
    domain: str | None = None,
    count: int = 20,
    files: Sequence[tuple[str, Precision]] = _FILES,
) -> list[Timed]:
    """Time torch in float32 and bfloat16 and exported files on ``count`` images of a domain.

    Images and labels are resized to ``size``; backends take turns, image by image. ``domain`` is
    the first that is averaged if None; int8 is calibrated on training images. Raises ConfigError
    without such data.
    """
    with opened(path) as run:
        config = load_config(run.need(run.config))
        model = WindowModel(load(run).models[0], size)
    name = domain or next(iter(config.data.averaged), "")
    images = labelled_images(config, name, size, count)
    is_int8 = any(precision == "int8" for _, precision in files)
    calibration = source_images(config, size, CALIBRATED) if is_int8 else []
    with tempfile.TemporaryDirectory() as folder:
        runners = {("torch", "float32"): run_model(model), ("torch", "bf16"): _in_bf16(model)}
        for each, precision in files:
            file = Path(folder) / f"{precision}{FORMATS[each].ending}"
            FORMATS[each].write(Order(model, {}, precision, calibration), file)
            runners[each, precision] = FORMATS[each].run(file)
        seconds: dict[tuple[str, str], list[float]] = {key: [] for key in runners}
        outputs: dict[tuple[str, str], list[Outputs]] = {key: [] for key in runners}
        for pixels in [*images.pixels[:1] * _WARM_UP, *images.pixels]:
            for key, runner in runners.items():
                start = time.perf_counter()
                outputs[key].append(runner(pixels))
                seconds[key].append(time.perf_counter() - start)
    medians = {key: 1000 * statistics.median(each[_WARM_UP:]) for key, each in seconds.items()}
    first = medians["torch", "float32"]
    return [
        Timed(*key, median, median / first, miou(outputs[key][_WARM_UP:], images))
        for key, median in medians.items()
    ]


def _in_bf16(model: WindowModel) -> Runner:
    def run(pixels: Pixels) -> Outputs:
        with torch.autocast("cpu", torch.bfloat16):
            return run_model(model)(pixels)

    return run
