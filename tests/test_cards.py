"""Results of runs: what they were trained with comes from their log."""

import json

from causalseg.cards import collect_result
from causalseg.jobs import train_run
from causalseg.scoring import eval_run


def test_a_result_says_what_it_was_trained_with_and_not_what_collects_it(tiny, monkeypatch):
    run = train_run(tiny("train.steps=2"))
    (start,) = [event for event in run.read_log() if event["event"] == "start"]
    assert start["precision"] == "32-true"
    assert "peft" in start["versions"]
    monkeypatch.setattr("causalseg.cards.list_versions", lambda: {"torch": "later"})
    result = collect_result(run)
    for key in ("versions", "machine", "device", "precision"):
        assert result[key] == start[key]
    moved = {**start, "step": 1, "device": "H200", "precision": "bf16-mixed"}
    with run.log.open("a") as log:
        log.write(json.dumps(moved) + "\n")
    result = collect_result(run)
    assert result["device"] == f"{start['device']} then H200"
    assert result["precision"] == "32-true then bf16-mixed"
    assert result["versions"] == start["versions"]
    run.log.write_text("".join(json.dumps(event) + "\n" for event in run.read_log()[1:]))
    assert collect_result(run)["device"] == "not recorded then H200"


def test_a_log_that_does_not_say_has_the_versions_of_now_and_the_precision_asked_for(tiny):
    run = train_run(tiny("train.steps=2", "run.precision=auto"))
    events = [event for event in run.read_log() if event["event"] != "start"]
    run.log.write_text("".join(json.dumps(event) + "\n" for event in events))
    result = collect_result(run)
    assert (result["device"], result["precision"]) == (None, "auto")
    assert result["versions"]["torch"]


def test_a_result_names_no_place_on_the_machine(tiny, folder):
    run = train_run(tiny())
    eval_run(run.path, [f"data.root={folder}", "eval.flip=true"])
    result = collect_result(run)
    assert result["eval"]["overrides"] == ["eval.flip=true"]
    assert str(folder.parent) not in json.dumps(result)
