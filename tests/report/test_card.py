"""Results of runs: what they were trained with comes from their log."""

import json

from safetensors.torch import load_file

from causalseg.jobs.eval import eval_run
from causalseg.jobs.train import train_run
from causalseg.report.format import format_signed
from causalseg.report.result import collect_result


def test_the_origin_of_a_result_comes_from_its_log(tiny, folder, monkeypatch):
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
    events = [event for event in run.read_log() if event != start]
    run.log.write_text("".join(json.dumps(event) + "\n" for event in events))
    assert collect_result(run).device == "not recorded then H200"
    events = [event for event in events if event["event"] != "start"]
    run.log.write_text("".join(json.dumps(event) + "\n" for event in events))
    result = collect_result(run)
    assert (result.device, result.versions) == (None, {"torch": "later"})
    scored = eval_run(run.path, [f"data.root={folder}", "eval.flip=true"])
    assert collect_result(run).eval == result.eval
    result = collect_result(scored)
    assert result.eval.overrides == ["eval.flip=true"]
    assert str(folder.parent) not in json.dumps(result.to_json())


def test_a_result_has_scores_during_training_and_the_size_of_the_adapter(tiny):
    run = train_run(tiny("eval.every=2"))
    result = collect_result(run)
    assert [step for step, _ in result.curve] == [2, 4]
    final, model = result.eval, result.eval.model
    assert result.curve[-1][1] == {name: final.miou_of(name) for name in (*final.domains, "mean")}
    sizes = [sum(v.numel() for v in load_file(file).values()) for file in (run.adapter, run.head)]
    assert (model.adapter_parameters, model.trainable_parameters) == (sizes[0], sum(sizes))
    run.log.write_text("".join(json.dumps(e) + "\n" for e in run.read_log() if e["step"] > 2))
    assert "curve" not in collect_result(run).to_json()


def test_training_logs_the_gain_over_a_neighbouring_frozen_backbone(tiny, tmp_path, caplog):
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
