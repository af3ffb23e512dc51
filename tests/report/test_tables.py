"""The numbers of a report: differences, robustness, confusions and what to mind."""

import json

import pytest

from causalseg.engine.bootstrap import paired_interval
from causalseg.report.format import format_signed, format_spread
from causalseg.report.read import counts_of, read_runs
from causalseg.report.tables import (
    NONE,
    Confusion,
    Score,
    average_losses,
    build_headline,
    domain_table,
    find_best,
    find_largest_confusions,
    has_robustness,
    list_caveats,
    list_losses,
)
from causalseg.report.text import to_markdown
from report.runs import edit, make_domain, make_run


def mious(run, domain):
    return json.loads(run.eval.read_text())["domains"][domain]["miou"]


def test_domain_table_holds_miou_mean_and_second_minus_first(two):
    table = domain_table(two)
    day, night = ([mious(run, name) for run in two] for name in ("day", "night"))
    assert table.domains == ["day", "night"]
    assert table.over == ["night"]
    assert table.rows["frozen backbone, linear"] == [day[0], night[0], night[0]]
    assert table.rows["rein, linear"] == [day[1], night[1], night[1]]
    assert table.difference == [day[1] - day[0], night[1] - night[0], night[1] - night[0]]
    assert domain_table(two[:1]).difference is None


def test_there_is_no_number_where_a_run_was_not_scored(tmp_path):
    domains = {"day": make_domain(0.8), "fog": make_domain(0.6)}
    runs = [
        make_run(tmp_path / "a", domains, "none"),
        make_run(tmp_path / "b", {"day": make_domain(0.8), "snow": make_domain(0.5)}),
    ]
    table = domain_table(runs)
    assert table.domains == ["day", "fog", "snow"]
    assert [value is None for value in table.rows["causal_tune, linear"]] == [0, 1, 0, 1]
    assert table.difference == [0, None, None, None]
    read = read_runs(runs)
    assert build_headline(read, read[0]).rows["fog"][1] == Score(None, None, None, None)
    mean, missing = list_caveats(read, table.over)
    assert "different domains for the mean" in mean
    assert "fog, snow" in missing


def test_a_difference_has_the_paired_interval_of_the_same_images(two):
    base, tuned = read_runs(two)
    table = build_headline([base, tuned], base)
    for name in ("day", "night"):
        cell = table.rows[name][1]
        assert cell.value == mious(two[1], name)
        assert cell.interval == tuned.domains[name].miou_interval
        assert cell.change == mious(two[1], name) - mious(two[0], name)
        ours, theirs = (counts_of(run.scores, [name]) for run in (tuned, base))
        names = tuned.scores.names_of([name])
        assert cell.change_interval == paired_interval([ours], [theirs], names)
        assert table.rows[name][0][2:] == (None, None, "")
    assert table.mean[1].change == table.rows["night"][1].change
    assert table.mean[1].change_interval == table.rows["night"][1].change_interval


def cell_of(table, domain):
    return table.rows[domain][1].change


def test_scores_of_other_images_have_no_difference_and_no_best(two):
    edit(two[1], lambda s: s["domains"]["day"]["per_image"]["names"].__setitem__(0, "other"))
    base, tuned = read_runs(two)
    table = build_headline([base, tuned], base)
    cell = table.rows["day"][1]
    assert (cell.change, cell.change_interval, cell.note) == (None, None, "other images")
    assert find_best(table.rows["day"]) == set()
    assert find_best(table.rows["night"]) == {1}
    assert domain_table(two).difference == [None, cell_of(table, "night"), cell_of(table, "night")]
    assert table.rows["night"][1].change_interval is not None
    (caveat,) = list_caveats([base, tuned], ["night"])
    assert "different images in day" in caveat
    edit(two[1], lambda s: s["domains"]["day"].update(images=60))
    other = build_headline(read_runs(two), None).rows["day"]
    assert [score.note for score in other] == ["", "other images: 60, not 6"]
    assert "(other images: 60, not 6)" in to_markdown(two)
    edit(two[1], lambda scores: scores["mean"].update(over=["day"]))
    base, tuned = read_runs(two)
    cell = build_headline([base, tuned], base).mean[1]
    assert (cell.value, cell.interval) == (mious(two[1], "night"), None)
    assert cell.change_interval is not None


def test_the_best_is_what_is_printed_highest_and_needs_a_rival():
    assert find_best([Score(value, None) for value in (50.04, 50.01, 49.9)]) == {0, 1}
    assert find_best([Score(value, None) for value in (50.0, None)]) == set()


def corrupted(clean, light, strong):
    domains = {"day": make_domain(clean)}
    for share, severity in ((light, 1), (strong, 3)):
        corruption = {"name": "fog", "severity": severity, "clean": "day"}
        domains[f"fog_{severity}"] = make_domain(share, corruption=corruption)
    return domains


def test_corruptions_are_compared_with_the_reference(tmp_path):
    over = ["fog_1", "fog_3"]
    runs = [
        make_run(tmp_path / "a", corrupted(0.9, 0.7, 0.5), "none", over),
        make_run(tmp_path / "b", corrupted(0.85, 0.75, 0.6), "rein", over),
    ]
    read = read_runs(runs)
    rows = list_losses(read, read[0])
    assert list(rows) == [("fog", "severity 1, 3, of day")]
    ours, reference = rows["fog", "severity 1, 3, of day"][::-1]
    clean, *foggy = ([mious(run, name) for run in runs] for name in ("day", *over))
    missing = [sum(100 - values[i] for values in foggy) for i in range(2)]
    lost = [sum(clean[i] - values[i] for values in foggy) for i in range(2)]
    mean = [sum(values[i] for values in foggy) / 2 for i in range(2)]
    assert ours.clean == clean[1]
    assert ours.corrupted == pytest.approx(mean[1])
    assert ours.relative == pytest.approx(100 * (clean[1] - mean[1]) / clean[1])
    assert ours.cd == pytest.approx(100 * missing[1] / missing[0])
    assert ours.rcd == pytest.approx(100 * lost[1] / lost[0])
    assert (reference.cd, reference.rcd) == (100, 100)
    assert average_losses(rows.values()) == [reference, ours]
    assert list_losses(read, None)["fog", "severity 1, 3, of day"][1].cd is None
    assert has_robustness(read)
    assert not has_robustness(read_runs([make_run(tmp_path / "c", {"day": make_domain(0.8)})]))


def test_confusions_are_shares_of_the_true_class_the_largest_first(two):
    rows = ["80 15 0 5", "30 70 0 0", "0 0 0 0"]
    edit(two[0], lambda scores: scores["domains"]["day"].update(confusion=rows))
    assert find_largest_confusions(read_runs(two)[0], "day") == [
        Confusion("sky", "road", 30, 15),
        Confusion("road", "sky", 15, 7.5),
        Confusion("road", NONE, 5, 2.5),
    ]


def test_numbers_have_their_sign_but_for_zero_and_a_dash_where_there_is_none():
    assert format_spread([40.0, 44.0]) == "42.0 ± 2.8"
    assert format_spread([-1.26], is_signed=True) == "−1.3"
    assert format_spread([1.0, None]) == format_spread([]) == "–"
    assert [format_signed(v) for v in (1.26, -1.26, -0.04, None)] == ["+1.3", "−1.3", "0.0", "–"]
