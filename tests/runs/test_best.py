"""The best weights of a run: which they are, where they are kept, when training stops early."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from causalseg.build.model import build_segmenter
from causalseg.config.run import RunConfig
from causalseg.errors import RunError
from causalseg.jobs import train as jobs
from causalseg.jobs.train import train_run
from causalseg.runs.best import BestWeights
from causalseg.runs.folder import RunFolder
from killed import assert_equal, events_of, resume_equals_straight, train_and_kill, weights

pytestmark = pytest.mark.slow  # every test trains several runs

SOURCE = ("data.mean_over=[there]", "run.best=here.miou", "eval.every=1", "train.steps=5")


@pytest.fixture
def measured(monkeypatch):
    """Let the metric be what a list says, evaluation by evaluation; returns the list to fill."""
    values = []
    original = jobs._Scores.__call__

    def call(self, step, is_last, log):
        original(self, step, is_last, log)
        return values[step - 1]

    monkeypatch.setattr(jobs._Scores, "__call__", call)
    return values


def best_of(run):
    return json.loads((run.best / "best.json").read_text())


def best_weights(run):
    return {
        f"{name}.{key}": value.clone()  # the file may be written over
        for name in ("adapter", "head")
        for key, value in load_file(run.best / f"{name}.safetensors").items()
    }


def test_of_equal_values_the_earlier_stays_and_none_is_never_best(tiny, tmp_path):
    model = build_segmenter(tiny())
    best = BestWeights(model, RunConfig(out=str(tmp_path), best="x.miou", patience=2), True)
    offered = [best.offer(step, v) for step, v in ((1, None), (2, 3.0), (3, 3.0), (2, 9.0))]
    assert offered == [False, True, False, False]
    assert (best.step, best.is_over) == (2, False)
    best.offer(4, 1.0)
    assert best.is_over
    assert best.offer(5, 4.0)
    assert not best.is_over


def test_the_best_weights_are_kept_with_what_they_are(tiny, measured, tmp_path):
    measured[:] = [10.0, 30.0, 30.0, 20.0, 5.0]
    run = train_run(tiny(*SOURCE))
    expected = {"step": 2, "metric": "here.miou", "value": 30.0, "allow_target": False}
    assert best_of(run) == expected
    # As training has them after two of five steps.
    train_and_kill(tiny(*SOURCE, "run.save_every=1", f"run.out={tmp_path / 'two'}"), 3)
    two = torch.load(tmp_path / "two" / "last.ckpt", weights_only=True)
    assert two["step"] == 2
    saved = {f"{part}.{k}": v for part, tensors in two["model"].items() for k, v in tensors.items()}
    assert_equal(best_weights(run), saved)
    assert [event["step"] for event in events_of(run, "best")] == [1, 2]
    name = "head.classifier.weight"
    assert not torch.equal(weights(run)[name], best_weights(run)[name])


@pytest.mark.parametrize("stop", [2, 4, 5])
def test_a_choice_goes_on_as_if_it_had_never_stopped(tiny, measured, tmp_path, stop):
    measured[:] = [10.0, 30.0, 20.0, 40.0, 35.0]
    ema = "train.ema={momentum: 0.5, start: 0.2}"
    straight, resumed = resume_equals_straight(tiny, tmp_path, (*SOURCE, ema), stop)
    for read in (best_of, lambda run: events_of(run, "train", "eval", "best")):
        assert read(resumed) == read(straight)
    assert best_of(resumed)["step"] == 4
    assert_equal(best_weights(resumed), best_weights(straight))


def test_resuming_brings_back_what_was_best_by_then(tiny, measured):
    """The folder of an attempt that went further than its checkpoint is not taken over."""
    measured[:] = [10.0, 5.0, 4.0, 3.0, 2.0]
    run = train_run(tiny(*SOURCE, "train.steps=2"))
    expected = best_weights(run)
    (run.best / "best.json").write_text(json.dumps({"step": 9}))
    shutil.copy(run.head, run.best / "head.safetensors")
    train_run(tiny(*SOURCE, "run.resume=true"))
    assert best_of(run)["step"] == 1
    assert_equal(best_weights(run), expected)


def test_a_run_that_begins_drops_the_choice_of_an_attempt_without_a_checkpoint(tiny):
    folder = RunFolder(tiny().run.out).best
    folder.mkdir(parents=True)
    (folder / "best.json").write_text("{}")
    run = train_run(tiny())
    assert not run.best.exists()


@pytest.mark.parametrize("stop", [None, 2, 3])
def test_training_stops_early_and_ends_as_if_finished(tiny, measured, tmp_path, stop):
    measured[:] = [10.0, 9.0, 8.0, 99.0, 99.0]
    options = (*SOURCE, "run.patience=2", "run.save_every=9")
    if stop:
        train_and_kill(tiny(*options), stop)
    run = train_run(tiny(*options, f"run.resume={str(bool(stop)).lower()}"))
    assert [event["step"] for event in events_of(run, "train")] == [1, 2, 3]
    assert events_of(run, "stop") == [{"event": "stop", "step": 3, "patience": 2}]
    assert torch.load(run.checkpoint, weights_only=True)["step"] == 3
    assert best_of(run)["step"] == 1
    assert run.report.is_file()
    assert "Trained for 5 steps at most, stopped early after 3, batch 2" in run.card.read_text()
    before = weights(run)
    again = train_run(tiny(*options, "run.resume=true"))  # it is finished
    assert_equal(weights(again), before)
    assert [event["step"] for event in events_of(run, "eval")] == [1, 2, 3]
    assert len(events_of(run, "stop")) == 1
    more = train_run(tiny(*options, "run.patience=3", "run.resume=true"))
    assert torch.load(more.checkpoint, weights_only=True)["step"] == 5


def test_candidates_are_scored_on_the_same_images_also_at_the_end(tiny, monkeypatch):
    counts = []
    original = jobs.score_model

    def count(fabric, model, domains, *rest):
        counts.append(len(domains["here"].data))
        return original(fabric, model, domains, *rest)

    monkeypatch.setattr(jobs, "score_model", count)
    run = train_run(tiny(*SOURCE, "eval.every=2", "eval.limit=2", "train.steps=4"))
    assert counts == [2, 2, 3]
    assert run.read_json(run.eval)["domains"]["here"]["images"] == 3
    limited = [event["miou"]["here"] for event in events_of(run, "eval")]
    values = torch.load(run.checkpoint, weights_only=True)["best"]["values"]
    assert list(values) == [2, 4]
    assert values[2] == limited[0]


def test_what_a_choice_depends_on_does_not_change_when_resumed(tiny):
    train_run(tiny(*SOURCE, "train.steps=1"))
    for change in ("eval.every=2", "eval.flip=true", "run.best=null", "data.only=[here]"):
        with pytest.raises(RunError, match=change.partition("=")[0]):
            train_run(tiny(*SOURCE, change, "run.resume=true"))
    train_run(tiny(*SOURCE, "train.steps=2", "run.trackers=[]", "run.resume=true"))


def test_without_a_choice_scoring_may_change_when_resumed(tiny):
    train_run(tiny("train.steps=1"))
    run = train_run(tiny("train.steps=2", "eval.every=1", "eval.flip=true", "run.resume=true"))
    assert run.read_json(run.eval)["inference"]["flip"] is True
