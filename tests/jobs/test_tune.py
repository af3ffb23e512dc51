"""Tuning: what is tried, what decides, what is written; runs are made in this process."""

import json
import shutil

import pytest

from causalseg.config.load import dump_config, load_config
from causalseg.errors import ConfigError, RunError
from causalseg.jobs import tune
from causalseg.jobs.compare.budget import size_methods
from causalseg.jobs.compare.grid import parse_grid
from causalseg.jobs.compare.methods import read_methods
from causalseg.jobs.compare.study import plan_study
from causalseg.jobs.train import train_run
from causalseg.jobs.tune import run_tuning, write_methods
from causalseg.report.format import value_text
from command_line import run, write_yaml

METHODS = """
none: {adapter: none}
lora: {adapter: {name: lora, rank: 2}, train: {adapter_lr: 0.1}}
both:
  adapter: [{name: lora, rank: 2}, {name: causal_tune, num_tokens: 4, rank: 2}]
  intervene: dsu
"""
RATES = "train.adapter_lr=5e-4,1e-3"


@pytest.fixture
def config(tiny_options, tmp_path):
    """A configuration of one step; `here` is seen in training, `there` is not."""
    del tiny_options["adapter"]
    tiny_options["data"]["mean_over"] = ["there"]
    tiny_options["train"]["steps"] = 1
    tiny_options["eval"]["pictures"] = 0
    return write_yaml(tmp_path / "tiny.yaml", tiny_options)


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "methods.yaml"
    file.write_text(METHODS)
    return file


@pytest.fixture
def plan(config, file, tmp_path):
    def plan(*grid, names=("none", "lora"), metric="here.miou", seeds=(0,), overrides=()):
        methods = read_methods(names, file)
        out = tmp_path / "out"
        return tune.plan_tuning(config, overrides, methods, parse_grid(grid), metric, seeds, out)

    return plan


@pytest.fixture
def scores():
    """mIoU of `here` by name of the cell; what is not there counts 50."""
    return {}


@pytest.fixture
def trained(monkeypatch, scores):
    """Fill cells, all from one that is trained, with scores that are given; returns their names."""
    labels, first = [], []

    def run_cells(cells, jobs, ended):
        for cell in cells:
            first.append(first[0] if first else train_run(cell.config))
            if cell.run.path != first[0].path:
                shutil.copytree(first[0].path, cell.run.path)
            cell.run.config.write_text(dump_config(cell.config))
            content = cell.run.read_json(cell.run.eval)
            content["domains"]["here"]["miou"] = scores.get(cell.label, 50.0)
            cell.run.checksums.unlink(missing_ok=True)
            cell.run.eval.write_text(json.dumps(content))
            labels.append(cell.label)
            ended(cell, None)

    monkeypatch.setattr("causalseg.jobs.compare.study.run_cells", run_cells)
    return labels


def test_a_grid_is_ascending_and_its_values_are_named_in_their_shortest_form():
    grid = parse_grid(["train.lr=1e-3,0.0005", "train.clip=2,1"])
    assert grid == {"train.lr": [5e-4, 1e-3], "train.clip": [1.0, 2.0]}
    for text in ("5e-4", "2.5e-4", "1e-5", "0.05", "4", "-2e5"):
        assert value_text(float(text)) == text


@pytest.mark.parametrize(
    "texts",
    [["train.lr"], ["train.lr=1"], ["train.lr=a,a"], ["=1,2"], ["a=1,2", "a=3,4"], ["a=1,1.0"]],
)
def test_a_grid_without_two_values_is_refused(texts):
    with pytest.raises(ConfigError, match="with two different values or more"):
        parse_grid(texts)


