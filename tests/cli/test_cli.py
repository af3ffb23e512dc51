"""The command line: instant help, one clear error with exit code 2, the whole way through."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from causalseg.runs.checkpoint import read_checkpoint
from causalseg.runs.folder import RunFolder
from causalseg.runs.log import RunLog
from command_line import run, write_yaml
from killed import assert_equal, weights


def pixels(file):
    with Image.open(file) as picture:
        return np.array(picture)


@pytest.fixture
def config(tiny_options, tmp_path):
    return write_yaml(tmp_path / "tiny.yaml", tiny_options)


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["config", "keys"]])
def test_help_does_not_import_torch(arguments):
    code = (
        "import sys; from causalseg import cli\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_train_eval_predict_from_the_run_folder_alone(
    config, tiny_options, folder, tmp_path, capsys
):
    out = tiny_options["run"]["out"]
    assert run("train", config, "train.steps=2") == 0
    assert "report.html" in capsys.readouterr().out
    assert run("eval", out, "eval.flip=true", "run.threads=1") == 0
    assert "there" in capsys.readouterr().out
    (scored,) = Path(out, "evals").iterdir()
    assert json.loads((scored / "eval.json").read_text())["inference"]["flip"] is True
    assert "eval.flip=true" in (scored / "report.html").read_text()
    assert Path(out, "head.safetensors").stat().st_mode == Path(out, "eval.json").stat().st_mode
    predictions = tmp_path / "predictions"
    assert run("predict", out, folder / "images", "--out", predictions) == 0
    label = pixels(predictions / "predictions" / "001.png")
    assert label.shape == (48, 64)
    assert set(np.unique(label)) <= {0, 1, 2}
    assert pixels(predictions / "overlays" / "001.png").shape == (48, 64, 3)
    assert len(list(predictions.rglob("*.png"))) == 6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_training_that_the_system_ends_is_saved_first(config, tiny_options, capsys, number):
    advance = RunLog.advance

    def end_soon(self, step):
        advance(self, step)
        if step == 2:
            signal.raise_signal(number)

    before = signal.signal(number, signal.SIG_DFL)  # nohup has it ignored
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "advance", end_soon)
        assert run("train", config, "run.save_every=100") == 128 + number
    assert f"stopped by {number.name} after step 3, which is saved" in capsys.readouterr().err
    assert signal.signal(number, before) == signal.SIG_DFL
    out = RunFolder(tiny_options["run"]["out"])
    assert read_checkpoint(out)["step"] == 3
    assert run("train", config, "run.resume=true") == 0
    stopped = weights(out)
    again = RunFolder(out.path.parent / "again")
    assert run("train", config, f"run.out={again.path}") == 0
    assert_equal(stopped, weights(again))


def test_scoring_that_the_system_ends_says_so(config, tiny_options, capsys, monkeypatch):
    assert run("train", config, "train.steps=1") == 0
    end = lambda *_: signal.raise_signal(signal.SIGTERM)  # noqa: E731
    monkeypatch.setattr("causalseg.jobs.eval.evaluate", end)
    assert run("eval", tiny_options["run"]["out"]) == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in capsys.readouterr().err


def test_two_trainings_into_one_folder_are_one(config, tiny_options, capsys):
    out = tiny_options["run"]["out"]
    code = (
        "import sys; from pathlib import Path; from causalseg.runs.folder import locked\n"
        "with locked(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, out]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "locked\n"
        assert run("train", config) == 2
        assert f"is in use by process {other.pid} on " in capsys.readouterr().err
        other.stdin.close()
    assert not RunFolder(out).config.exists()
    assert run("train", config, "train.steps=1") == 0


@pytest.mark.slow
def test_stopped_by_hand_it_says_how_to_go_on(config):
    code = (
        "import signal, causalseg.jobs.train\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in the background
        "causalseg.jobs.train.train = lambda *_: signal.raise_signal(signal.SIGINT)\n"
        "from causalseg import cli; cli.main()"
    )
    command = [sys.executable, "-c", code, "train", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "run.resume=true continues a training run" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adapter=causal-tune"], "did you mean 'causal_tune'"),
        (["train.stesp=3"], "did you mean 'steps'"),
        (["train.crop=[30,48]"], "not divisible by the patch"),
        (["data.classes=[a, b]"], "no class: allowed are 0..1, 255"),
        (["data.classes=camvid"], "allowed are cityscapes19, camvid11"),
        (["data.root=/nowhere"], "no folder /nowhere/images"),
        (["backbone.weights=/nowhere.pth"], "/nowhere.pth"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_no_run_folder(
    config, overrides, message, capsys, tmp_path
):
    assert run("train", config, *overrides) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "run").exists()


def test_a_mistake_found_in_a_worker_is_as_clear(config, folder, capsys):
    (folder / "images" / "000.png").write_bytes(b"broken")
    assert run("train", config, "train.workers=2") == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"error: cannot read image {folder / 'images' / '000.png'}")


def test_a_run_does_not_need_its_data_to_predict(config, tiny_options, folder, tmp_path):
    names = {"names": ["a", "b", "void", "c"], "ignore_ids": [2]}
    (folder / "classes.json").write_text(json.dumps(names))
    labels = folder / "labels"
    for file in labels.iterdir():
        Image.fromarray(np.full((48, 64), 3, dtype=np.uint8)).save(file)
    assert run("train", config, "train.steps=1", "data.classes=classes.json") == 0
    image = folder.rename(tmp_path / "moved") / "images" / "000.png"
    assert run("predict", tiny_options["run"]["out"], image, "--out", tmp_path / "p") == 0
    assert set(np.unique(pixels(tmp_path / "p" / "predictions" / "000.png"))) <= {0, 1, 3}


def test_overrides_that_cannot_act_on_a_trained_run_are_refused(config, tiny_options, capsys):
    assert run("train", config, "train.steps=1") == 0
    for override in ("run.out=elsewhere", "adapter.rank=3", "train.lr=1.0"):
        assert run("eval", tiny_options["run"]["out"], override) == 2
        assert f"override '{override}' would have no effect" in capsys.readouterr().err
    for override in ("eval.limit=1", "data.cache=memory", "data.sources=[]"):
        assert run("eval", tiny_options["run"]["out"], override) == 2
        assert f"override '{override}' has no effect after training" in capsys.readouterr().err


def test_predict_takes_an_image_or_a_folder_and_keeps_what_is_beside_it(
    config, tiny_options, folder, tmp_path, capsys
):
    assert run("train", config, "train.steps=1") == 0
    trained, images = tiny_options["run"]["out"], folder / "images"
    window = "eval={mode: slide, window: [32, 32], stride: [16, 16]}"
    assert run("predict", trained, images / "000.png", window, "--out", tmp_path / "one") == 0
    assert (tmp_path / "one" / "predictions" / "000.png").is_file()
    before = (folder / "labels" / "000.png").read_bytes()
    assert run("predict", trained, images, "--out", folder) == 0
    assert (folder / "labels" / "000.png").read_bytes() == before
    (images / "001.png").write_bytes(b"broken")
    assert run("predict", trained, images, "--out", tmp_path / "p") == 2
    assert "cannot read image" in capsys.readouterr().err
    names = sorted(file.name for file in (tmp_path / "p" / "predictions").iterdir())
    assert names == ["000.png", "002.png"]


def test_config_prints_a_configuration_its_options_and_the_schema(config, capsys):
    assert run("config", "show", config, "adapter.rank=3") == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["adapter"]["rank"], shown["train"]["power"]) == (3, 0.9)
    assert run("config", "keys", "adapter") == 0
    assert "adapter[causal_tune].band.low (float or null) = 0.2" in capsys.readouterr().out
    assert run("config", "keys", "adapter.rank") == 0
    assert "adapter[causal_tune].rank (int) = 16" in capsys.readouterr().out
    assert run("config", "keys", "adapto") == 2
    assert "did you mean 'adapter'" in capsys.readouterr().err
    assert run("config", "schema") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Config"


def test_scenes_are_written_as_folders_that_can_be_trained_on(tmp_path, capsys):
    out = tmp_path / "scenes"
    options = ("--domain", "fog", "--count", 2, "--size", 64, 96)
    assert run("data", "scenes", "--out", out, *options) == 0
    files = {str(file.relative_to(out)) for file in out.rglob("*.*")}
    folders = ("depth", "images", "labels")
    assert files == {f"{name}/fog_00000{i}.png" for name in folders for i in (0, 1)} | {
        "classes.json"
    }
    depth = pixels(out / "depth" / "fog_000000.png")
    assert depth.dtype == np.uint16
    assert 0 < depth.min() < depth.max()


@pytest.mark.slow
def test_the_quickstart_trains_both_runs_and_compares_them(tmp_path, capsys, monkeypatch):
    """With the real configuration but a tiny model, few steps and small scenes."""
    import causalseg.jobs.quickstart as quickstart

    original = quickstart.parse_config

    def small(options, overrides, where):
        options["backbone"] = {"name": "test_vit", "weights": "random"}
        options["train"] |= {"steps": 2, "crop": [64, 64], "workers": 0}
        scenes = [*options["data"]["sources"], *options["data"]["domains"].values()]
        for scene in scenes:
            scene |= {"count": 2, "size": [64, 96]}
        return original(options, overrides, where)

    monkeypatch.setattr(quickstart, "parse_config", small)
    assert run("quickstart", "--out", tmp_path) == 0
    shown = capsys.readouterr().out
    for name in ("clear", "snow", "frozen backbone", "causal_tune", "difference"):
        assert name in shown
    assert (tmp_path / "report.html").stat().st_size > 10_000
    trained = (tmp_path / "none" / "head.safetensors").stat().st_mtime
    assert run("quickstart", "--out", tmp_path) == 0
    assert (tmp_path / "none" / "head.safetensors").stat().st_mtime == trained
