"""The loop: learns, logs, resumes bit for bit, survives a kill, stops on NaN."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from causalseg.build.model import build_segmenter
from causalseg.config.run import RunConfig
from causalseg.engine.evaluate import Domain
from causalseg.errors import ConfigError, DataError, MissingFileError, RunError, TrainingError
from causalseg.jobs.train import limit_images, train_run
from causalseg.model import Segmenter
from causalseg.runs.average import WeightAverage
from causalseg.runs.best import BestWeights
from causalseg.runs.checkpoint import load_checkpoint, save_checkpoint
from causalseg.runs.folder import RunFolder
from conftest import SMALL_MASK2FORMER
from killed import assert_equal, events_of, resume_equals_straight, train_and_kill, weights


def test_a_run_leaves_everything_in_its_folder(tiny):
    run = train_run(tiny("eval.every=2"))
    for file in (run.config, run.adapter, run.head, run.eval, run.report, run.card, run.checkpoint):
        assert file.stat().st_size > 0, file
    events = run.read_log()
    assert [e["step"] for e in events if e["event"] == "train"] == [1, 2, 3, 4]
    assert [e["step"] for e in events if e["event"] == "eval"] == [2, 4]
    origin = {"versions", "machine", "device", "precision"}
    assert set(events[0]) == {"event", "step", "images", *origin}
    assert events[0]["images"] == 3
    assert (events[0]["event"], events[0]["precision"]) == ("start", "32-true")
    assert set(events[1]) == {
        *("event", "step", "loss", "cross_entropy", "lr", "seconds_per_step", "data_wait")
    }
    results = json.loads(run.eval.read_text())
    assert results["domains"]["here"]["images"] == 3
    assert results["domains"]["there"]["images"] == 2
    assert results["mean"]["over"] == ["here", "there"]
    assert list((run.path / "tensorboard").iterdir())
    assert not list(run.path.rglob("*.tmp"))
    assert len(list(run.pictures.rglob("*_prediction.png"))) == 3 + 2  # few: all are shown


def test_training_lowers_the_loss(tiny):
    run = train_run(tiny("train.steps=30", "train.lr=0.05", "train.augment.photometric=false"))
    losses = [event["loss"] for event in run.read_log() if event["event"] == "train"]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


@pytest.mark.parametrize(
    "head",
    [
        pytest.param("head=linear", id="linear"),
        pytest.param(SMALL_MASK2FORMER, id="mask2former", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(("stop", "save_every"), [(2, 1), (3, 1), (3, 2), (4, 3)])
def test_killed_anywhere_and_resumed_equals_straight_bit_for_bit(
    tiny, tmp_path, head, stop, save_every
):
    options = (head, "train.clip=1.0", f"run.save_every={save_every}")
    runs = resume_equals_straight(tiny, tmp_path, options, stop)
    logs = [[(event["step"], event["loss"]) for event in events_of(run, "train")] for run in runs]
    assert logs[0] == logs[1]


BALANCED = ", class_weights: auto, logit_adjustment: {tau: 0.5}}"  # of any head
RARE = "data.rare_classes={min_pixels: 1}"


@pytest.mark.parametrize(
    "method",
    [
        [
            "adapter=[{name: lora, rank: 2}, {name: causal_tune, num_tokens: 4}]",
            "intervene={p: 0.5}",
        ],
        ["adapter={name: lora, rank: 2, dropout: 0.5}", "intervene=mixstyle"],
        ["adapter=full", "train.adapter_lr=0.001"],
        ["consistency={rings: 2, images: 2}", "train.augment.spectral=mix"],
        ["adapter={name: soma, rank: 2, bias: adapted}"],
        ["head={name: linear}".replace("}", BALANCED), RARE],
        pytest.param([SMALL_MASK2FORMER.replace("}", BALANCED), RARE], marks=pytest.mark.slow),
    ],
    ids=["chain", "dropout", "full", "consistency", "bias", "balanced", "balanced-mask2former"],
)
def test_every_kind_of_method_resumes_bit_for_bit(tiny, tmp_path, method):
    resume_equals_straight(tiny, tmp_path, method, 3)


def test_resuming_as_another_run_is_refused_and_nothing_is_lost(tiny):
    run = train_run(tiny())
    before = {file: file.read_bytes() for file in run.path.iterdir() if file.is_file()}
    changed = ("adapter.rank=3", "train.lr=5.0", "run.seed=1", "train.ema={}", "train.warmup=1")
    with pytest.raises(RunError) as caught:
        train_run(tiny(*changed, "train.weight_decay_end=0.2", "run.resume=true"))
    rows = ("adapter.rank: the run has 2, now 3", "train.lr: the run has 0.0001, now 5.0")
    for row in (*rows, "train.ema", "train.warmup: ", "train.weight_decay_end: "):
        assert row in str(caught.value)
    with pytest.raises(RunError, match="has done 4 steps: train.steps must be 4 or more"):
        train_run(tiny("train.steps=2", "run.resume=true"))
    after = {file: file.read_bytes() for file in run.path.iterdir() if file.is_file()}
    assert after == before


def test_a_run_does_not_go_on_with_another_number_of_images(tiny, folder):
    """They would come in another order, without a word."""
    train_run(tiny("train.steps=2"))
    for kind in ("images", "labels"):
        (folder / kind / "002.png").unlink()
    with pytest.raises(RunError, match="began with 3 training images and there are 2 now"):
        train_run(tiny("train.steps=4", "run.resume=true"))


def test_a_finished_run_can_go_on_for_more_steps(tiny):
    train_run(tiny("train.steps=2"))
    run = train_run(tiny("train.steps=4", "run.resume=true"))
    assert [e["step"] for e in run.read_log() if e["event"] == "train"] == [1, 2, 3, 4]
    assert torch.load(run.checkpoint, weights_only=True)["step"] == 4


def test_broken_data_of_a_domain_shows_before_training(tiny, folder):
    (folder / "wrong").mkdir()
    for index in range(3):
        Image.new("L", (64, 48), 9).save(folder / "wrong" / f"{index:03d}.png")
    with pytest.raises(DataError, match="has ids"):
        train_run(tiny("data.domains.there={images: images, labels: wrong}"))
    assert not RunFolder(tiny().run.out).path.exists()


@pytest.mark.slow
@pytest.mark.parametrize("head", ["head=linear", SMALL_MASK2FORMER], ids=["linear", "mask2former"])
def test_half_precision_trains_close_to_single(tiny, tmp_path, head):
    runs = [
        train_run(tiny(head, f"run.precision={precision}", f"run.out={tmp_path / precision}"))
        for precision in ("32-true", "bf16-mixed")
    ]
    losses = [[e["loss"] for e in run.read_log() if e["event"] == "train"] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[0] != losses[1]
    assert all(value.dtype == torch.float32 for value in weights(runs[1]).values())


@pytest.mark.gpu
@pytest.mark.parametrize("head", ["head=linear", SMALL_MASK2FORMER], ids=["linear", "mask2former"])
def test_on_a_gpu_a_run_trains_in_bf16_resumes_and_scores(tiny, head):
    options = (head, "run.accelerator=cuda", "run.precision=bf16-mixed")
    train_and_kill(tiny(*options), 3)
    run = train_run(tiny(*options, "run.resume=true"))
    assert run.read_json(run.eval)["domains"]["here"]["miou"] is not None
    assert all(value.isfinite().all() for value in weights(run).values())


def test_the_seed_changes_the_result_and_workers_do_not(tiny, tmp_path):
    options = ("train.workers=0", "train.workers=2", "run.seed=1")
    alone, shared, other = (
        weights(train_run(tiny(f"run.out={tmp_path / option}", option))) for option in options
    )
    assert_equal(alone, shared)
    assert not torch.equal(alone["head.classifier.weight"], other["head.classifier.weight"])


def test_a_finished_run_is_not_overwritten_and_says_what_can_be_done(tiny):
    with pytest.raises(MissingFileError, match=r"no run folder"):
        train_run(tiny("run.resume=true"))
    run = train_run(tiny())
    before = run.adapter.read_bytes()
    with pytest.raises(RunError, match="already holds a run: go on with run.resume=true"):
        train_run(tiny())
    run.checkpoint.unlink()
    with pytest.raises(RunError, match="already holds a run: use eval or predict, choose another"):
        train_run(tiny())
    with pytest.raises(RunError, match="is finished and has no last.ckpt to go on from"):
        train_run(tiny("run.resume=true"))
    assert run.adapter.read_bytes() == before


def test_a_gradient_that_is_not_finite_is_one_message_when_clipped(tiny, monkeypatch):
    original = Segmenter.loss_terms

    def broken(self, *batch):
        return {name: value * torch.nan for name, value in original(self, *batch).items()}

    monkeypatch.setattr(Segmenter, "loss_terms", broken)
    with pytest.raises(TrainingError, match="the loss is nan"):
        train_run(tiny("train.clip=1"))


def test_a_loss_that_is_not_finite_stops_before_it_is_saved(tiny, monkeypatch):
    original, calls = Segmenter.loss_terms, []

    def broken_at_the_third_step(self, *batch):
        calls.append(batch)
        terms = original(self, *batch)
        factor = 1.0 if len(calls) < 3 else torch.nan
        return {name: value * factor for name, value in terms.items()}

    monkeypatch.setattr(Segmenter, "loss_terms", broken_at_the_third_step)
    with pytest.raises(TrainingError, match="the loss is nan within steps 3 to 3: lower train.lr"):
        train_run(tiny("run.save_every=1"))
    content = torch.load(RunFolder(tiny().run.out).checkpoint, weights_only=True)
    assert content["step"] == 2
    assert all(value.isfinite().all() for value in content["model"]["adapter"].values())


def test_older_checkpoints_are_kept_as_many_as_asked(tiny):
    run = train_run(tiny("run.save_every=1", "run.keep=2"))
    kept = sorted(file.name for file in run.path.glob("*.ckpt"))
    assert kept == ["last.ckpt", "step-0000003.ckpt", "step-0000004.ckpt"]


def neither(model, run):
    """No average and no choice of the best."""
    return WeightAverage(model, None, 9), BestWeights(model, RunConfig(out=str(run.path)), True)


@pytest.fixture
def saved(tiny, tmp_path):
    """A model, its optimiser and a run folder with a checkpoint at step 7."""
    model = build_segmenter(tiny())
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    run = RunFolder(tmp_path)
    parts = (model, optimizer, *neither(model, run))
    save_checkpoint(run, *parts, 7)
    return run, parts


def test_a_checkpoint_cut_short_is_named(saved):
    run, parts = saved
    assert load_checkpoint(run, *parts) == 7
    saved_before = shutil.copy(run.checkpoint, run.path / "before.ckpt")
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:-900])
    with pytest.raises(RunError, match=r"last.ckpt is broken"):
        load_checkpoint(run, *parts)
    content = torch.load(saved_before, weights_only=True)
    for broken in ([], None, {}, {**content, "step": "7"}, {**content, "step": -1}, {"step": 7}):
        torch.save(broken, run.checkpoint)
        with pytest.raises(RunError, match="it has no step and no weights"):
            load_checkpoint(run, *parts)
    run.checkpoint.write_bytes(b"")
    with pytest.raises(RunError, match=r"last.ckpt is broken"):
        load_checkpoint(run, *parts)
    torch.save({**content, "step": os.system}, run.checkpoint)
    with pytest.raises(RunError, match="would run code"):
        load_checkpoint(run, *parts)
    run.checkpoint.unlink()
    with pytest.raises(MissingFileError, match=r"no last.ckpt"):
        load_checkpoint(run, *parts)


def test_a_checkpoint_of_another_configuration_is_refused(saved, tiny):
    run, _ = saved
    model = build_segmenter(tiny("adapter.rank=3"))
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    with pytest.raises(RunError, match="belongs to another configuration"):
        load_checkpoint(run, model, optimizer, *neither(model, run))


def test_a_full_disk_leaves_the_previous_checkpoint_whole(saved):
    run, parts = saved

    def full(content, path):
        Path(path).write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/1: no space left")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(RunError, match=r"cannot write .*last.ckpt.*untouched"):
            save_checkpoint(run, *parts, 8)
    assert load_checkpoint(run, *parts) == 7
    assert [file.name for file in run.path.glob("*ckpt*")] == ["last.ckpt"]


KILLED_WHILE_SAVING = """
import os, signal, sys, torch
from causalseg.config.run import RunConfig
from causalseg.runs import checkpoint
from causalseg.runs.average import WeightAverage
from causalseg.runs.best import BestWeights
from causalseg.runs.folder import RunFolder

