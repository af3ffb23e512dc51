"""Methods side by side: differences to the reference, what is missing, what cannot be compared."""

import json
import statistics

import pytest

from causalseg.analysis.bootstrap import paired_interval
from causalseg.analysis.comparison import MEAN, compare_results, read_study
from causalseg.engine.evaluate import read_counts
from causalseg.errors import RunError
from fabricated import METHODS, make_confusions, make_domain, make_result, make_results

SEEDS = [0, 1, 2]


def compare(results, seeds=SEEDS):
    return compare_results(METHODS, seeds, "none", results)


def write_results(folder, results):
    for number, result in enumerate(results.values()):
        (folder / f"{number:02d}.json").write_text(json.dumps(result))


def test_the_difference_is_the_mean_over_seeds_of_differences_of_means():
    results = make_results()
    none, tuned, _ = compare(results).rows
    changes = [
        results["tuned", s]["eval"]["mean"]["miou"] - results["none", s]["eval"]["mean"]["miou"]
        for s in SEEDS
    ]
    assert tuned.difference == pytest.approx(statistics.mean(changes))
    assert (none.difference, none.interval) == (None, None)


def test_the_interval_is_that_of_all_seeds_and_domains():
    results = make_results()
    counts = {
        name: [
            [
                read_counts(d["per_image"]["counts"])
                for d in results[name, s]["eval"]["domains"].values()
            ]
            for s in SEEDS
        ]
        for name in ("none", "tuned")
    }
    row = compare(results).rows[1]
    assert row.interval == paired_interval(counts["tuned"], counts["none"])
    assert row.interval[0] < row.difference < row.interval[1]


def test_only_seeds_that_both_have_are_compared():
    results = make_results()
    expected = compare(make_results((1,)), [1]).rows[1]
    del results["tuned", 0], results["none", 2]
    found = compare(results)
    assert found.rows[1].difference == expected.difference
    assert found.rows[1].interval == expected.interval
    assert len(found.rows[1].scores(MEAN)) == 2
    assert found.missing == ["none seed 2", "tuned seed 0"]


def test_without_a_common_seed_there_is_no_difference():
    results = make_results()
    for seed in SEEDS:
        del results["none", seed]
    row = compare(results).rows[1]
    assert (row.difference, row.interval) == (None, None)
    assert len(row.scores("night")) == 3


def test_runs_scored_without_counts_of_images_have_no_interval():
    results = make_results()
    del results["tuned", 1]["eval"]["domains"]["night"]["per_image"]
    row = compare(results).rows[1]
    assert row.difference is not None
    assert row.interval is None


def test_runs_scored_on_images_of_other_names_have_no_interval():
    results = make_results()
    confusions = make_confusions(0.8, 8, 1)
    results["tuned", 1]["eval"]["domains"]["night"] = make_domain(confusions, first=1)
    assert compare(results).rows[1].interval is None


def test_runs_on_other_data_are_refused():
    results = make_results()
    results["tuned", 1]["eval"]["domains"]["night"]["size"] = [72, 96]
    with pytest.raises(RunError, match="tuned seed 1 and none seed 0 differ in data: images"):
        compare(results)


def test_a_study_can_be_made_again_from_its_files(tmp_path):
    results = make_results()
    del results["tuned", 2]
    write_results(tmp_path, dict(reversed(results.items())))
    assert read_study(tmp_path) == compare(results)


def test_files_that_are_no_study_are_named(tmp_path):
    with pytest.raises(RunError, match="they name none"):
        read_study(tmp_path)
    (tmp_path / "plain.json").write_text(json.dumps(make_result(0.5)))
    with pytest.raises(RunError, match=r"plain.json is no result of a comparison \(KeyError"):
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
