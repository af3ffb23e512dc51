"""Comparisons: mistakes before anything runs, finished runs kept, failures told, stops survived."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from causalseg.config.load import dump_config, load_config
from causalseg.errors import ConfigError, MissingFileError, RunError
from causalseg.jobs.compare.study import run_study
from causalseg.jobs.compare.workers import _cuda_devices
from causalseg.jobs.train import train_run
from causalseg.report.comparison import read_study
from causalseg.runs.folder import RunFolder, locked
from command_line import run


def files_of(folder):
    return {file: file.stat().st_mtime_ns for file in Path(folder).rglob("*") if file.is_file()}


def test_cells_are_methods_within_seeds_under_one_configuration(plan, tmp_path):
    study = plan(seeds=(3, 1))
    labels = [cell.label for cell in study.cells]
    assert labels == ["none seed 3", "tuned seed 3", "none seed 1", "tuned seed 1"]
    last = study.cells[-1]
    assert last.run.path == tmp_path / "out" / "tuned" / "seed1"
    assert last.config.run.seed == 1
    assert (study.reference, study.title) == ("none", "Comparison: tiny")
    same = {cell.config.model_dump_json(exclude={"adapter", "run"}) for cell in study.cells}
    assert len(same) == 1


def test_seeds_and_reference_are_named_once_and_overrides_hold_for_all(plan):
    study = plan("train.adapter_lr=0.5", "train.batch=3", reference="tuned")
    assert study.reference == "tuned"
    none, tuned = (cell.config.train for cell in study.cells)
    assert (none.adapter_lr, tuned.adapter_lr) == (None, 0.5)
    assert none.batch == tuned.batch == 3
    with pytest.raises(ConfigError, match="'tunde' is none of the methods; did you mean 'tuned'"):
        plan(reference="tunde")
    for seeds in ((), (0, 0), (-1,)):
        with pytest.raises(ConfigError, match="name at least one, each once"):
            plan(seeds=seeds)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.resume=true", "see --out and --seeds"),
        ("run={threads: 1, out: elsewhere}", "see --out and --seeds"),
        ("adapter.rank=4", "no effect on methods that set this themselves: none, tuned;"),
        ("run.nodes=2", "runs on one machine"),
        ("train.stesp=4", "did you mean 'steps'"),
        ("data.root=/nowhere", "no folder /nowhere/images"),
        ("eval={mode: slide, window: [32, 32], stride: [64, 64]}", "stride = "),
    ],
)
def test_a_mistake_leaves_no_folder(plan, tmp_path, override, message):
    with pytest.raises((ConfigError, MissingFileError), match=message):
        plan(override)
    assert not (tmp_path / "out").exists()


def test_mistakes_of_all_methods_are_told_at_once(plan, methods, tmp_path):
    methods.write_text("""
        a: {adapter: {name: causal_tune, rnak: 4}}
        far: {adapter: {name: lora, layers: [99]}}
        b: {train.lr: -1}
        c: {adapter: none}
        d: {adapter: {name: none}}
        e: {adapter: lora, reported: {thre: 50}, reported_source: here}
    """)
    with pytest.raises(ConfigError) as caught:
        plan(names=())
    for part in (
        "a: .*did you mean 'rank'",
        "far: .*99",
        "b: .*train.lr = -1",
        "d: the same configuration as c, drop one",
        "e: reported names a domain 'thre'; did you mean 'there'",
    ):
        assert re.search(part, str(caught.value), re.DOTALL)
    assert not (tmp_path / "out").exists()


def test_an_override_that_only_some_methods_mask_names_these(plan, methods):
    methods.write_text("""
        none: {adapter: none}
        plain: {}
        high: {intervene: {high_gain: [0.5, 1.5]}}
        own: {intervene: spectral}
        short: {train.steps: 1}
    """)
    plan("adapter.init.token_std=0.1", names=("plain", "high"))
    with pytest.raises(ConfigError, match="no effect on .*: none; set it"):
        plan("adapter.init.token_std=0.1", names=("none", "plain"))
    plan("intervene=spectral", names=("plain",))
    with pytest.raises(ConfigError, match="no effect on .*: own; set it"):
        plan("intervene={high_gain: null}", names=("plain", "own"))
    with pytest.raises(ConfigError, match="no effect on .*: high; set it"):
        plan("intervene.high_gain=[0.1, 2]", names=("plain", "high"))
    with pytest.raises(ConfigError, match="no effect on .*: short; set it"):
        plan("train={steps: 2}", names=("plain", "short"))


def test_a_finished_cell_is_kept_unless_it_was_scored_in_another_way(plan):
    (cell,) = plan(names=("none",)).cells
    train_run(cell.config)
    before = files_of(cell.run.path)
    free = ("run.threads=2", "run.save_every=9", "train.workers=1", "eval.pictures=5")
    study = plan(*free, names=("none",))
    assert study.cells[0].is_finished
    comparison, failures = run_study(study)
    assert (len(comparison.rows), failures) == (1, [])
    assert files_of(cell.run.path) == before
    cell.run.report.unlink()
    assert not cell.is_finished  # it may have been killed while it wrote the report
    cell.run.checkpoint.unlink()
    assert cell.is_finished
    scores = cell.run.read_json(cell.run.eval)
    cell.run.checksums.unlink()
    cell.run.eval.write_text(json.dumps({**scores, "overrides": ["run.threads=2"]}))
    plan(names=("none",))
    cell.run.eval.write_text(json.dumps({**scores, "overrides": ["eval.flip=true"]}))
    with pytest.raises(RunError, match="scored with eval.flip=true"):
        plan(names=("none",))


def test_cells_of_another_configuration_are_named_with_what_differs(plan, tmp_path):
    none, tuned = plan().cells
    train_run(none.config)
    train_run(tuned.config)
    tuned.run.eval.unlink()  # goes on from its checkpoint: no less another run
    before = files_of(tmp_path / "out")
    with pytest.raises(RunError) as caught:
        plan("train.lr=0.5", "eval.flip=true", "run.threads=2")
    text = str(caught.value)
    for cell in (none, tuned):
        assert f"{cell.run.path} contains another run:" in text
    assert "train.lr: the run has 0.0001, now 0.5" in text
    assert "eval.flip: the run has False, now True" in text
    assert "threads" not in text
    assert "choose another folder with --out, or delete this one" in text
    assert files_of(tmp_path / "out") == before


def test_classes_read_from_a_file_are_no_difference(plan, folder):
    names = {"names": ["a", "b", "c"], "ignore_ids": []}
    (folder / "classes.json").write_text(json.dumps(names))
    (cell,) = plan("data.classes=classes.json", names=("none",)).cells
    train_run(cell.config)
    assert plan("data.classes=classes.json", names=("none",)).cells[0].is_finished


def train_study(study):
    """Train the cells of a study in this process and make its table."""
    for cell in study.cells:
        train_run(cell.config)
    comparison, failures = run_study(study)
    assert failures == []
    return comparison


@pytest.mark.slow
def test_comparisons_into_one_folder_make_one_table(plan, methods, tmp_path):
    content = yaml.safe_load(methods.read_text())
    methods.write_text(yaml.safe_dump({**content, "lora": {"adapter": "lora"}}))
    out = tmp_path / "out"
    first = train_study(plan(names=("none", "tuned"), seeds=(0, 1)))
    assert [len(row.results) for row in first.rows] == [2, 2]
    names = [f"{name}_seed{seed}.json" for name in ("none", "tuned") for seed in (0, 1)]
    assert sorted(file.name for file in (out / "results").iterdir()) == names
    text = (out / "results" / "tuned_seed1.json").read_text()
    result = json.loads(text)
    assert (result["method"]["name"], result["method"]["reference"]) == ("tuned", "none")
    assert result["peak_memory_mb"] > 50
    assert len(result["eval"]["domains"]["here"]["per_image"]["names"]) == 3
    assert str(tmp_path) not in text
    later = train_study(plan(names=("lora",)))
    seeds = {row.method.name: row.seeds for row in later.rows}
    assert seeds == {"none": [0, 1], "tuned": [0, 1], "lora": [0]}
    assert (later.reference, later.missing) == ("none", [])
    assert later.rows[2].change.differences
    table = (out / "compare.md").read_text()
    lines = table.split("\n\n")[1].splitlines()  # of the first table
    assert [line.split(" | ")[0] for line in lines][2:] == ["| none", "| tuned", "| lora"]
    again, _ = run_study(plan(names=("tuned", "none"), seeds=(0,)))
    assert again == later == read_study(out / "results")
    assert (out / "compare.md").read_text() == table
    other, _ = run_study(plan(names=("none",), reference="tuned"))
    assert other == read_study(out / "results")
    assert (other.reference, len(other.rows)) == ("tuned", 3)


def test_results_of_another_configuration_are_no_rows_of_the_table(plan, tmp_path):
    train_study(plan(names=("none",)))
    before = files_of(tmp_path / "out")
    with pytest.raises(RunError) as caught:
        plan("train.lr=0.5", "train.workers=1", names=("tuned",))
    text = str(caught.value)
    assert "train.lr: 0.0001 in none seed 0, 0.5 in tuned seed 0" in text
    assert "workers" not in text
    assert "choose another folder with --out" in text
    assert files_of(tmp_path / "out") == before
    plan("train.workers=1", names=("tuned",))


@pytest.mark.slow
def test_stopped_by_a_signal_and_started_again_it_keeps_what_was_finished(command, tmp_path):
    out, second = tmp_path / "out", tmp_path / "out" / "tuned" / "seed0"
    line = command("--seeds", "0", "train.steps=40", "run.save_every=1")
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not (second / "last.ckpt").is_file():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues" in errors
    assert not (second / "eval.json").is_file()
    assert (out / "compare.html").is_file()
    assert "Missing: tuned seed 0." in (out / "compare.md").read_text()
    with locked(second):  # its process has ended
        pass
    finished = files_of(out / "none" / "seed0")
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert files_of(out / "none" / "seed0") == finished
    assert "resume: true" in (second / "request.yaml").read_text()
    steps = [e["step"] for e in RunFolder(second).read_log() if e["event"] == "train"]
    assert steps == list(range(1, 41))
    assert "Missing" not in (out / "compare.md").read_text()


@pytest.mark.slow
def test_a_cell_that_fails_is_told_and_the_others_finish(command, methods, tmp_path):
    content = yaml.safe_load(methods.read_text())
    content["huge"] = {"adapter": "lora", "backbone.weights": "/nowhere/99.safetensors"}
    methods.write_text(yaml.safe_dump(content))
    out = tmp_path / "out"
    line = command("--seeds", "0", "--jobs", "2")
    line[line.index("none,tuned")] = "none,huge,tuned"
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "1 of 3 runs failed:\n  huge seed 0: " in done.stderr
    assert "99" in done.stderr
    assert f"(log: {out / 'huge' / 'seed0' / 'train.log'})" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Missing: huge seed 0." in (out / "compare.md").read_text()
    results = {file.name for file in (out / "results").iterdir()}
    assert results == {"none_seed0.json", "tuned_seed0.json"}
    assert "0 of 1" in done.stdout
    assert "difference to none" in done.stdout


@pytest.mark.slow
def test_a_broken_cell_starts_again_and_shares_the_cores(plan, monkeypatch):
    study = plan("run.threads=null", names=("none",))
    (cell,) = study.cells
    cell.run.path.mkdir(parents=True)
    cell.run.log.write_text('{"event": "train", "step": 1, "broken')
    cell.run.config.write_text("half a conf")
    monkeypatch.setattr("causalseg.jobs.compare.workers.torch.get_num_threads", lambda: 6)
    (_, failures) = run_study(study, jobs=3)
    assert failures == []
    assert load_config(cell.run.path / "request.yaml").run.threads == 2
    assert RunFolder(cell.run.path).read_log()[-1]["event"] == "eval"
    assert dump_config(load_config(cell.run.config)).count("resume: false") == 1


def test_cuda_devices_are_dealt_in_turn(plan, monkeypatch):
    (cell,) = plan(names=("none",)).cells
    monkeypatch.setattr("causalseg.jobs.compare.workers.torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert _cuda_devices(cell.config) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-ab")
    assert _cuda_devices(cell.config) == ["4", "GPU-ab"]
    for override in ("run.devices=2", "run.accelerator=cpu"):
        (cell,) = plan(override, names=("none",)).cells
        assert _cuda_devices(cell.config) == []


def test_the_command_line_says_what_is_wrong(config, capsys):
    mistakes = {"--seeds=0,x": "'0,x': whole numbers and commas", "--jobs=0": "must be 1 or more"}
    for option, message in mistakes.items():
        assert run("compare", config, "--adapters", "none", option) == 2
        assert message in capsys.readouterr().err
