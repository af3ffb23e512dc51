"""Run folders as a report reads them: labels, the reference, and what is refused."""

import json

import pytest

from causalseg.errors import CausalsegError, MissingFileError, RunError
from causalseg.report.read import find_reference, read_runs
from causalseg.runs.folder import RunFolder
from report.runs import edit, make_domain, make_run


def labels(runs, baseline=None):
    return [run.label for run in read_runs(runs, baseline)]


def test_runs_with_the_same_parts_differ_by_as_much_path_as_needed(tmp_path):
    domains = {"day": make_domain(0.8)}
    paths = [tmp_path / "x" / "s0", tmp_path / "x" / "s1", tmp_path / "y" / "s1"]
    runs = [make_run(path, domains) for path in paths]
    assert labels(runs[:2]) == ["causal_tune, linear (s0)", "causal_tune, linear (s1)"]
    ends = ("x/s0", "x/s1", "y/s1")
    assert labels(runs) == [f"causal_tune, linear ({end})" for end in ends]


def test_a_baseline_that_is_none_of_the_runs_comes_first(two):
    assert labels(two[1:], two[0]) == ["frozen backbone, linear", "rein, linear"]
    assert labels(two) == ["frozen backbone, linear", "rein, linear"]
    assert labels(two, RunFolder(two[1].path / ".." / "tuned")) == labels(two)


def test_the_reference_is_the_baseline_or_the_first_of_two(two, tmp_path):
    third = make_run(tmp_path / "third", {"day": make_domain(0.8)}, "set")
    runs = read_runs([*two, third])
    assert find_reference(runs, None) is None
    assert find_reference(runs, third).label == "set, linear"
    assert find_reference(runs[:2], None) is runs[0]
    assert find_reference(runs[:1], two[0]) is None


def test_an_image_without_any_class_has_no_miou(two):
    empty = "0 0 0 5 0 0 0 0 0"
    edit(two[0], lambda s: s["domains"]["day"]["per_image"]["counts"].__setitem__(0, empty))
    values = read_runs(two)[0].image_mious("day")
    assert "image0" not in values
    assert len(values) == 5
    assert all(0 < value < 100 for value in values.values())


def test_a_class_that_does_not_occur_has_no_score_even_where_eval_gives_one(two):
    run = read_runs(two)[0]
    assert run.domains["day"].precision["car"] == 0
    assert run.by_class("precision", "day", "car") is None
    assert run.by_class("precision", "day", "road") > 50
    assert run.by_class("precision", "nowhere", "road") is None


def test_runs_that_cannot_be_compared_are_refused(two):
    with pytest.raises(RunError, match="at least one run"):
        read_runs([])
    with pytest.raises(RunError, match="given twice"):
        read_runs([two[0], RunFolder(two[0].path / ".." / "base")])
    two[1].checksums.unlink()
    two[1].eval.write_text(two[1].eval.read_text().replace('"sky"', '"heaven"'))
    with pytest.raises(RunError, match="different class lists"):
        read_runs(two)


@pytest.mark.parametrize("name", ["config.yaml", "eval.json"])
def test_missing_files_are_named(two, name):
    (two[0].path / name).unlink()
    with pytest.raises(MissingFileError, match=name):
        read_runs(two)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", "a: [", "is not YAML"),
        ("config.yaml", "text", "is not the configuration"),
        ("eval.json", "{}", "version: Field required"),
        ("eval.json", "{", "not valid JSON"),
        ("log.jsonl", "3\n", "log.jsonl has no event of training in line 1: '3'"),
        ("log.jsonl", '{"event": "eval", "step": 1}', "no event of training in line 1"),
        ("log.jsonl", "null\n", "line 1: 'null'"),
        ("log.jsonl", '{"event": "x", "step": 1}\n[]\n', "line 2"),
        ("log.jsonl", '{"event": "x"\n{"event": "x", "step": 1}\n', "line 1"),
        ("origin.json", "{", "not valid JSON"),
    ],
)
def test_broken_files_are_one_clear_error(two, name, content, message):
    (two[0].path / name).write_text(content)
    with pytest.raises(CausalsegError, match=message):
        read_runs(two[:1])


def test_the_log_and_the_origin_are_read_if_they_are_there(two):
    two[0].log.unlink()
    (two[1].path / "origin.json").write_text(json.dumps({"code": "rein", "checkpoint": "x.pth"}))
    base, tuned = read_runs(two)
    assert (base.log, base.origin) == ([], None)
    assert tuned.origin["code"] == "rein"
    assert [event["step"] for event in tuned.events("train")] == [10, 20]
