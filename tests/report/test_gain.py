"""What an adapter gained: which run counts as the head alone, and what is said of it."""

import json
import shutil

import pytest

from causalseg.config.load import dump_config, parse_config
from causalseg.report.card import write_card
from causalseg.report.gain import find_gain
from causalseg.runs.folder import RunFolder
from fabricated import DOMAINS, make_confusions, make_domain, make_scores


@pytest.fixture
def make_run(tiny_options, tmp_path):
    """Fabricate a finished run; mIoU by domain, whose mean is over `over`."""

    def make_run(name, adapter, mious, *overrides, over=("day", "night")):
        options = {**tiny_options, "adapter": adapter}
        config = parse_config(options, [f"run.out={tmp_path / name}", *overrides])
        run = RunFolder(tmp_path / name)
        run.path.mkdir(parents=True)
        run.config.write_text(dump_config(config))
        domains = {
            domain: make_domain(make_confusions(0.8, images, 0))
            for domain, images in DOMAINS.items()
        }
        for domain, miou in mious.items():
            domains[domain]["miou"] = miou
        run.eval.write_text(json.dumps(make_scores(domains, over=list(over))))
        return run

    return make_run


def test_the_gain_is_the_difference_in_every_domain_and_of_the_mean(make_run, tmp_path):
    tuned = make_run("tuned", "lora", {"day": 50.0, "night": 40.0})
    assert find_gain(tuned) is None
    none = make_run("none_seed0", "none", {"day": 49.5, "night": 31.5})
    gain = find_gain(tuned)
    assert (gain.folder, gain.name) == (none.path, "none_seed0")
    assert gain.points == {"day": 0.5, "night": 8.5, "mean": 4.5}
    assert gain.text == "day +0.5, night +8.5, mean +4.5"
    assert find_gain(none) is None


def test_a_mean_of_one_domain_is_not_repeated_and_a_loss_has_its_sign(make_run):
    make_run("none", "none", {"night": 41.0}, over=["night"])
    tuned = make_run("tuned", "lora", {"night": 40.0}, over=["night"])
    assert find_gain(tuned).points == {"day": 0.0, "night": -1.0}
    assert find_gain(tuned).text.endswith("night −1.0")


@pytest.mark.parametrize(
    "override",
    ["train.steps=9", "train.lr=0.5", "run.seed=1", "eval.flip=true", "head=mask2former"],
)
def test_a_run_that_differs_in_more_is_no_baseline(make_run, override):
    make_run("none", "none", {}, override, *(["train.crop=[64, 64]"] if "mask" in override else []))
    assert find_gain(make_run("tuned", "lora", {})) is None


def test_what_does_not_change_a_score_may_differ(make_run):
    free = ("run.threads=2", "train.workers=1", "eval.pictures=0", "run.precision=auto")
    make_run("none", "none", {}, *free)
    tuned = make_run("tuned", "lora", {}, "train.adapter_lr=0.01", "intervene=dsu")
    assert find_gain(tuned) is not None


def test_an_intervention_alone_is_not_the_head_alone(make_run):
    make_run("none", "none", {}, "intervene=dsu")
    assert find_gain(make_run("tuned", "lora", {}, "intervene=dsu")) is None


def test_cells_of_a_comparison_find_the_one_of_their_seed(make_run):
    make_run("out/none/seed1", "none", {"day": 10.0}, "run.seed=1")
    tuned = make_run("out/lora/seed1", "lora", {"day": 12.0}, "run.seed=1")
    other = make_run("out/lora/seed0", "lora", {"day": 12.0})
    assert find_gain(tuned).name == "../none/seed1"
    assert find_gain(tuned).points["day"] == 2.0
    assert find_gain(other) is None


def test_broken_unfinished_or_otherwise_scored_runs_are_passed_over(make_run):
    for name in ("a", "b", "c", "d"):
        make_run(name, "none", {})
    tuned = make_run("tuned", "lora", {})
    root = tuned.path.parent
    (root / "a" / "eval.json").unlink()
    (root / "b" / "config.yaml").write_text("half a conf")
    scores = json.loads((root / "c" / "eval.json").read_text())
    (root / "c" / "eval.json").write_text(json.dumps({**scores, "overrides": ["eval.flip=true"]}))
    scores["domains"]["day"]["per_image"]["names"][0] = "another"
    (root / "d" / "eval.json").write_text(json.dumps(scores))
    assert find_gain(tuned) is None
    shutil.rmtree(root / "d")
    make_run("d", "none", {})
    assert find_gain(tuned).name == "d"


def test_the_model_card_says_it(make_run, tiny):
    make_run("none", "none", {"day": 40.0, "night": 30.0})
    tuned = make_run("tuned", "lora", {"day": 50.0, "night": 40.0})
    write_card(tuned, tiny())
    line = (
        "over the frozen backbone without adapter (run `none`, otherwise the same): day +10.0, "
        "night +10.0, mean +10.0."
    )
    assert line in tuned.card.read_text()
    shutil.rmtree(tuned.path.parent / "none")
    write_card(tuned, tiny())
    assert "without adapter" not in tuned.card.read_text()
