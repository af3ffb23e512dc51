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
