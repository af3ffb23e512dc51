"""Commands that use a trained run."""

from glob import has_magic
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from causalseg.cli.arguments import Count, IgnoreChecksums, RunPath, UseOverrides, Weights
from causalseg.errors import ConfigError, MissingFileError

TrainedRun = Annotated[
    str, Parameter(help="Run folder written by `train`, zip file of `pack`, or hub:USER/NAME.")
]


def predict(
    run: TrainedRun,
    images: str,
    /,
    *overrides: UseOverrides,
    also: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    write: str = "predictions,overlays",
    checkpoint: Weights = "last",
    recurse: bool = True,
    step: Count = 1,
    frames: Count | None = None,
    out: Path,
    ignore_checksums: IgnoreChecksums = False,
) -> None:
    """Predict images or a video: label PNGs, overlays, confidence, shares of the classes.

    The same command again predicts only what is new. Images that cannot be read are skipped, and
    listed at the end.

    Args:
        images: An image, a folder, a pattern in quotes such as 'photos/*/*.jpg', a zip file, a
            video, or camera:0.
        also: A further run, to average with the first; may be given several times.
        write: What to write of images: predictions (label ids), overlays, colours, confidence,
            entropy, shares.
        recurse: Also predict the images in subfolders; out has the same subfolders.
        step: Of a video, predict every step-th frame; the others show the classes of the last.
        frames: Of a video or camera, stop after this many frames.
        out: Folder for predictions/, overlays/ and so on; for a video videos/.
    """
    for path in (run, images, *also):  # before the imports, which take seconds
        is_name = path.startswith(("camera:", "hub:")) or (path == images and has_magic(path))
        if not is_name and not Path(path).exists():
            raise MissingFileError(f"{path} does not exist: check the path")
    from causalseg.jobs.predict import predict_film, predict_run
    from causalseg.jobs.video import file_of_video, is_video
    from causalseg.runs import seal

    seal.ignore_checksums(ignore_checksums)
    kinds = [part.strip() for part in write.split(",") if part.strip()]
    if is_video(images):
        if write != "predictions,overlays":
            raise ConfigError("--write is for images: a video is written as a video of overlays")
        film = predict_film(run, images, out, overrides, checkpoint, also, step, frames)
        counted = f"{film.frames} frames, {film.predicted} predicted" if film else "done before"
        print(f"{counted}: {file_of_video(out, images)}")
        return
    if step != 1 or frames is not None:
        raise ConfigError("--step and --frames are for videos and cameras")
    done = predict_run(run, images, out, overrides, checkpoint, recurse, kinds, also)
    earlier = f", {done.before} before" if done.before else ""
    print(f"{done.now} images{earlier}: {', '.join(str(out / kind) for kind in kinds)}")


def adapt(
    run: TrainedRun,
    /,
    *,
    images: str,
    out: Path,
    steps: int = 100,
    lr: float = 1e-3,
    batch: int = 4,
    mu: float = 0.1,
    ema: float = 0.99,
) -> None:
    """Adapt a run to the images of one domain, without labels: test-time adaptation.

    Trains three gains for each block, one for each frequency band, and nothing else. Writes a run
    folder for eval, predict and so on; its scores are marked, as target images were used. For
    another domain, adapt the first run again.

    Args:
        images: A folder with images alone, or what else predict takes: an image, a pattern in
            quotes, a zip file.
        out: Run folder to write.
        steps: Optimiser steps.
        lr: Learning rate of Adam, which moves each gain by about that much a step.
        batch: Crops a step, of the size train.crop.
        mu: Weight of the sum of the squared gains in the loss.
        ema: Decay of the teacher's moving average of the gains, from 0 to below 1.
    """
    from causalseg.config.adapt import AdaptConfig
    from causalseg.config.mistakes import check
    from causalseg.jobs.adapt import adapt_run

    given = {"steps": steps, "lr": lr, "batch": batch, "mu": mu, "ema": ema}
    made = adapt_run(run, images, out, check(AdaptConfig, given, "adapt"))
    (first, before), (last, after) = (list(made.losses.items())[i] for i in (0, -1))
    print(f"{made.images} images, loss {before:.4f} at step {first}, {after:.4f} at step {last}")
    print(f"run: {out}; its scores are of test-time adaptation, and marked")


