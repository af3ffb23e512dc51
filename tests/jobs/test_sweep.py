"""Sweeps: which cells, what is refused, sweep.json and the page, and a sweep that really runs."""

import itertools
import json
import re
from base64 import b64decode
from pathlib import Path

import pytest

from causalseg.errors import ConfigError
from causalseg.jobs.compare.grid import parse_grid
from causalseg.jobs.sweep import plan_sweep, run_sweep
from causalseg.report.result import Result
from causalseg.report.sweep import Cell, Sweep
from causalseg.report.sweep_page import build_table, write_sweep
from command_line import run, write_yaml
from fabricated import make_result
from report.runs import Outside, text_of

LOW, HIGH, RANK = "adapter.band.low", "adapter.band.high", "adapter.rank"
BAND = [f"{LOW}=0.1,0.2", f"{HIGH}=0.5,0.9"]


def test_a_grid_has_numbers_in_order_or_words_as_given():
    grid = parse_grid([f"{LOW}=0.2,0.1", "adapter.recipe=paper, centered"])
    assert grid == {LOW: [0.1, 0.2], "adapter.recipe": ["paper", "centered"]}


@pytest.fixture
def config(tiny_options, tmp_path):
    """A configuration of one step; `here` is seen in training, `there` is not."""
    tiny_options["data"]["mean_over"] = ["there"]
    tiny_options["train"]["steps"] = 1
    tiny_options["eval"]["pictures"] = 0
    return write_yaml(tmp_path / "tiny.yaml", tiny_options)


@pytest.fixture
def plan(config, tmp_path):
    def plan(*grid, seeds=(0,), overrides=()):
        return plan_sweep(config, overrides, parse_grid(grid), seeds, tmp_path / "out")

    return plan


@pytest.fixture(scope="module")
def base():
    content = make_result(0.8)
    content["config"]["data"]["mean_over"] = ["night"]
    content["eval"]["mean"]["over"] = ["night"]
    return content


@pytest.fixture
def make_sweep(base):
    """Sweeps whose mIoU is 10 * (number of the cell + 1) + seed by night, half of it by day."""

    def make(options, seeds=(0, 2), missing=()):
        cells = []
        for number, values in enumerate(itertools.product(*options.values())):
            results = {}
            for seed in seeds:
                if (number, seed) not in missing:
                    miou = 10.0 * (number + 1) + seed
                    content = json.loads(json.dumps(base))
                    content["eval"]["domains"]["night"]["miou"] = miou
                    content["eval"]["domains"]["day"]["miou"] = miou / 2
                    content["eval"]["mean"]["miou"] = miou
                    results[seed] = Result.model_validate(content)
            cells.append(Cell(dict(zip(options, values, strict=True)), results))
        return Sweep("Sweep: scenes", options, list(seeds), cells)

    return make


@pytest.fixture
def page(tmp_path):
    """The HTML of a sweep, checked to need nothing but itself."""

    def page(sweep):
        write_sweep(sweep, tmp_path / "sweep.html")
        html = (tmp_path / "sweep.html").read_text(encoding="utf-8")
        outside = Outside()
        outside.feed(html)
        assert outside.found == []
        return html

    return page


def charts_of(html):
    """The SVG texts of all charts on light paper, and their alternative texts."""
    found = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)"', html)
    svgs = [b64decode(data).decode() for data, _ in found]
    return [re.findall(r"<text[^>]*>([^<]+)</text>", svg) for svg in svgs], [a for _, a in found]


def files_of(folder):
    return {file: file.stat().st_mtime_ns for file in Path(folder).rglob("*") if file.is_file()}


def test_every_combination_is_a_method_with_the_short_names_of_the_options(plan, tmp_path):
    cells = plan(*BAND, seeds=(0, 1)).study.cells
    names = ["low=0.1,high=0.5", "low=0.1,high=0.9", "low=0.2,high=0.5", "low=0.2,high=0.9"]
    assert [cell.method.name for cell in cells] == names * 2
    band = cells[1].config.adapter.band
    assert (band.low, band.high) == (0.1, 0.9)
    assert cells[1].run.path == tmp_path / "out" / "low_0_1_high_0_9" / "seed0"


def test_options_of_one_last_name_keep_what_tells_them_apart(plan):
    grid = (f"{LOW}=0.1,0.2", "intervene.low=0.1,0.2", "train.adapter_lr=5e-4,1e-3")
    (first, *_) = plan(*grid, overrides=["intervene={low_gain: [0.5, 1.5]}"]).study.cells
    assert first.method.name == "band.low=0.1,intervene.low=0.1,adapter_lr=5e-4"
    assert first.method.overrides[1:] == ["intervene.low=0.1", "train.adapter_lr=5e-4"]


