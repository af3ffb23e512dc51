"""Methods side by side: differences to the reference, what is missing, what cannot be compared."""

import copy
import json
import statistics

import pytest

from causalseg.engine.bootstrap import paired_interval
from causalseg.engine.metrics import read_counts
from causalseg.errors import RunError
from causalseg.report.comparison import check_shared, read_study
from causalseg.runs.scores import MEAN
from fabricated import METHODS, compare, make_confusions, make_domain, make_result, make_results

SEEDS = [0, 1, 2]


def write_results(folder, results):
    for number, result in enumerate(results.values()):
        (folder / f"{number:02d}.json").write_text(json.dumps(result))


def test_the_differences_are_those_of_the_means_seed_by_seed():
    results = make_results()
    none, tuned, _ = compare(results).rows
    changes = [
        results["tuned", s]["eval"]["mean"]["miou"] - results["none", s]["eval"]["mean"]["miou"]
        for s in SEEDS
    ]
    assert tuned.change.differences == pytest.approx(changes)
    assert none.change == ([], None)


def test_the_interval_is_that_of_all_seeds_and_domains():
    results = make_results()
    counts = {"none": [], "tuned": []}
    for name, sides in counts.items():
        for s in SEEDS:
            domains = results[name, s]["eval"]["domains"].values()
            sides.append([read_counts(domain["per_image"]["counts"]) for domain in domains])
    names = [domain["per_image"]["names"] for domain in domains]
    row = compare(results).rows[1]
    assert row.change.interval == paired_interval(counts["tuned"], counts["none"], names)
    assert row.change.interval[0] < statistics.mean(row.change.differences) < row.change.interval[1]


def test_only_seeds_that_both_have_are_compared():
    results = make_results()
    expected = compare(make_results((1,)), [1]).rows[1]
    del results["tuned", 0], results["none", 2]
    comparison = compare(results)
    assert comparison.rows[1].change == expected.change
    assert len(comparison.rows[1].scores(MEAN)) == 2
    assert comparison.missing == ["none seed 2", "tuned seed 0"]
    del results["none", 1]
    assert compare(results).rows[1].change == ([], None)


@pytest.mark.parametrize(
    "change", [{"size": [72, 96]}, make_domain(make_confusions(0.8, 8, 1), first=1)]
)
def test_runs_scored_on_other_images_are_refused(change):
    results = make_results()
    results["tuned", 1]["eval"]["domains"]["night"] |= change
    text = "tuned seed 1 and none seed 0 differ in the images of night"
    with pytest.raises(RunError, match=text):
        compare(results)


def changed(results, changes):
    """Results of which some, by name and seed, have another value of an option of training."""
    results = copy.deepcopy(results)
    for key, options in changes.items():
        results[key]["config"]["train"].update(options)
    return results


def test_runs_that_differ_in_what_they_should_share_are_refused_by_the_names_of_options():
    results = changed(make_results(), {("tuned", 1): {"steps": 9, "lr": 0.5, "workers": 7}})
    with pytest.raises(RunError) as caught:
        compare(results)
    text = str(caught.value)
    assert "train.steps: 9 in tuned seed 1, 7 in none seed 0" in text
    assert "train.lr: 0.5 in tuned seed 1, 0.0001 in none seed 0" in text
    assert "workers" not in text


def test_what_a_method_changes_is_compared_among_the_others_and_among_its_seeds():
    none, tuned, odd = METHODS
    methods = [none._replace(overrides=["adapter=none", "train.steps=9"]), tuned, odd]
    ours = {("none", seed): {"steps": 9} for seed in SEEDS}
    compare(changed(make_results(), ours), methods=methods)
    for key, message in (
        (("none", 2), r"train.steps: 8 in none seed 2, 9 in none seed 0"),
        ((odd.name, 0), r"train.steps: 8 in <b>.* seed 0, 7 in tuned seed 0"),
    ):
        with pytest.raises(RunError, match=message):
            compare(changed(make_results(), {**ours, key: {"steps": 8}}), methods=methods)


def test_the_recipe_of_an_adapter_changes_its_other_options():
    results = make_results((0,))
    results["tuned", 0]["config"]["adapter"]["rank"] = 3
    none, tuned, odd = METHODS
    compare(results, [0], [none, tuned._replace(overrides=["adapter.recipe=centered"]), odd])
    with pytest.raises(RunError, match=r"adapter.rank: 16 in <b>.*, 3 in tuned seed 0"):
        compare(results, [0], [none, tuned._replace(overrides=["adapter.num_tokens=9"]), odd])


def test_a_study_can_be_made_again_from_its_files(tmp_path):
    results = make_results()
    del results["tuned", 2]
    write_results(tmp_path, dict(reversed(results.items())))
    assert read_study(tmp_path) == compare(results)


def test_each_method_has_the_seeds_that_it_was_planned_with(tmp_path):
    results = make_results((0, 1))
    for name, seed in list(results):
        if name != "none":
            results[name, seed]["method"]["seeds"] = [0]
    del results["tuned", 1], results[METHODS[2].name, 0], results[METHODS[2].name, 1]
    write_results(tmp_path, results)
    study = read_study(tmp_path)
    assert [row.seeds for row in study.rows] == [[0, 1], [0]]
    assert study.missing == []


@pytest.mark.parametrize("content", [json.dumps(make_result(0.5)), '{"eval": {}}'])
def test_files_that_are_no_study_are_named(tmp_path, content):
    with pytest.raises(RunError, match="none"):
        read_study(tmp_path)
    (tmp_path / "plain.json").write_text(content)
    with pytest.raises(RunError, match="plain.json is no result of"):
        read_study(tmp_path)


def test_a_study_has_one_reference_and_each_run_once(tmp_path):
    results = make_results((0,))
    write_results(tmp_path, results)
    (tmp_path / "again.json").write_text(json.dumps(results["tuned", 0]))
    with pytest.raises(RunError, match="tuned seed 0 is there twice"):
        read_study(tmp_path)
    (tmp_path / "again.json").unlink()
    results["tuned", 0]["method"]["reference"] = "tuned"
    write_results(tmp_path, results)
    with pytest.raises(RunError, match="they name none, tuned"):
        read_study(tmp_path)


def test_options_that_one_run_does_not_know_are_not_compared_also_within_lists():
    old = {"data": {"sources": [{"images": "a"}]}}
    new = {"data": {"sources": [{"images": "a", "weight": None}]}}
    check_shared({("x", 0): ((), old), ("x", 1): ((), new)})
    other = {"data": {"sources": [{"images": "b", "weight": None}]}}
    with pytest.raises(RunError, match=r"data\.sources\.0\.images: b"):
        check_shared({("x", 0): ((), old), ("x", 1): ((), other)})
    more = {"data": {"sources": [{"images": "a"}, {"images": "b"}]}}
    with pytest.raises(RunError, match=r"data\.sources\.length: 2 in x seed 1, 1 in x seed 0"):
        check_shared({("x", 0): ((), old), ("x", 1): ((), more)})
