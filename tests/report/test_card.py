"""Results of runs: what they were trained with comes from their log."""

import json

from safetensors.torch import load_file

from causalseg.jobs.eval import eval_run
from causalseg.jobs.train import train_run
from causalseg.report.format import format_signed
from causalseg.report.result import collect_result


def test_a_result_says_what_it_was_trained_with_and_not_what_collects_it(tiny, monkeypatch):
    run = train_run(tiny("train.steps=2"))
    (start,) = [event for event in run.read_log() if event["event"] == "start"]
    assert start["precision"] == "32-true"
    assert "peft" in start["versions"]
    monkeypatch.setattr("causalseg.report.result.list_versions", lambda: {"torch": "later"})
    result = collect_result(run)
    for key in ("versions", "machine", "device", "precision"):
        assert getattr(result, key) == start[key]
    moved = {**start, "step": 1, "device": "H200", "precision": "bf16-mixed"}
    with run.log.open("a") as log:
        log.write(json.dumps(moved) + "\n")
    result = collect_result(run)
    assert result.device == f"{start['device']} then H200"
    assert result.precision == "32-true then bf16-mixed"
    assert result.versions == start["versions"]
    run.log.write_text("".join(json.dumps(event) + "\n" for event in run.read_log()[1:]))
    assert collect_result(run).device == "not recorded then H200"


def test_a_log_that_does_not_say_has_the_versions_of_now_and_the_precision_asked_for(tiny):
    run = train_run(tiny("train.steps=2", "run.precision=auto"))
    events = [event for event in run.read_log() if event["event"] != "start"]
    run.log.write_text("".join(json.dumps(event) + "\n" for event in events))
    result = collect_result(run)
    assert (result.device, result.precision) == (None, "auto")
    assert result.versions["torch"]


def test_a_result_names_no_place_on_the_machine(tiny, folder):
    run = train_run(tiny())
    eval_run(run.path, [f"data.root={folder}", "eval.flip=true"])
    result = collect_result(run)
    assert result.eval.overrides == ["eval.flip=true"]
    assert str(folder.parent) not in json.dumps(result.to_json())


def test_a_result_has_scores_on_the_way_and_the_size_of_the_adapter(tiny):
    run = train_run(tiny("eval.every=2"))
    result = collect_result(run)
    assert [step for step, _ in result.curve] == [2, 4]
    final = result.eval
    assert result.curve[-1][1] == {name: final.miou_of(name) for name in (*final.domains, "mean")}
    head = sum(value.numel() for value in load_file(run.head).values())
    model = final.model
    assert model.trainable_parameters - model.adapter_parameters == head
    assert model.adapter_parameters == sum(v.numel() for v in load_file(run.adapter).values())
    run.log.write_text("".join(json.dumps(e) + "\n" for e in run.read_log() if e["step"] > 2))
    assert "curve" not in collect_result(run).to_json()


def test_training_says_what_the_adapter_gained_over_a_head_beside_it(tiny, tmp_path, caplog):
    caplog.set_level("INFO", "causalseg")
    none = train_run(tiny("adapter=none", f"run.out={tmp_path / 'none'}"))
    assert "gain over the frozen backbone" not in caplog.text
    tuned = train_run(tiny("train.adapter_lr=0.01"))
    means = [run.read_json(run.eval)["mean"]["miou"] for run in (tuned, none)]
    said = f"mean {format_signed(means[0] - means[1])}"
    (line,) = [m for m in caplog.messages if m.startswith("gain over the frozen backbone")]
    assert line.startswith(f"gain over the frozen backbone ({tmp_path / 'none'}): here ")
    assert line.endswith(said)
    assert said in tuned.card.read_text()