@pytest.mark.parametrize(
    ("grid", "overrides", "message"),
    [
        ([f"{LOW}=0.1"], (), "with two different values or more"),
        ([f"{LOW}=0.1,0.2", f"{LOW}=0.3,0.4"], (), "give an option once"),
        ([], (), "nothing to try: give --grid"),
        (["adapter.band.lwo=0.1,0.2"], (), "lwo=0.1, lwo=0.2: .*did you mean 'low'"),
        ([f"{LOW}=0.1,-2"], (), "low=-2: .*low = -2: Input should be greater than 0"),
        ([f"{LOW}=0.1,0.6", f"{HIGH}=0.5,0.7"], (), "low = 0.6 must be below high = 0.5"),
        (["adapter.rank=0.5,2"], (), "rank = 0.5: Input should be a valid integer"),
        (["run.threads=1,2"], (), "grid run.threads: scores do not depend on it"),
        (["run.seed=1,2"], (), "run.seed=1: a method cannot change this"),
        (["data.sources=1,2"], (), "data.sources=1: a method cannot change this"),
        ([f"{LOW}=0.1,0.2"], [f"{LOW}=0.3"], "override 'adapter.band.low=0.3' would have no ef"),
        ([f"{LOW}=0.1,0.2"], ["adapter={band: {low: 0.3}}"], "leave out one of them"),
        (["intervene.low=0.1,0.2"], ["intervene=spectral"], "low has no effect with low_gain=null"),
        (["train.adapter_lr=1e-3,2e-3"], ["adapter=none"], "train.adapter_lr"),
    ],
)
def test_a_mistake_is_one_error_and_leaves_no_folder(plan, tmp_path, grid, overrides, message):
    with pytest.raises(ConfigError) as caught:
        plan(*grid, overrides=overrides)
    text = str(caught.value)
    assert re.search(message, text, re.DOTALL)
    assert len(text.splitlines()) <= 2
    assert not (tmp_path / "out").exists()


def test_the_record_has_every_seed_mean_and_deviation_and_null_for_the_unfinished(make_sweep):
    sweep = make_sweep({LOW: [0.1, 0.2], HIGH: [0.5, 0.9]}, missing=[(3, 2)])
    record = json.loads(json.dumps(sweep.to_json()))
    assert record["options"] == {LOW: [0.1, 0.2], HIGH: [0.5, 0.9]}
    assert (record["seeds"], record["mean_over"]) == ([0, 2], ["night"])
    assert record["domains"] == ["day", "night"]
    second, last = record["cells"][1], record["cells"][3]
    assert second["values"] == {LOW: 0.1, HIGH: 0.9}
    assert second["finished"] is True
    assert second["mean"] == {
        "miou": 21.0,
        "std": pytest.approx(2**0.5),
        "seeds": {"0": 20.0, "2": 22.0},
    }
    assert second["domains"]["day"]["seeds"] == {"0": 10.0, "2": 11.0}
    assert last["finished"] is False
    assert last["mean"] == {"miou": None, "std": None, "seeds": {"0": 40.0}}


def test_two_options_are_heat_maps_with_a_scale_each_and_unfinished_cells_empty(make_sweep, page):
    html = page(make_sweep({LOW: [0.1, 0.2], HIGH: [0.5, 0.9]}, missing=[(3, 2)]))
    (mean, day, night), alts = charts_of(html)
    for texts in (mean, day, night):
        assert {LOW, HIGH, "0.1", "0.2", "0.5", "0.9"} <= set(texts)
    numbers = [text for text in mean if re.fullmatch(r"\d\d\.\d", text)]
    assert sorted(numbers) == ["11.0", "11.0", "21.0", "31.0", "31.0"]  # the scale has its ends
    assert {"5.5", "10.5", "15.5"} <= set(day)
    assert alts[0] == f"mIoU in % by {LOW} and {HIGH}: 11.0 at 0.1, 0.5 to 31.0 at 0.2, 0.5."
    text = text_of(html)
    assert f"Not finished: {LOW}=0.2, {HIGH}=0.9." in text.replace(" :", ":")
    assert "standard deviation over seeds: at most 1.4" in text
    assert "day, not in the mean" in text


def test_the_page_says_of_which_domains_scores_are_and_that_choosing_by_unseen_is_not_dg(
    make_sweep, page
):
    text = text_of(page(make_sweep({LOW: [0.1, 0.2]})))
    assert "scored on day, night." in text
    assert "Choosing a value by scores on unseen domains is not domain generalization" in text
    assert "causalseg tune , which decides on source validation" in text


