"""The table of a comparison: its numbers, what it says about them, and a page on its own."""

import base64
import json
import re

import pytest

import tables
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


def test_a_row_has_mean_and_deviation_of_every_domain_costs_and_published_numbers():
    results = make_results()
    for seed, miou in zip(SEEDS, (40.0, 42.0, 44.0), strict=True):
        results["tuned", seed]["eval"]["domains"]["night"]["miou"] = miou
        results["tuned", seed]["eval"]["mean"]["miou"] = miou + 1
        results["none", seed]["eval"]["mean"]["miou"] = 41.5
    comparison = compare(results)
    none, row, _ = rows_of(comparison).values()
    assert row["difference to none"].startswith("+1.5 ± 2.0 [")
    expected = {
        "night": "42.0 ± 2.0",
        "mean": "43.0 ± 2.0",
        "adapter parameters": "2,345",
        "trained parameters": "12,345",
        "s/step": "1.25",
        "peak memory": "1,002",
        "seeds": "3",
        "night, reported": "56.2",
    }
    assert expected.items() <= row.items()
    assert "day, reported" not in row
    assert (none["difference to none"], none["night, reported"]) == ("reference", "")
    heads, _ = build_table(comparison)
    assert heads[1:4] == [
        ("day", "12 images, 48 × 36 px"),
        ("night", "8 images, 48 × 36 px"),
        ("mean", "of day, night"),
    ]
    text = comparison_to_markdown(comparison)
    assert "Reported for tuned, not measured here: Somebody, 2025." in text


def test_runs_whose_weights_were_chosen_on_a_target_are_named_first():
    results = make_results()
    assert CHOSEN_ON_TARGET not in comparison_to_markdown(compare(results))
    results["tuned", 1]["eval"]["checkpoint"] = {"name": "best", "allow_target": True}
    text = comparison_to_markdown(compare(results))
    assert f"- tuned seed 1: {CHOSEN_ON_TARGET}.\n" in text


def test_what_a_result_does_not_have_is_a_dash_and_what_none_has_no_column(tmp_path):
    results = make_results((0,))
    del results["none", 0]["eval"]["model"]["adapter_parameters"]
    del results["tuned", 0]["peak_memory_mb"]
    results["tuned", 0]["eval"]["domains"]["day"]["miou"] = None
    results["tuned", 0]["eval"]["mean"]["miou"] = None
    none, tuned, _ = rows_of(compare(results, [0])).values()
    assert (none["adapter parameters"], tuned["adapter parameters"]) == ("–", "2,345")
    for name in ("day", "mean", "difference to none", "peak memory"):
        assert tuned[name] == "–"
    assert re.fullmatch(r"\d\d\.\d", tuned["night"])  # one seed has no deviation
    for result in results.values():
        result["eval"]["model"].pop("adapter_parameters", None)
        result["eval"]["mean"]["miou"] = None
    comparison = compare(results, [0])
    assert "adapter parameters" not in rows_of(comparison)["tuned"]
    write_comparison(comparison, "A study", tmp_path / "page.html")
    assert "<picture>" not in (tmp_path / "page.html").read_text()


def by_domain(comparison):
    title, head, lines = build_smaller_tables(comparison)[0]
    return title, {line[0]: dict(zip(head, line, strict=True)) for line in lines}


def test_differences_to_any_reference_are_listed_by_domain():
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
    for result in results.values():
        result["config"]["eval"]["limit"] = 5
    comparison = compare(results)
    curve = comparison.rows[1].curve(["mean"])
    assert curve[20] == 201.0
    assert 5 not in curve
    title, head, lines = build_smaller_tables(comparison)[1]
    assert "mean over day, night" in title
    assert (head[1], head[-1], len(head)) == ("step 1", "step 20", 9)
    assert [line[0] for line in lines] == ["tuned", "<b>$odd$|_"]
    assert (lines[0][1], lines[0][-1]) == ("11.0", "201.0")
    text = comparison_to_markdown(comparison)
    assert title in text
    assert "at most 5 images a domain" in text


def test_the_page_draws_scores_over_steps_of_target_and_source_domains(tmp_path):
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


