"""The table of a comparison: its numbers, what it says about them, and a page on its own."""

import base64
import json
import re

import pytest

from causalseg.engine.bootstrap import paired_interval
from causalseg.engine.metrics import read_counts
from causalseg.report.charts import draw_methods
from causalseg.report.comparison_page import (
    build_smaller_tables,
    build_table,
    comparison_to_markdown,
    draw_curves,
    write_comparison,
)
from causalseg.report.format import format_markdown
from causalseg.report.result import Method
from causalseg.runs.scores import CHOSEN_ON_TARGET
from fabricated import METHODS, SHARES, compare, make_result, make_results
from report.runs import Outside, text_of

SEEDS = [0, 1, 2]


def rows_of(comparison):
    heads, rows = build_table(comparison)
    names = [head for head, _ in heads]
    return {row[0]: dict(zip(names, row, strict=True)) for row in rows}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "compare.html"
    write_comparison(compare(make_results()), "A study", file)
    return file.read_text(encoding="utf-8")


def test_a_row_has_mean_and_deviation_of_every_domain_and_what_it_costs():
    results = make_results()
    for seed, miou in zip(SEEDS, (40.0, 42.0, 44.0), strict=True):
        results["tuned", seed]["eval"]["domains"]["night"]["miou"] = miou
        results["tuned", seed]["eval"]["mean"]["miou"] = miou + 1
        results["none", seed]["eval"]["mean"]["miou"] = 41.5
    row = rows_of(compare(results))["tuned"]
    assert row["night"] == "42.0 ± 2.0"
    assert row["mean"] == "43.0 ± 2.0"
    assert row["difference to none"].startswith("+1.5 ± 2.0 [")
    assert row["adapter parameters"] == "2,345"
    assert row["trained parameters"] == "12,345"
    assert row["s/step"] == "1.25"
    assert row["peak memory"] == "1,002"
    assert row["seeds"] == "3"
    assert rows_of(compare(results))["none"]["difference to none"] == "reference"


def test_runs_whose_weights_were_chosen_on_a_target_are_named_first():
    results = make_results()
    assert CHOSEN_ON_TARGET not in comparison_to_markdown(compare(results))
    results["tuned", 1]["eval"]["checkpoint"] = {"name": "best", "allow_target": True}
    text = comparison_to_markdown(compare(results))
    assert f"- tuned seed 1: {CHOSEN_ON_TARGET}.\n" in text


def test_the_head_says_how_many_images_of_which_size():
    heads, _ = build_table(compare(make_results()))
    assert heads[:4] == [
        ("method", ""),
        ("day", "12 images, 48 × 36 px"),
        ("night", "8 images, 48 × 36 px"),
        ("mean", "of day, night"),
    ]
    assert ("difference to none", "± over seeds [95% over images]") in heads


def test_sizes_of_adapters_that_no_result_knows_have_no_column():
    results = make_results()
    del results["none", 0]["eval"]["model"]["adapter_parameters"]
    rows = rows_of(compare(results))
    assert (rows["none"]["adapter parameters"], rows["tuned"]["adapter parameters"]) == (
        "–",
        "2,345",
    )
    for result in results.values():
        result["eval"]["model"].pop("adapter_parameters", None)
    assert "adapter parameters" not in rows_of(compare(results))["tuned"]
    assert rows_of(compare(results))["tuned"]["trained parameters"] == "12,345"


def by_domain(comparison):
    title, head, lines = build_smaller_tables(comparison)[0]
    return title, {line[0]: dict(zip(head, line, strict=True)) for line in lines}


def test_differences_to_any_reference_are_told_by_domain():
    results = make_results()
    for seed, miou in zip(SEEDS, (40.0, 42.0, 44.0), strict=True):
        results["none", seed]["eval"]["domains"]["night"]["miou"] = miou
        results["tuned", seed]["eval"]["domains"]["night"]["miou"] = 40.0
    comparison = compare(results, reference="tuned")
    title, rows = by_domain(comparison)
    assert title == "Difference to tuned by domain, in points: ± over seeds [95% over images]"
    assert list(rows) == ["none", "<b>$odd$|_"]
    assert list(rows["none"]) == ["method", "day", "night", "mean"]
    assert rows["none"]["night"].startswith("+2.0 ± 2.0 [")
    full = rows_of(comparison)
    assert rows["none"]["mean"] == full["none"]["difference to tuned"]
    pair = (
        [results[name, s]["eval"]["domains"]["day"] for s in SEEDS] for name in ("none", "tuned")
    )
    ours, theirs = ([[read_counts(d["per_image"]["counts"])] for d in side] for side in pair)
    names = results["none", 0]["eval"]["domains"]["day"]["per_image"]["names"]
    low, high = paired_interval(ours, theirs, [names])
    assert rows["none"]["day"].endswith(f"[−{-low:.1f}, −{-high:.1f}]")


