"""Predict a video or a camera, frame by frame, into a video of overlays.

Frames between predicted ones show the classes of the last predicted one, so the new video has every
frame, at its time; audio is copied. Needs PyAV.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.progress import Progress

from causalseg.build.loaded import LoadedModel
from causalseg.engine.prediction import Prediction
from causalseg.errors import ConfigError, DataError, MissingFileError, Terminated, import_extra
from causalseg.runs.log import console, logger
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
    name = source.replace(":", "") if is_camera else Path(source).name.removesuffix(".mp4")
    return out / "videos" / f"{name}.mp4"


def is_complete(target: Path) -> bool:
    """Say whether a video was predicted to its end."""
    told = target.with_suffix(".json")
    return told.is_file() and bool(json.loads(told.read_text()).get("complete"))


def predict_video(
    model: LoadedModel, source: str, out: Path, step: int = 1, frames: int | None = None
) -> PredictedVideo:
    """Predict every ``step``-th frame into ``out/videos/NAME.mp4`` and class shares beside it.

    ``source`` is a file, or ``camera:N``; a camera stops after ``frames`` or at Ctrl-C. A video
    that ends early is written up to there.

    Raises ConfigError without PyAV, MissingFileError without the file or camera, and DataError if
    it has no video, or was broken at some frame.
    """
    av, target = import_extra("video", "av"), file_of_video(out, source)
    target.with_suffix(".json").unlink(missing_ok=True)
    with _open(av, source) as reader, replacing(target) as temporary:
        if not reader.streams.video:
            raise DataError(f"{source} has no video")
        with av.open(str(temporary), "w", format="mp4") as writer:
            made = _Film(av, model, reader, writer, _rotation(av, source))
            try:
                made.copy(step, frames)
            except KeyboardInterrupt as stop:
                if isinstance(stop, Terminated) or not source.startswith(_CAMERA):
                    raise
            made.finish()
        if not made.count:
            raise DataError(f"cannot read {source}: {made.problem or 'it has no frames'}")
    shares = {name: share / made.predicted for name, share in made.shares.most_common()}
    about = {"frames": made.count, "complete": not made.problem, "shares": shares}
    write_json(target.with_suffix(".json"), about)
    if made.problem:
        raise DataError(
            f"{source} is broken after {made.count} frames ({made.problem}): {target} has those"
        )
    return PredictedVideo(target, made.count, made.predicted)


class _Film:
    """Overlays of all frames, with the first audio stream where an mp4 can hold it."""

    def __init__(self, av: Any, model: LoadedModel, reader: Any, writer: Any, rotation: int):
        self.av, self.model, self.reader, self.writer = av, model, reader, writer
        self.source, self.turns = reader.streams.video[0], rotation // 90
        self.audio, self.sound = next(iter(reader.streams.audio), None), None
        self.video = self._add_video()
        if self.audio is not None:
            try:
                self.sound = writer.add_stream_from_template(self.audio)
            except (av.FFmpegError, ValueError) as error:
                logger.warning("the audio was left out: an mp4 cannot hold it (%s)", error)
        self.count = self.predicted = 0
        self.problem, self.shares = "", Counter[str]()

    def copy(self, step: int, most: int | None) -> None:
        """Write frame after frame to the end, or to the frame that is broken."""
        prediction: Prediction | None = None
        with Progress(console=console) as progress:
            task = progress.add_task("predicting frames", total=most or self.source.frames or None)
            for frame in self._frames():
                turned = np.rot90(frame.to_ndarray(format="rgb24"), self.turns)
                pixels = np.ascontiguousarray(turned)
                if prediction is None or self.count % step == 0:
                    prediction = self.model.predict(pixels)
                    self.shares.update(prediction.shares())
                    self.predicted += 1
                self.writer.mux(self.video.encode(self._draw(prediction, pixels, frame)))
                self.count += 1
                progress.advance(task)
                if self.count == most:
                    return

    def finish(self) -> None:
        """Write what the encoder holds back."""
        if self.count:
            self.writer.mux(self.video.encode(None))

    def _frames(self) -> Iterator[Any]:
        """Yield frames and copy audio on the way, until the end or an error, which is noted."""
        streams = [stream for stream in (self.source, self.audio) if stream is not None]
        packets = self.reader.demux(streams)
        while True:
            decoded = []
            try:
                packet = next(packets)
                if packet.stream == self.source:
                    decoded = packet.decode()
                elif self.sound is not None and packet.dts is not None:
                    packet.stream = self.sound
                    self.writer.mux(packet)
            except StopIteration:
                return
            except self.av.FFmpegError as error:
                self.problem = str(error)
                return
            yield from decoded

    def _draw(self, prediction: Prediction, pixels: np.ndarray, frame: Any) -> Any:
        """Return a frame of the classes over its own pixels, at its own time."""
        overlay = dataclasses.replace(prediction, image=pixels).overlay()
        shown = overlay.crop((0, 0, self.video.width, self.video.height))
        drawn = self.av.VideoFrame.from_image(shown)
        drawn.pts, drawn.time_base = frame.pts, frame.time_base
        return drawn

    def _add_video(self) -> Any:
        """Add a stream of the source's rate and size; an odd side loses a row or column."""
        rate = self.source.average_rate or self.source.guessed_rate or 25
        for codec in _CODECS:
            try:
                video = self.writer.add_stream(codec, rate=rate)
                break
            except (self.av.FFmpegError, ValueError):
                continue
        else:
            raise ConfigError(f"PyAV has none of the encoders {', '.join(_CODECS)}")
        W, H = self.source.width // 2 * 2, self.source.height // 2 * 2
        video.width, video.height = (H, W) if self.turns % 2 else (W, H)
        video.pix_fmt, video.time_base = "yuv420p", self.source.time_base
        return video


def _rotation(av: Any, source: str) -> int:
    """Return by how much frames are turned anticlockwise to be shown, in degrees: phones do so."""
    if source.startswith(_CAMERA):
        return 0
    try:
        with _open(av, source) as reader:
            first = next(reader.decode(video=0), None)
    except (av.FFmpegError, IndexError):
        return 0
    return round(getattr(first, "rotation", 0)) % 360


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
