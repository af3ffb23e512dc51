"""Videos: every frame, its rate and the audio are kept; a broken end loses nothing before it."""

import json
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from causalseg.build.loaded import LoadedModel
from causalseg.errors import DataError, MissingFileError
from causalseg.jobs.predict import predict_film
from causalseg.jobs.train import train_run
from causalseg.jobs.video import VIDEO_ENDINGS, file_of_video
from command_line import run as command

FRAMES, RATE = 12, 8


@pytest.fixture
def run(tiny):
    return train_run(tiny("train.steps=1", "adapter=none")).path


@pytest.fixture
def video(tmp_path):
    """A second and a half of moving blocks, with a tone, in MPEG-4 and AAC."""
    file = tmp_path / "street.mp4"
    with av.open(str(file), "w") as writer:
        stream, sound = writer.add_stream("mpeg4", rate=RATE), writer.add_stream("aac", rate=16000)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(FRAMES):
            pixels = np.zeros((48, 64, 3), np.uint8)
            pixels[:, 4 * i : 4 * i + 16] = 255
            writer.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        writer.mux(stream.encode(None))
        tone = np.sin(np.arange(1024) / 5).astype(np.float32)[None]
        for i in range(20):
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.rate, frame.pts = 16000, 1024 * i
            writer.mux(sound.encode(frame))
        writer.mux(sound.encode(None))
    return file


def look(file):
    """Return frames, their times in seconds, and the number of audio packets."""
    with av.open(str(file)) as reader:
        frames = list(reader.decode(video=0))
    with av.open(str(file)) as reader:
        packets = sum(packet.size > 0 for packet in reader.demux(audio=0))
    return frames, [float(frame.time) for frame in frames], packets


def test_frames_times_and_audio_are_kept(run, video, tmp_path):
    film = predict_film(run, str(video), tmp_path / "out", step=3)
    assert film.file == tmp_path / "out" / "videos" / "street.mp4"
    assert (film.frames, film.predicted) == (FRAMES, FRAMES // 3)
    (before, times, packets), (after, new_times, new_packets) = look(video), look(film.file)
    assert len(after) == len(before) == FRAMES
    assert new_times == pytest.approx(times)
    assert new_packets == packets > 0
    assert after[0].width == 64
    shares = json.loads(film.file.with_suffix(".json").read_text())
    assert sum(shares["shares"].values()) == pytest.approx(1)
    assert shares["complete"]
    assert predict_film(run, str(video), tmp_path / "out", step=3) is None  # done before
    assert predict_film(run, str(video), tmp_path / "out", step=6).predicted == 2


def test_a_video_of_a_turned_phone_is_shown_upright(run, video, tmp_path):
    content = bytearray(video.read_bytes())
    matrix = content.index(b"tkhd") + 44  # of the first track: a quarter turn clockwise
    turned = (0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    content[matrix : matrix + 36] = struct.pack(">9i", *turned)
    video.write_bytes(content)
    film = predict_film(run, str(video), tmp_path / "out")
    frames, *_ = look(film.file)
    assert (frames[0].width, frames[0].height) == (48, 64)
    light = frames[0].to_ndarray(format="rgb24").mean((1, 2))  # the block at the left is on top
    assert light[:14].mean() > light[30:].mean() + 20
    assert film.frames == FRAMES


def test_videos_of_one_name_and_other_formats_do_not_replace_each_other():
    files = [file_of_video(Path("out"), f"a/street{ending}").name for ending in VIDEO_ENDINGS]
    assert files[0] == "street.mp4"
    assert len(set(files)) == len(VIDEO_ENDINGS)
    assert file_of_video(Path("out"), "camera:0").name == "camera0.mp4"


def test_the_command_stops_after_some_frames(run, video, tmp_path, capsys):
    out = tmp_path / "out"
    assert command("predict", run, video, "--frames", "5", "--out", out) == 0
    assert "5 frames, 5 predicted" in capsys.readouterr().out
    assert len(look(out / "videos" / "street.mp4")[0]) == 5
    assert command("predict", run, video, "--write", "shares", "--out", out) == 2
    assert command("predict", run, "camera:77", "--out", out) == 2
    assert command("predict", run, run / "config.yaml", "--step", "2", "--out", out) == 2


def test_a_video_that_ends_early_keeps_what_was_done(run, video, tmp_path):
    cut = tmp_path / "cut.mkv"  # a container that needs no index at its end
    with av.open(str(video)) as reader, av.open(str(cut), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                writer.mux(packet)
    content = cut.read_bytes()
    cut.write_bytes(content[: len(content) * 2 // 3])
    try:
        film = predict_film(run, str(cut), tmp_path / "out")
        count = film.frames
    except DataError as error:
        count = int(str(error).split("broken after ")[1].split()[0])
    assert 0 < count < FRAMES
    assert len(list(av.open(str(tmp_path / "out/videos/cut.mkv.mp4")).decode(video=0))) == count


def test_a_video_that_was_stopped_is_not_done(run, video, tmp_path, monkeypatch):
    calls = []

    def stop(self, image):
        calls.append(image)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(self, image)

    predict = LoadedModel.predict
    monkeypatch.setattr(LoadedModel, "predict", stop)
    with pytest.raises(KeyboardInterrupt):
        predict_film(run, str(video), tmp_path / "out")
    assert not list((tmp_path / "out" / "videos").iterdir())
    assert predict_film(run, str(video), tmp_path / "out").frames == FRAMES


def test_what_is_no_video_is_refused(run, tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.mp4"):
        predict_film(run, str(tmp_path / "empty.mp4"), tmp_path / "out")
    with pytest.raises(MissingFileError, match=r"nothing\.mp4"):
        predict_film(run, str(tmp_path / "nothing.mp4"), tmp_path / "out")
    assert not (tmp_path / "out" / "videos").exists() or not list(
        (tmp_path / "out/videos").iterdir()
    )