def test_of_many_methods_the_smaller_tables_have_those_with_the_most_seeds():
    few = make_results((0,))["tuned", 0]
    more = [Method(f"more{i}", ["adapter=causal_tune"], {}, "") for i in range(20)]
    results = make_results() | {(method.name, 0): few for method in more}
    planned = {method.name: SEEDS for method in METHODS} | {method.name: [0] for method in more}
    title, rows = by_domain(compare(results, planned, [*METHODS, *more]))
    assert title.endswith(", methods with the most seeds")
    assert list(rows) == ["tuned", "<b>$odd$|_"]


def with_curves(results):
    """Scores on the way that rise by 10 a step, higher by one for each seed."""
    for (_, seed), result in results.items():
        result["curve"] = [
            [step, {"day": 10.0 * step, "night": 10.0 * step, "mean": 10.0 * step + seed}]
            for step in range(1, 21)
        ]
    return results


def test_scores_over_steps_are_means_over_seeds_at_a_few_steps():
    results = with_curves(make_results())
    del results["none", 0]["curve"]
    results["tuned", 2]["curve"][4][1]["mean"] = None
    comparison = compare(results)
    assert comparison.rows[1].curve(["mean"])[20] == 201.0
    assert 5 not in comparison.rows[1].curve(["mean"])
    title, head, lines = build_smaller_tables(comparison)[1]
    assert title == "mIoU in percent over training steps, mean over day, night and over seeds"
    assert (head[1], head[-1], len(head)) == ("step 1", "step 20", 9)
    assert [line[0] for line in lines] == ["tuned", "<b>$odd$|_"]
    assert (lines[0][1], lines[0][-1]) == ("11.0", "201.0")
    assert title in comparison_to_markdown(comparison)
    for result in results.values():
        result["config"]["eval"]["limit"] = 5
    assert "of at most 5 images a domain." in comparison_to_markdown(compare(results))