class Parts:
    def trainable(self):
        return {"head": torch.nn.Linear(4, 4)}

run, model = RunFolder(sys.argv[1]), Parts()
optimizer = torch.optim.AdamW(model.trainable()["head"].parameters())
parts = (model, optimizer, WeightAverage(model, None, 9), BestWeights(model, RunConfig(), True))
checkpoint.save_checkpoint(run, *parts, 7)

def killed(content, path):
    path.write_bytes(b"half a checkpoint")
    os.kill(os.getpid(), signal.SIGKILL)

torch.save = killed
checkpoint.save_checkpoint(run, *parts, 8)
"""


@pytest.mark.slow
def test_killed_while_saving_the_previous_checkpoint_is_whole(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_SAVING, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["step"] == 7


def test_a_run_killed_in_its_last_scoring_is_scored_when_resumed(tiny):
    run = train_run(tiny())
    expected = run.read_json(run.eval)
    for file in (run.eval, run.report, run.adapter):
        file.unlink()
    resumed = train_run(tiny("run.resume=true"))
    assert resumed.read_json(run.eval) == expected
    assert run.adapter.is_file()


def test_more_devices_than_there_are_is_refused(tiny):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ConfigError, match="this machine has none; set run.accelerator=cpu"):
        train_run(tiny("run.accelerator=cuda"))


@pytest.mark.parametrize("limit", range(1, 9))
def test_as_many_images_are_scored_in_training_as_the_limit_says(limit):
    domain = Domain(list(range(6)), None, None)
    chosen = list(limit_images({"here": domain}, limit)["here"].data)
    assert len(chosen) == min(limit, 6)
    assert chosen == sorted(set(chosen))