def test_one_option_is_a_line_with_the_seeds(make_sweep, page):
    html = page(make_sweep({LOW: [0.1, 0.2, 0.3]}, missing=[(1, 0)]))
    _, alts = charts_of(html)
    assert len(alts) == 3
    assert alts[0] == f"mIoU in % by {LOW}: 11.0 at 0.1, – at 0.2, 31.0 at 0.3."
    assert "small dots: the seeds" in html
    one = page(make_sweep({LOW: [0.1, 0.2]}, seeds=(0,)))
    assert "of one seed: small differences mean nothing" in one


def test_of_three_options_the_maps_are_averaged_over_the_last(make_sweep, page):
    options = {LOW: [0.1, 0.2], HIGH: [0.5, 0.9], RANK: [2.0, 4.0]}
    sweep = make_sweep(options, missing=[(7, 0)])
    assert sweep.score_at({LOW: 0.1, HIGH: 0.9}, "night") == 36.0  # of cells 31 and 41
    assert sweep.score_at({LOW: 0.2, HIGH: 0.9}, "night") is None
    html = page(sweep)
    assert f"Averaged over all values of {RANK}" in html
    heads, rows = build_table(sweep)
    assert heads == [LOW, HIGH, RANK, "mean", "day", "night", "seeds"]
    assert rows[1] == ["0.1", "0.5", "4", "21.0 ± 1.4", "10.5 ± 0.7", "21.0 ± 1.4", "2"]
    assert rows[7] == ["0.2", "0.9", "4", "–", "–", "–", "1 of 2"]


def test_without_a_finished_cell_there_is_a_table_and_no_chart(make_sweep, page):
    for options in ({LOW: [0.1, 0.2]}, {LOW: [0.1], HIGH: [0.5]}):
        html = page(make_sweep(options, missing=[(0, 2), (1, 2)]))
        assert "<picture" not in html
        assert "No cell has the scores of all seeds yet" in html
        assert "1 of 2" in html


def test_equal_scores_and_many_long_values_can_be_drawn(make_sweep, page):
    values = [1e-4 * 1.5**i for i in range(9)]
    sweep = make_sweep({"train.adapter_lr": values})
    assert len(charts_of(page(sweep))[1]) == 3
    sweep = make_sweep({"train.lr": [1e-3], "train.adapter_lr": values})
    assert len(charts_of(page(sweep))[1]) == 3
    equal = make_sweep({LOW: [0.1], HIGH: [0.5]})
    assert "11.0 at 0.1, 0.5 to 11.0 at 0.1, 0.5" in page(equal)


def test_a_failed_cell_is_told_and_empty_and_the_others_are_shown(plan, tmp_path, monkeypatch):
    def fail(cells, jobs, ended):
        for cell in cells:
            ended(cell, "the loss is nan")

    monkeypatch.setattr("causalseg.jobs.compare.study.run_cells", fail)
    sweep, failures = run_sweep(plan(f"{LOW}=0.1,0.2"))
    assert sweep is None
    assert failures == ["low=0.1 seed 0: the loss is nan", "low=0.2 seed 0: the loss is nan"]
    assert not (tmp_path / "out" / "sweep.json").exists()


@pytest.mark.slow
def test_the_command_sweeps_and_the_same_command_trains_nothing(config, tmp_path, capsys):
    out = tmp_path / "out"
    line = ["sweep", config, "--out", out, "--seeds", "0", "--grid", f"{LOW}=0.1,0.2"]
    assert run(*line) == 0
    shown = capsys.readouterr().out
    record = json.loads((out / "sweep.json").read_text())
    assert len(record["cells"]) == 2
    for cell in record["cells"]:
        low, mean = cell["values"][LOW], f"{cell['mean']['miou']:.1f}"
        assert cell["mean"]["seeds"] == cell["domains"]["there"]["seeds"]
        assert re.search(r"\s*│\s*".join(map(re.escape, (str(low), mean, "1"))), shown)
    assert len(charts_of((out / "sweep.html").read_text())[1]) == 3
    runs = {cell: files_of(cell) for cell in out.glob("low*/seed0")}
    assert len(runs) == 2
    assert run(*line) == 0
    assert {cell: files_of(cell) for cell in runs} == runs
    assert json.loads((out / "sweep.json").read_text()) == record
    assert run(*line, "--grid", f"{LOW}=0.3,0.4") == 2
    assert "give an option once" in capsys.readouterr().err