def test_the_page_draws_scores_over_steps_of_unseen_and_seen_domains(tmp_path):
    results = with_curves(make_results())
    for result in results.values():
        result["eval"]["mean"]["over"] = ["night"]
        result["eval"]["robustness"]["source"] = {"miou": 50.0, "domains": ["day"]}
    charts = draw_curves(compare(results))
    assert [chart.alt.partition(":")[0] for chart in charts] == [
        "mIoU in % over training steps, mean over night",
        "mIoU in % over training steps, source validation (day)",
    ]
    assert "none from 11.0 at step 1 to 201.0 at 20; tuned from" in charts[0].alt
    write_comparison(compare(results), "A study", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert all(chart.light in page and chart.dark in page for chart in charts)
    assert "Difference to none by domain, in points" in page
    assert draw_curves(compare(make_results())) == []


def test_one_seed_has_no_spread():
    row = rows_of(compare(make_results((0,)), [0]))["tuned"]
    assert re.fullmatch(r"\d\d\.\d", row["day"])
    assert row["seeds"] == "1"


def test_a_worse_method_has_a_minus_and_a_mean_of_one_domain_no_column():
    results = make_results()
    for result in results.values():
        result["eval"]["mean"] = {
            "miou": result["eval"]["domains"]["night"]["miou"],
            "over": ["night"],
            "interval": None,
        }
    heads, rows = build_table(compare(results))
    assert "mean" not in [head for head, _ in heads]
    (change,) = [cell for cell in rows[2] if "[" in cell]
    assert re.fullmatch(r"−\d+\.\d ± \d+\.\d \[−\d+\.\d, −\d+\.\d\]", change)


def test_missing_runs_stay_in_the_table():
    results = make_results()
    del results["tuned", 1]
    for seed in SEEDS:
        del results["<b>$odd$|_", seed]
    rows = rows_of(compare(results))
    assert rows["tuned"]["seeds"] == "2 of 3"
    assert list(rows["<b>$odd$|_"].values())[1:] == ["–"] * 8 + ["0 of 3", ""]
    assert "Missing: tuned seed 1, <b>$odd$|_ seed 0," in comparison_to_markdown(compare(results))


def test_a_domain_without_a_score_has_a_dash():
    results = make_results()
    results["tuned", 1]["eval"]["domains"]["day"]["miou"] = None
    results["tuned", 1]["eval"]["mean"]["miou"] = None
    row = rows_of(compare(results))["tuned"]
    assert (row["day"], row["mean"], row["difference to none"]) == ("–", "–", "–")
    assert row["night"] != "–"


def test_published_numbers_stand_in_a_column_of_their_own():
    rows = rows_of(compare(make_results()))
    assert rows["tuned"]["night, reported"] == "56.2"
    assert rows["none"]["night, reported"] == ""
    assert "day, reported" not in rows["tuned"]
    assert "Reported for tuned, not measured here: Somebody, 2025." in comparison_to_markdown(
        compare(make_results())
    )


def test_notes_say_how_the_numbers_are_made():
    results = make_results()
    for seed in SEEDS:
        tuned = make_result(SHARES["tuned"], seed, adapter_lr=5e-4)
        results["tuned", seed]["config"] = tuned["config"]
    own = METHODS[1]._replace(overrides=["adapter=causal_tune", "train.adapter_lr=0.0005"])
    text = comparison_to_markdown(compare(results, methods=[METHODS[0], own, METHODS[2]]))
    for part in (
        "Trained on city/images",
        "head linear, 7 steps, batch 4, crop 42 × 28 px, learning rate 0.0001",
        ", of the adapter 0.0005,",
        "over seeds 0, 1, 2",
        "1000 draws of images, the same for both methods, all seeds,",
        "Images of a video are not independent",
        "not corrected for their number",
        "Trained on Linux x86_64, device not recorded, precision auto; torch 2.",
        "- `tuned`: `adapter=causal_tune`, `train.adapter_lr=0.0005`",
        "- `<b>$odd$|_`: nothing",
    ):
        assert part in text
    assert "Missing" not in text


def test_runs_on_several_devices_or_precisions_are_told():
    results = make_results((0,))
    for name, (device, precision) in {
        "none": ("H200", "bf16-mixed"),
        "tuned": ("H200", "32-true"),
        METHODS[2].name: ("H200", "32-true"),
    }.items():
        results[name, 0].update(device=device, precision=precision)
    text = comparison_to_markdown(compare(results, [0]))
    assert "which may be part of the differences. " in text
    assert "none seed 0: Linux x86_64, H200, precision bf16-mixed; torch 2;" in text
    assert "tuned seed 0, <b>$odd$|_ seed 0: Linux x86_64, H200, precision 32-true;" in text


def test_methods_of_other_seeds_are_told_and_miss_none():
    results = make_results()
    for name in ("tuned", METHODS[2].name):
        del results[name, 1], results[name, 2]
    planned = {method.name: SEEDS if method.name == "none" else [0] for method in METHODS}
    comparison = compare(results, planned)
    text = comparison_to_markdown(comparison)
    assert "over seeds 0, 1, 2 (none); 0 (tuned, <b>$odd$|_)." in text
    assert "Missing" not in text
    assert [row["seeds"] for row in rows_of(comparison).values()] == ["3", "1", "1"]


def test_a_bar_in_a_name_does_not_split_a_cell():
    text = format_markdown(["a|b"], [["c|d"]])
    assert text == "| a\\|b |\n| --- |\n| c\\|d |"


def test_results_of_an_older_kind_have_a_dash_for_memory():
    results = make_results()
    del results["tuned", 0]["peak_memory_mb"]
    assert rows_of(compare(results))["tuned"]["peak memory"] == "–"


def test_the_page_needs_nothing_but_itself_and_escapes_names(page):
    outside = Outside()
    outside.feed(page)
    assert outside.found == []
    assert "http" not in page
    assert "<b>" not in page
    assert "&lt;b&gt;$odd$|_" in page


def test_the_page_has_the_same_numbers_as_the_markdown(page):
    text = text_of(page)
    for row in build_table(compare(make_results()))[1]:
        for cell in row[1:]:
            assert cell in text
    assert page.count('class="better"') == 1
    assert page.count('class="worse"') == 1
    assert page.count('class="reference"') == 1


def test_the_chart_is_for_light_and_dark_and_in_the_order_of_scores(page):
    means = {row.method.name: row.scores("mean") for row in compare(make_results()).rows}
    chart = draw_methods(means, "none")
    assert chart.light != chart.dark
    assert f'src="{chart.light}"' in page
    assert f'srcset="{chart.dark}"' in page
    svg = base64.b64decode(chart.light.partition(",")[2]).decode()
    positions = [
        svg.index(f">{name}<") for name in ("&lt;b&gt;$odd$|_", "none (reference)", "tuned")
    ]
    assert positions == sorted(positions)


def test_without_any_mean_there_is_no_chart(tmp_path):
    results = make_results()
    for result in results.values():
        result["eval"]["mean"]["miou"] = None
    write_comparison(compare(results), "A study", tmp_path / "page.html")
    assert "<picture>" not in (tmp_path / "page.html").read_text()


@pytest.mark.slow
def test_committed_studies_make_a_page_of_the_same_tables(tmp_path):
    from test_docs import tables

    (tmp_path / "README.md").write_text(f"{tables.START}\n{tables.END}\n")
    page = tmp_path / "docs" / "compare.md"
    assert "No results yet." in tables.pages(tmp_path)[page]
    for study, seeds in (("small", (0,)), ("large", (0, 1, 2))):
        folder = tmp_path / "results" / "compare" / study
        folder.mkdir(parents=True)
        for (name, seed), result in make_results(seeds).items():
            (folder / f"{len(name)}_seed{seed}.json").write_text(json.dumps(result))
    text = tables.pages(tmp_path)[page]
    assert text.index("## large") < text.index("## small")
    assert comparison_to_markdown(compare(make_results())).strip() in text
    assert comparison_to_markdown(compare(make_results((0,)), [0])).strip() in text
    assert "[small](../results/compare/small)" in text
    assert "- `tuned`: `adapter=causal_tune`" in text
