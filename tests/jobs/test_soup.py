"""Averaged weights: their values, the choice of a factor, what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file

from causalseg.build.model import build_segmenter, load_run
from causalseg.config.load import dump_config, load_config
from causalseg.errors import ConfigError, RunError
from causalseg.jobs.eval import eval_run
from causalseg.jobs.soup import make_soup
from causalseg.jobs.train import train_run
from causalseg.runs.folder import RunFolder
from causalseg.runs.scores import read_scores
from causalseg.writing import write_text
from command_line import run

LORA = "adapter={name: lora, rank: 2, targets: all}"
SEEN = 'data.mean_over=["there"]'


@pytest.fixture
def configure(tiny, tmp_path):
    def configure(name, seed, *overrides):
        here = (f"run.out={tmp_path / name}", f"run.seed={seed}", "train.steps=2", SEEN)
        return tiny(*here, "train.adapter_lr=0.01", *overrides)

    return configure


@pytest.fixture
def train(configure):
    return lambda *options: train_run(configure(*options)).path


@pytest.fixture
def pretend(configure):
    """A run folder with the configuration alone: refusals need no more."""

    def write(*options):
        run = RunFolder((config := configure(*options)).run.out)
        write_text(run.config, dump_config(config))
        return run.path

    return write


def weights(folder, part="adapter"):
    return load_file(folder / f"{part}.safetensors")


def test_a_soup_is_the_mean_of_its_runs_and_a_run_like_others(train, tmp_path):
    runs = [train(f"run{seed}", seed, LORA, "run.init_seed=7") for seed in (1, 2)]
    made = make_soup(runs, tmp_path / "soup")
    for part in ("adapter", "head"):
        first, second, mean = (weights(path, part) for path in (*runs, tmp_path / "soup"))
        assert not torch.equal(next(iter(first.values())), next(iter(second.values())))
        for key, value in mean.items():
            assert torch.allclose(value, (first[key] + second[key]) / 2, atol=1e-7)
    before = read_scores(made.run)
    assert before.domains["here"].miou is not None
    assert read_scores(eval_run(made.run.path)).domains == before.domains
    assert load_run(made.run.path).logits(torch.rand(1, 3, 32, 48)).shape == (1, 3, 32, 48)
    for page in (made.run.card, made.run.report):
        assert "average of" in page.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [LORA, "adapter={name: soma, rank: 2}", "adapter=causal_tune"])
def test_a_factor_of_0_is_the_frozen_backbone_and_of_1_the_run(train, tmp_path, adapter):
    path = train("run", 1, adapter)
    images = torch.rand(1, 3, 32, 48)
    for factor in (0, 1):
        made = make_soup([path], tmp_path / f"factor{factor}", [factor])
        features = load_run(made.run.path).backbone(images)
        expected = (
            load_run(path) if factor else build_segmenter(load_config(RunFolder(path).config))
        )
        for ours, theirs in zip(features, expected.backbone(images), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)
        assert torch.equal(
            *(weights(p, "head")["classifier.weight"] for p in (path, made.run.path))
        )


def test_the_best_factor_on_a_source_domain_is_taken(train, tmp_path, capsys):
    path = train("run", 1, LORA)
    out = tmp_path / "soup"
    choice = ("--factors", "0,0.5,1", "--metric", "here.miou")
    assert run("soup", path, *choice, "--out", out) == 0
    assert "factor" in capsys.readouterr().out
    about = json.loads(RunFolder(out).origin.read_text())
    tried = {float(factor): value for factor, value in about["tried"].items()}
    assert set(tried) == {0.0, 0.5, 1.0}
    assert tried[about["factor"]] == max(tried.values())
    assert read_scores(RunFolder(out)).miou_of("here") == pytest.approx(max(tried.values()))


def test_runs_that_cannot_be_averaged_are_refused(pretend, tmp_path):
    one = pretend("one", 1, LORA)
    out = tmp_path / "out"
    other_seed = pretend("two", 2, LORA)
    with pytest.raises(RunError, match="run.init_seed"):
        make_soup([one, other_seed], out)
    with pytest.raises(RunError, match="train.lr"):
        make_soup([one, pretend("three", 1, LORA, "train.lr=0.5")], out)
    with pytest.raises(RunError, match="given twice"):
        make_soup([one, one], out)
    RunFolder(one).head.touch()
    with pytest.raises(RunError, match="already holds a run"):
        make_soup([one], one)
    assert not out.exists()


@pytest.mark.parametrize(
    ("factors", "metric", "message"),
    [
        ([0.5, 1], None, "need a metric"),
        ([0.5, 1], "there.miou", "unseen domain"),
        ([1.5], None, "from 0 to 1"),
        ([1.0], "here.miou", "no effect on a single factor"),
    ],
)
def test_factors_that_cannot_be_chosen_are_refused(pretend, tmp_path, factors, metric, message):
    path = pretend("run", 1, LORA)
    with pytest.raises(ConfigError, match=message):
        make_soup([path], tmp_path / "out", factors, metric)


def test_a_factor_needs_an_adapter(pretend, tmp_path):
    path = pretend("run", 1, "adapter=none", "train.adapter_lr=null")
    with pytest.raises(ConfigError, match="without an adapter"):
        make_soup([path], tmp_path / "out", [0.5])