def test_every_value_is_a_method_and_a_head_alone_has_no_rate_of_an_adapter(plan):
    tuning = plan(RATES, seeds=(0, 1))
    assert [cell.label for cell in tuning.study.cells] == [
        f"lora@{value} seed {seed}" for seed in (0, 1) for value in ("5e-4", "1e-3")
    ]
    rates = [cell.config.train.adapter_lr for cell in tuning.study.cells]
    assert rates == [5e-4, 1e-3] * 2  # in place of the method's own
    assert tuning.tried["none"] == []
    names = [cell.method.name for cell in plan("train.lr=1e-3,2e-3").study.cells]
    assert names == ["none@1e-3", "none@2e-3", "lora@1e-3", "lora@2e-3"]
    both = [cell.method.name for cell in plan(RATES, "train.lr=1e-3,2e-3").study.cells]
    assert both[:2] == ["none@1e-3", "none@2e-3"]
    assert both[2:] == ["lora@5e-4,1e-3", "lora@5e-4,2e-3", "lora@1e-3,1e-3", "lora@1e-3,2e-3"]


def test_what_the_grid_cannot_change_is_refused(plan):
    with pytest.raises(ConfigError, match="no effect on any of the methods: none has an adapter"):
        plan(RATES, names=("none",))
    with pytest.raises(ConfigError, match="methods that set this themselves: lora@5e-4, lora@1e-3"):
        plan(RATES, overrides=["train.adapter_lr=1"])
    with pytest.raises(ConfigError, match="lora@0.1,5 would share the folder of lora@0,1.5"):
        plan("train.weight_decay=0,0.1", "train.clip=1.5,5", names=("lora",))
    with pytest.raises(ConfigError, match="did you mean 'adapter_lr'"):
        plan("train.adapter_rl=1,2")


@pytest.mark.parametrize(
    ("metric", "overrides", "message"),
    [
        ("there.miou", [], "'there.miou' is on an unseen domain.*allowed are here.miou"),
        ("nowhere.miou", [], "'nowhere.miou' is not known; allowed are here.miou"),
        ("here.accuracy", [], "is not known; allowed are here.miou"),
        ("here.miou", ["data.mean_over=null"], "name the unseen domains in data.mean_over"),
    ],
)
def test_only_an_in_distribution_domain_decides(plan, tmp_path, metric, overrides, message):
    with pytest.raises(ConfigError, match=message):
        plan(RATES, metric=metric, overrides=overrides)
    assert not (tmp_path / "out").exists()


def test_the_best_mean_over_seeds_is_chosen_and_of_equal_ones_the_smaller(plan, scores, trained):
    scores |= {"lora@1e-3 seed 0": 40.0, "lora@1e-3 seed 1": 61.0}
    best = run_tuning(plan(RATES, names=("lora",), seeds=(0, 1)))["lora"].best
    assert (best.values, best.scores) == ({"train.adapter_lr": 1e-3}, {0: 40.0, 1: 61.0})
    best = run_tuning(plan(RATES, names=("lora",), seeds=(2,)))["lora"].best
    assert best.values == {"train.adapter_lr": 5e-4}


def test_a_wider_grid_keeps_what_is_finished(plan, scores, trained):
    scores["lora@1e-3 seed 0"] = 60.0
    assert run_tuning(plan(RATES))["lora"].at_edge == ["train.adapter_lr"]
    assert trained == ["lora@5e-4 seed 0", "lora@1e-3 seed 0"]
    choice = run_tuning(plan("train.adapter_lr=5e-4,1e-3,2e-3"))["lora"]
    assert trained[2:] == ["lora@2e-3 seed 0"]
    assert (choice.best.values, choice.at_edge) == ({"train.adapter_lr": 1e-3}, [])