def test_a_worse_method_has_a_minus_and_a_mean_of_one_domain_no_column():
    results = make_results()
    for result in results.values():
        miou = result["eval"]["domains"]["night"]["miou"]
        result["eval"]["mean"] = {"miou": miou, "over": ["night"], "interval": None}
    heads, rows = build_table(compare(results))
    assert "mean" not in [head for head, _ in heads]
    (change,) = [cell for cell in rows[2] if "[" in cell]
    assert re.fullmatch(r"−\d+\.\d ± \d+\.\d \[−\d+\.\d, −\d+\.\d\]", change)


def test_missing_runs_stay_in_the_table():
    results = make_results()
    del results["tuned", 1]
    for seed in SEEDS:
        del results["<b>$odd$|_", seed]
    comparison = compare(results)
    rows = rows_of(comparison)
    assert rows["tuned"]["seeds"] == "2 of 3"
    assert list(rows["<b>$odd$|_"].values())[1:] == ["–"] * 8 + ["0 of 3", ""]
    assert "Missing: tuned seed 1, <b>$odd$|_ seed 0," in comparison_to_markdown(comparison)


def test_notes_say_how_the_numbers_are_made():
    results = make_results()
    for seed in SEEDS:
        tuned = make_result(SHARES["tuned"], seed, adapter_lr=5e-4)
        results["tuned", seed]["config"] = tuned["config"]
    own = METHODS[1]._replace(overrides=["adapter=causal_tune", "train.adapter_lr=0.0005"])
    text = comparison_to_markdown(compare(results, methods=[METHODS[0], own, METHODS[2]]))
    for part in (
        "city/images",
        "head linear, 7 steps, batch 4, crop 42 × 28 px, learning rate 0.0001",
        "of the adapter 0.0005",
        "seeds 0, 1, 2",
        "1000 draws",
        "Linux x86_64, device not recorded, precision auto; torch 2.",
        "- `tuned`: `adapter=causal_tune`, `train.adapter_lr=0.0005`",
        "- `<b>$odd$|_`: nothing",
    ):
        assert part in text
    assert "Missing" not in text


def test_the_page_has_the_numbers_of_the_table_and_needs_nothing_but_itself(page):
    text = text_of(page)
    for row in build_table(compare(make_results()))[1]:
        assert all(cell in text for cell in row[1:])
    for name in ("better", "worse", "reference"):
        assert page.count(f'class="{name}"') == 1
    outside = Outside()
    outside.feed(page)
    assert outside.found == []
    assert "http" not in page
    assert "<b>" not in page
    assert "&lt;b&gt;$odd$|_" in page


def test_the_chart_is_for_light_and_dark_and_in_the_order_of_scores(page):
    means = {row.method.name: row.scores("mean") for row in compare(make_results()).rows}
    chart = draw_methods(means, "none")
    assert chart.light != chart.dark
    assert f'src="{chart.light}"' in page
    assert f'srcset="{chart.dark}"' in page
    svg = base64.b64decode(chart.light.partition(",")[2]).decode()
    names = ("&lt;b&gt;$odd$|_", "none (reference)", "tuned")
    positions = [svg.index(f">{name}<") for name in names]
    assert positions == sorted(positions)


def test_devices_and_seeds_that_differ_are_listed():
    results = make_results()
    for name in ("tuned", METHODS[2].name):
        del results[name, 1], results[name, 2]
        results[name, 0]["precision"] = "32-true"
    planned = {method.name: SEEDS if method.name == "none" else [0] for method in METHODS}
    comparison = compare(results, planned)
    text = comparison_to_markdown(comparison)
    assert "over seeds 0, 1, 2 (none); 0 (tuned, <b>$odd$|_)." in text
    assert "Missing" not in text
    assert [row["seeds"] for row in rows_of(comparison).values()] == ["3", "1", "1"]
    assert "none seed 2: Linux x86_64, device not recorded, precision auto; torch 2;" in text
    assert "tuned seed 0, <b>$odd$|_ seed 0: Linux x86_64" in text


@pytest.mark.slow
def test_committed_studies_make_a_page_of_the_same_tables(tmp_path):
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