def pack(
    run: RunPath,
    /,
    *,
    checkpoint: Annotated[Literal["last", "best"], Parameter(help="Weights to pack.")] = "last",
    out: str,
    ignore_checksums: IgnoreChecksums = False,
) -> None:
    """Write what prediction needs into one zip file, or push it to the Hugging Face hub.

    Neither data nor paths of this machine are in it, nor the backbone: its name and checksum are.
    `causalseg.load` and `predict` take the zip file or hub:USER/NAME in place of the run folder.

    Args:
        out: The zip file, or hub:USER/NAME.
    """
    from causalseg.runs import seal
    from causalseg.runs.folder import RunFolder
    from causalseg.runs.packed import pack_run

    seal.ignore_checksums(ignore_checksums)
    pack_run(RunFolder(run), out, checkpoint)
    print(f"packed: {out}")


def export(
    run: TrainedRun,
    /,
    *,
    format: Literal["onnx", "openvino", "torch", "tensorrt-recipe", "triton"] = "onnx",
    size: tuple[Count, Count],
    precision: Literal["float32", "float16", "int8"] = "float32",
    max_loss: float = 1.0,
    images: str | None = None,
    checkpoint: Weights = "last",
    out: Path,
) -> None:
    """Write a file that runs without this package: 8-bit RGB in, classes and confidence out.

    Preprocessing is inside, the batch may have any size. The file is compared with the model on
    real images and is not kept below 99.9 % equal pixels; int8 is scored on every domain instead.
    A JSON file beside it has the classes.

    Args:
        format: onnx, openvino (.xml and .bin), torch (.pt2), tensorrt-recipe (.sh and .onnx), or
            triton (a folder of a model repository).
        size: Height and width of the images in pixels.
        precision: float32, float16, or int8, which is calibrated on the run's training images.
        max_loss: Points of mIoU that int8 may lose on a domain.
        images: Images to compare on, as for predict; default: those of the run's domains.
        out: The file to write.
    """
    from causalseg.jobs.export import export_run

    made = export_run(run, format, size, out, checkpoint, images, precision, max_loss)
    equal = f"{100 * made.equal:.3f} % of the pixels of {made.images} images have the same class"
    print(f"{made.file}: {equal}, confidence differs by at most {made.difference:.1e}")
    for domain, (before, after) in made.domains.items():
        print(f"  {domain}: mIoU {before:.1f} -> {after:.1f} ({after - before:+.1f})")


def bench(
    run: TrainedRun,
    /,
    *,
    size: tuple[Count, Count],
    domain: str | None = None,
    count: Count = 20,
) -> None:
    """Time a run on this machine: torch, ONNX Runtime and OpenVINO, with the mIoU of each.

    Args:
        size: Height and width in pixels to which images and labels are resized.
        domain: Domain to take images from; default: the first that is averaged.
        count: Number of images.
    """
    from rich.console import Console
    from rich.table import Table

    from causalseg.jobs.bench import bench_run
    from causalseg.report.format import format_percent

    table = Table("backend", "precision", "ms an image", "over torch float32", "mIoU %")
    for row in bench_run(run, size, domain, count):
        numbers = [f"{row.milliseconds:.1f}", f"{row.ratio:.2f}", format_percent(row.miou)]
        table.add_row(row.backend, row.precision, *numbers)
    Console().print(table)


def serve(
    *runs: TrainedRun,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str = "cpu",
    max_bytes: Count = 20_000_000,
    max_pixels: Count = 40_000_000,
    queue: Count = 16,
    timeout: float = 60,
    token: str | None = None,
    checkpoint: Weights = "last",
) -> None:
    """Answer requests with predictions over HTTP, and bring a page to try the runs.

    Args:
        host: Address to listen on; 0.0.0.0 is every one of this machine.
        port: Port to listen on.
        device: Where to compute: cpu, cuda or cuda:1.
        max_bytes: Largest file in bytes; a larger one gets 413.
        max_pixels: Most pixels of an image; more get 413.
        queue: Requests in hand at once; more get 429.
        timeout: Seconds until a request gets 504.
        token: Requests must have it, as Authorization: Bearer TOKEN; the page as #token=TOKEN.
    """
    if not runs:
        raise ConfigError("name at least one run: causalseg serve RUN [RUN ...]")
    try:
        from causalseg.jobs.serve.app import Limits, serve_runs
    except ImportError as error:
        raise ConfigError(f"serving needs {error.name}: pip install 'causalseg[serve]'") from None

    limits = Limits(max_bytes, max_pixels, timeout, queue, token)
    end = f"#token={token}" if token else ""
    serve_runs(
        runs,
        limits,
        (host, port),
        checkpoint,
        device,
        lambda url: print(url + end, flush=True),
    )