def test_the_methods_file_has_the_chosen_values_and_all_scores(
    plan, config, file, tmp_path, scores, trained
):
    scores["both@1e-3 seed 0"] = 62.5
    names = ("none", "lora", "both")
    methods = read_methods(names, file)
    tuning = plan(RATES, names=names)
    choices = run_tuning(tuning)
    tuned = tmp_path / "tuned.yaml"
    write_methods(tuning, choices, methods, tuned)
    for method, rate in zip(methods, (None, 5e-4, 1e-3), strict=True):
        (written,) = read_methods([method.name], tuned)
        rates = [] if rate is None else [f"train.adapter_lr={rate}"]
        expected = load_config(config, [*method.overrides, *rates])
        assert load_config(config, written.overrides) == expected
    comments = [line for line in tuned.read_text().splitlines() if line.startswith("#")]
    assert "on here, mean over seeds 0" in comments[0]
    assert comments[2:] == [
        "# Grid: train.adapter_lr 5e-4, 1e-3",
        "# lora: 5e-4 50.00, 1e-3 50.00",
        "# both: 5e-4 50.00, 1e-3 62.50",
    ]
    tune.write_record(tuning, choices, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "tune.json").read_text())
    assert (record["metric"], record["seeds"]) == ("here.miou", [0])
    chosen, trials = record["methods"]["both"]["chosen"], record["methods"]["both"]["trials"]
    assert trials[1] == {"values": chosen, "mean": 62.5, "seeds": {"0": 62.5}}


def test_sizes_chosen_for_a_budget_and_reported_scores_are_written(plan, file, tmp_path):
    config = tmp_path / "tiny.yaml"
    with file.open("a") as stream:
        stream.write("theirs: {adapter: vpt, reported: {mean: 50}, reported_source: here}")
    methods = read_methods(["dora", "lora", "both", "rein+intervene", "theirs"], file)
    methods = [each.method for each in size_methods(config, (), methods, 20_000)]
    tuned = tmp_path / "tuned.yaml"
    write_methods(plan(RATES), {}, methods, tuned)
    for method, written in zip(methods, read_methods([], tuned), strict=True):
        assert load_config(config, method.overrides) == load_config(config, written.overrides)
        assert (written.reported, written.source) == (method.reported, method.source)


def test_a_run_that_failed_or_has_no_score_decides_nothing(plan, scores, trained, monkeypatch):
    scores["lora@1e-3 seed 0"] = None
    with pytest.raises(RunError, match="here has no labelled pixels, so it cannot decide"):
        run_tuning(plan(RATES))

    def fail(cells, jobs, ended):
        for cell in cells:
            ended(cell, "the loss is nan")

    monkeypatch.setattr("causalseg.jobs.compare.study.run_cells", fail)
    with pytest.raises(RunError, match="1 of 3 runs failed:\n  lora@2e-3 seed 0: the loss is nan"):
        run_tuning(plan("train.adapter_lr=5e-4,1e-3,2e-3"))


def test_nothing_is_chosen_while_other_workers_have_runs(plan, trained, monkeypatch):
    assert run_tuning(plan(RATES))
    monkeypatch.setattr("causalseg.jobs.compare.study.run_cells", lambda *_: None)
    assert run_tuning(plan("train.adapter_lr=5e-4,1e-3,2e-3")) is None


def test_the_command_tunes_and_its_file_is_compared_next(config, file, tmp_path, trained, capsys):
    tuned = tmp_path / "tuned.yaml"
    line = ("tune", config, "--methods", file, "--adapters", "none,lora", "--out", tmp_path / "out")
    asked = ("--grid", RATES, "--metric", "here.miou", "--budget", "20k")
    assert run(*line, *asked, "--write", file) == 2
    assert "would replace the methods file that is read" in capsys.readouterr().err
    assert run(*line, *asked, "--write", tuned) == 0
    shown = capsys.readouterr().out
    assert "lora: rank=13, alpha=104.0, 19,968 parameters" in shown
    assert "none: unchanged, the grid has no effect on it" in shown
    assert "lora: train.adapter_lr=5e-4, here 50.0; train.adapter_lr is at the edge of" in shown
    study = plan_study(config, [], read_methods([], tuned), [0], None, tmp_path / "compare")
    none, lora = (cell.config for cell in study.cells)
    assert (none.adapter.name, none.train.adapter_lr) == ("none", None)
    assert (lora.adapter.rank, lora.train.adapter_lr) == (13, 5e-4)
