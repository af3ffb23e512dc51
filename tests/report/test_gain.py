"""The gain of an adapter: which run counts as the frozen backbone, and what the card says."""

import json

import pytest

from causalseg.config.load import dump_config, parse_config
from causalseg.report.card import write_card
from causalseg.report.gain import find_gain
from causalseg.runs.folder import RunFolder
from fabricated import DOMAINS, make_confusions, make_domain, make_scores
from report.runs import edit


@pytest.fixture
def make_run(tiny_options, tmp_path):
    """Fabricate a finished run; mIoU by domain, whose mean is over `over`."""

    def make_run(name, adapter, mious, *overrides, over=("day", "night")):
        options = {**tiny_options, "adapter": adapter}
        config = parse_config(options, [f"run.out={tmp_path / name}", *overrides])
        run = RunFolder(tmp_path / name)
        run.path.mkdir(parents=True)
        run.config.write_text(dump_config(config))
        domains = {}
        for domain, images in DOMAINS.items():
            domains[domain] = make_domain(make_confusions(0.8, images, 0))
            domains[domain]["miou"] = mious.get(domain, domains[domain]["miou"])
        run.eval.write_text(json.dumps(make_scores(domains, over=list(over))))
        return run

    return make_run


def test_the_gain_is_the_difference_in_every_domain_and_of_the_mean(make_run, tiny):
    tuned = make_run("tuned", "lora", {"day": 50.0, "night": 40.0})
    assert find_gain(tuned) is None
    write_card(tuned, tiny())
    assert "without adapter" not in tuned.card.read_text()
    none = make_run("none_seed0", "none", {"day": 49.5, "night": 41.0})
    gain = find_gain(tuned)
    assert (gain.folder, gain.name) == (none.path, "none_seed0")
    assert gain.points == {"day": 0.5, "night": -1.0, "mean": -0.25}
    assert gain.text == "day +0.5, night −1.0, mean −0.2"
    assert find_gain(none) is None
    write_card(tuned, tiny())
    assert f"(run `none_seed0`, otherwise the same): {gain.text}." in tuned.card.read_text()
    edit(tuned, lambda scores: scores["mean"].update(over=["night"]))
    assert "mean" not in find_gain(tuned).points


@pytest.mark.parametrize(
    "override",
    ["train.steps=9", "run.seed=1", "eval.flip=true", "head=mask2former", "intervene=dsu"],
)
def test_a_run_that_differs_in_more_is_no_baseline(make_run, override):
    make_run("none", "none", {}, override, *(["train.crop=[64, 64]"] if "mask" in override else []))
    assert find_gain(make_run("tuned", "lora", {})) is None


def test_what_does_not_change_a_score_may_differ(make_run):
    free = ("run.threads=2", "train.workers=1", "eval.pictures=0", "run.precision=auto")
    make_run("none", "none", {}, *free)
    tuned = make_run("tuned", "lora", {}, "train.adapter_lr=0.01", "intervene=dsu")
    assert find_gain(tuned) is not None


def test_cells_of_a_comparison_find_the_one_of_their_seed(make_run):
    make_run("out/none/seed1", "none", {"day": 10.0}, "run.seed=1")
    tuned = make_run("out/lora/seed1", "lora", {"day": 12.0}, "run.seed=1")
    other = make_run("out/lora/seed0", "lora", {"day": 12.0})
    assert find_gain(tuned).name == "../none/seed1"
    assert find_gain(tuned).points["day"] == 2.0
    assert find_gain(other) is None


def test_broken_unfinished_or_differently_scored_runs_are_skipped(make_run):
    for name in ("a", "b", "c", "d"):
        make_run(name, "none", {})
    tuned = make_run("tuned", "lora", {})
    a, b, c, d = (RunFolder(tuned.path.parent / name) for name in ("a", "b", "c", "d"))
    a.eval.unlink()
    b.config.write_text("half a conf")
    edit(c, lambda scores: scores.update(overrides=["eval.flip=true"]))
    edit(d, lambda scores: scores["domains"]["day"]["per_image"]["names"].reverse())
    assert find_gain(tuned) is None
    edit(d, lambda scores: scores["domains"]["day"]["per_image"]["names"].reverse())
    assert find_gain(tuned).name == "d"
