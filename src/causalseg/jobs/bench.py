"""Latency of a trained run on this machine by backend and precision, with the mIoU beside it."""

import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch

from causalseg.build.data import build_domains
from causalseg.build.loaded import load
from causalseg.build.window import WindowModel
from causalseg.config.load import load_config
from causalseg.data.dataset import resize_label
from causalseg.engine.metrics import confusion_matrix, score
from causalseg.errors import ConfigError
from causalseg.heads.pyramid import resize
from causalseg.jobs.export import FORMATS, Pixels, Runner
from causalseg.runs.packed import opened

_WARM_UP = 2  # calls that are not timed


class Timed(NamedTuple):
    """Median milliseconds an image, over those of the first backend, and mIoU in percent."""

    backend: str
    precision: str
    milliseconds: float
    ratio: float
    miou: float | None


def bench_run(
    path: Path | str,
    size: tuple[int, int],
    domain: str | None = None,
    count: int = 20,
    formats: Sequence[str] = ("onnx", "openvino"),
) -> list[Timed]:
    """Time torch in float32 and bfloat16 and exported files on ``count`` images of a domain.

    Images and labels are resized to ``size``; backends take turns, image by image. ``domain`` is
    the first that is averaged if None. Raises ConfigError without such a domain.
    """
    with opened(path) as run:
        config = load_config(run.need(run.config))
        model = WindowModel(load(run).models[0], size)
    name = domain or next(iter(config.data.averaged), None)
    if name not in config.data.domains:
        names = ", ".join(config.data.domains) or "none"
        raise ConfigError(f"no domain {name!r} to take images from; the run has {names}")
    alone = config.with_options("data", only=[name], mean_over=None)
    data: Any = build_domains(alone.data, config.inference)[name].data
    used = min(count, len(data))
    samples = [data[number * len(data) // used] for number in range(used)]
    with tempfile.TemporaryDirectory() as folder:
        runners = {
            ("torch", "float32"): _torch(model, False),
            ("torch", "bf16"): _torch(model, True),
        }
        for each in formats:
            write, run_file, ending = FORMATS[each]
            write(model, Path(folder) / f"x{ending}", {})
            runners[each, "float32"] = run_file(Path(folder) / f"x{ending}")
        seconds: dict[tuple[str, str], list[float]] = {key: [] for key in runners}
        classes = model.model.classes
        confusions: dict[tuple[str, str], Any] = dict.fromkeys(runners, 0)
        for number, sample in enumerate([*samples[:1] * _WARM_UP, *samples]):
            pixels, label = _pixels(sample.image, size), resize_label(sample.label, size)
            for key, runner in runners.items():
                start = time.perf_counter()
                labels, _ = runner(pixels)
                seconds[key].append(time.perf_counter() - start)
                if number < _WARM_UP:
                    continue
                confusions[key] += confusion_matrix(
                    torch.from_numpy(labels[0]), label, len(classes.names)
                )
    medians = {key: 1000 * statistics.median(each[_WARM_UP:]) for key, each in seconds.items()}
    first = next(iter(medians.values()))
    return [
        Timed(*key, median, median / first, score(confusions[key], classes.names)["miou"])
        for key, median in medians.items()
    ]


def _torch(model: WindowModel, is_bf16: bool) -> Runner:
    @torch.inference_mode()
    def run(pixels: Pixels) -> Any:
        precision: Any = torch.autocast("cpu", torch.bfloat16) if is_bf16 else nullcontext()
        with precision:
            return [output.numpy() for output in model(torch.from_numpy(pixels))]

    return run


def _pixels(image: torch.Tensor, size: tuple[int, int]) -> Pixels:
    scaled = resize(image[None], size, antialias=True).clamp(0, 1)
    return (255 * scaled).round().byte().movedim(1, -1).numpy()
