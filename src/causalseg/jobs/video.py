"""Predict a video or a camera, frame by frame, into a video of overlays.

Frames between predicted ones show the classes of the last predicted one, so the new video has every
frame, at its time; audio is copied. Needs PyAV.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.progress import Progress

from causalseg.build.loaded import LoadedModel
from causalseg.engine.prediction import Prediction
from causalseg.errors import ConfigError, DataError, MissingFileError
from causalseg.runs.log import console
from causalseg.writing import replacing, write_json

VIDEO_ENDINGS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")
_CAMERA = "camera:"  # camera:0 is the first one
_CODECS = ("libx264", "mpeg4")  # the second where PyAV was built without the first


class PredictedVideo(NamedTuple):
    """The new video, its number of frames, and how many of them were predicted."""

    file: Path
    frames: int
    predicted: int


def is_video(source: str) -> bool:
    """Say whether a path or name is a video or a camera."""
    return source.startswith(_CAMERA) or source.lower().endswith(VIDEO_ENDINGS)


def file_of_video(out: Path, source: str) -> Path:
    """Return the video that a source is predicted into."""
    is_camera = source.startswith(_CAMERA)
    name = source.replace(":", "") if is_camera else Path(source).stem
    return out / "videos" / f"{name}.mp4"


def predict_video(
    model: LoadedModel, source: str, out: Path, step: int = 1, frames: int | None = None
) -> PredictedVideo:
    """Predict every ``step``-th frame into ``out/videos/NAME.mp4`` and class shares beside it.

    ``source`` is a file, or ``camera:N``; a camera stops after ``frames`` or at Ctrl-C. A video
    that ends early is written up to there.

    Raises ConfigError without PyAV, MissingFileError without the file or camera, and DataError if
    it has no video, or was broken at some frame.
    """
    av = _import_av()
    target = file_of_video(out, source)
    shares: Counter[str] = Counter()
    with _open(av, source) as reader, replacing(target) as temporary:
        if not reader.streams.video:
            raise DataError(f"{source} has no video")
        with av.open(str(temporary), "w", format="mp4") as writer:
            made = _copy(av, model, reader, writer, shares, (step, frames))
        if not made.count:
            raise DataError(f"cannot read {source}: {made.problem or 'it has no frames'}")
    each = {name: count / made.predicted for name, count in shares.most_common()}
    write_json(target.with_suffix(".json"), {"frames": made.count, "shares": each})
    if made.problem:
        raise DataError(
            f"{source} is broken after {made.count} frames ({made.problem}): {target} has those"
        )
    return PredictedVideo(target, made.count, made.predicted)


class _Made:
    """What was written so far."""

    count = predicted = 0
    problem = ""


def _copy(
    av: Any,
    model: LoadedModel,
    reader: Any,
    writer: Any,
    shares: Counter[str],
    limits: tuple[int, int | None],
) -> _Made:
    """Write overlays of all frames, and the packets of the first audio stream."""
    source, audio = reader.streams.video[0], next(iter(reader.streams.audio), None)
    video = _add_video(av, writer, source)
    sound = writer.add_stream_from_template(audio) if audio else None
    made, (step, most), prediction = _Made(), limits, None
    with Progress(console=console) as progress:
        task = progress.add_task("predicting frames", total=most or source.frames or None)
        for packet in _packets(av, reader, made, source, audio):
            if audio is not None and packet.stream == audio:
                if packet.dts is not None:
                    packet.stream = sound
                    writer.mux(packet)
                continue
            for frame in _frames(av, packet, made):
                pixels = frame.to_ndarray(format="rgb24")
                if prediction is None or made.count % step == 0:
                    prediction = model.predict(pixels)
                    shares.update(prediction.shares())
                    made.predicted += 1
                writer.mux(video.encode(_draw(av, prediction, pixels, frame, video)))
                made.count += 1
                progress.advance(task)
            if made.count == most:
                break
    writer.mux(video.encode(None))
    return made


def _packets(av: Any, reader: Any, made: _Made, *streams: Any) -> Iterator[Any]:
    """Yield packets until the end, Ctrl-C or an error, which is noted."""
    packets = reader.demux([stream for stream in streams if stream is not None])
    while True:
        try:
            yield next(packets)
        except StopIteration:
            return
        except KeyboardInterrupt:
            return
        except av.FFmpegError as error:
            made.problem = str(error)
            return


def _frames(av: Any, packet: Any, made: _Made) -> list[Any]:
    try:
        return list(packet.decode())
    except av.FFmpegError as error:
        made.problem = str(error)
        return []


def _draw(av: Any, prediction: Prediction, pixels: np.ndarray, frame: Any, video: Any) -> Any:
    """Return a frame of the classes over its own pixels, at its own time."""
    overlay = dataclasses.replace(prediction, image=pixels).overlay()
    drawn = av.VideoFrame.from_image(overlay.crop((0, 0, video.width, video.height)))
    drawn.pts, drawn.time_base = frame.pts, frame.time_base
    return drawn


def _add_video(av: Any, writer: Any, source: Any) -> Any:
    """Add a stream of the rate and size of another; an odd side loses a row or column."""
    rate = source.average_rate or source.guessed_rate or 25
    for codec in _CODECS:
        try:
            video = writer.add_stream(codec, rate=rate)
            break
        except (av.FFmpegError, ValueError):
            continue
    else:
        raise ConfigError(f"PyAV has none of the encoders {', '.join(_CODECS)}: install it again")
    video.width, video.height = source.width // 2 * 2, source.height // 2 * 2
    video.pix_fmt, video.time_base = "yuv420p", source.time_base
    return video


def _open(av: Any, source: str) -> Any:
    is_camera = source.startswith(_CAMERA)
    if not is_camera and not Path(source).is_file():
        raise MissingFileError(f"no video {source}: check the path")
    try:
        if is_camera:
            device = f"/dev/video{source.removeprefix(_CAMERA)}"
            if not Path(device).exists():
                raise MissingFileError(f"no camera {device}: list them with ls /dev/video*")
            return av.open(device, format="v4l2")
        return av.open(source)
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"cannot read {source}: {error}") from error


def _import_av() -> Any:
    try:
        import av
    except ImportError:
        raise ConfigError("videos need PyAV: pip install 'causalseg[video]'") from None
    return av
