"""The spectrum of a run, of a backbone and of folders; and the band that training measures."""

import csv
import json

import pytest
import torch
import yaml

from causalseg.analysis.rings import scale_ring
from causalseg.analysis.verdict import Estimate, RingVerdict, Verdict
from causalseg.build.model import load_run
from causalseg.config.load import load_config, parse_config
from causalseg.errors import ConfigError, DataError
from causalseg.jobs.spectrum import Plan, measure_model
from causalseg.jobs.spectrum.features import BlockFeatures
from causalseg.jobs.spectrum.job import suggest_options
from causalseg.jobs.train import train_run
from command_line import run, write_yaml
from conftest import SMALL_QUERIES

SCENES = {"type": "scenes", "size": [64, 96]}
DATA = {
    "sources": [{**SCENES, "count": 10, "first": 1000}],
    "domains": {
        "clear": {**SCENES, "count": 2},
        "night": {**SCENES, "domain": "night", "count": 6},
    },
    "mean_over": ["night"],
}


@pytest.fixture
def options(tiny_options):
    train = {**tiny_options["train"], "crop": [64, 96], "steps": 2, "adapter_lr": 0.05}
    return {**tiny_options, "data": DATA, "train": train}


@pytest.fixture
def trained(options):
    adapter = "adapter={name: lora, rank: 2, targets: all}"
    return train_run(parse_config(options, [adapter])).path


def plan(options, *overrides, **wanted):
    return Plan(parse_config(options, overrides), **{"rings": 3, **wanted})


def test_everything_is_measured_on_a_run(trained, tmp_path):
    wanted = ("--against", "night", "--corrupt", "gaussian_noise", "--rings", 3)
    assert run("spectrum", trained, *wanted, "--intervene", 2, "--out", tmp_path / "s") == 0
    found = json.loads((tmp_path / "s" / "spectrum.json").read_text())
    depth = len(found["sets"]["source"]["power"])
    assert found["adapter"] == "lora"
    assert {name: entry["images"] for name, entry in found["sets"].items()} == {
        "source": 10,
        "gaussian_noise": 10,
        "night": 6,
    }
    matrices = [
        found["shift"]["gaussian_noise"],
        found["unpaired"]["night"]["auc"],
        found["classes"]["fisher"],
        found["transfer"]["gain"],
        found["interventions"]["night"]["change"]["0.0"],
    ]
    for rows in matrices:
        assert (len(rows), {len(row) for row in rows}) == (depth, {3})
    assert found["interventions"]["source"]["images"] == 2
    assert found["verdict"]["sentence"]
    with (tmp_path / "s" / "spectrum.csv").open() as file:
        lines = list(csv.DictReader(file))
    shift = [float(line["value"]) for line in lines if line["quantity"] == "shift"]
    assert shift == pytest.approx(
        [value for row in found["shift"]["gaussian_noise"] for value in row]
    )
    page = (tmp_path / "s" / "spectrum.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    for heading in (
        "Verdict",
        "Shift",
        "Which rings",
        "What the adapter does",
        "Outlier",
        "colours",
    ):
        assert heading in page


def test_without_an_edit_the_transfer_function_is_1_and_with_one_it_is_not(options, tmp_path):
    lora = "adapter={name: lora, rank: 2, targets: all}"
    config = parse_config(options, [lora])
    still = train_run(
        config.with_options("train", adapter_lr=1e-12).with_options(
            "run", out=str(tmp_path / "still")
        )
    )
    moved = train_run(config.with_options("run", out=str(tmp_path / "moved")))
    found = {
        folder.path.name: measure_model(
            Plan(load_config(folder.config), folder.path, rings=3), tmp_path / "s"
        )["transfer"]
        for folder in (still, moved)
    }
    assert torch.tensor(found["still"]["gain"]).sub(1).abs().max() < 1e-4
    assert torch.tensor(found["still"]["added"]).max() < 1e-6
    assert torch.tensor(found["moved"]["added"]).max() > 1e-4


@pytest.mark.parametrize("head", ["head=linear", SMALL_QUERIES.replace("4,", "4, blocks: 2,")])
def test_an_intervention_is_the_score_of_the_model_with_that_ring_scaled(options, tmp_path, head):
    """Against a hook of the test's own that scales the ring in a whole pass."""
    trained = train_run(parse_config(options, [head, "train.lr=0.05"])).path
    wanted = Plan(load_config(trained / "config.yaml"), trained, rings=3, intervene=10)
    found = measure_model(wanted, tmp_path / "s")["interventions"]["source"]
    model = load_run(trained)
    plain = measure_by_hand(model, wanted, None)
    assert found["miou"] == pytest.approx(plain)
    for block in (1, 4, 5):
        edited = measure_by_hand(model, wanted, (block, 0, 0.0))  # block, ring, gain
        assert found["change"]["0.0"][block][0] == pytest.approx(edited - plain, abs=1e-3)


def measure_by_hand(model, wanted, edit):
    from causalseg.engine.metrics import confusion_matrix, score
    from causalseg.jobs.spectrum.sets import open_sets

    def scale(block, inputs, output):
        prefix, patches = output[:, : -4 * 6], output[:, -4 * 6 :]
        scaled = scale_ring(patches.unflatten(1, (4, 6)), edit[1], 3, edit[2])
        return torch.cat([prefix, scaled.flatten(1, 2)], 1)

    handle = model.backbone.vit.blocks[edit[0]].register_forward_hook(scale) if edit else None
    total = 0
    images = open_sets(wanted, (64, 96)).reference
    for index in range(len(images)):
        sample = images[index]
        predicted = model.logits(sample.image[None]).argmax(1)[0]
        total = total + confusion_matrix(predicted, sample.label, len(model.classes.names))
    if handle:
        handle.remove()
    return score(total, model.classes.names)["miou"]


def test_features_are_those_after_the_adapter_and_the_model_is_left_as_it_was(trained):
    model = load_run(trained)
    image = torch.rand(1, 3, 64, 96)
    before = model.logits(image)
    blocks = BlockFeatures(model.backbone)
    last = blocks(image)[max(model.backbone.levels)]
    assert torch.equal(last.movedim(-1, 1), model.backbone(image)[-1])
    blocks.remove()
    assert torch.equal(model.logits(image), before)


def test_a_backbone_is_measured_on_folders_without_labels(folder, tmp_path):
    arguments = ("--backbone", "test_vit", "backbone.weights=random", "--data", folder / "images")
    assert run("spectrum", *arguments, "--size", 64, 96, "--out", tmp_path / "s") == 0
    found = json.loads((tmp_path / "s" / "spectrum.json").read_text())
    assert (found["classes"], found["verdict"], found["transfer"]) == (None, None, None)
    assert any("Without labels" in note for note in found["notes"])
    assert not (tmp_path / "s" / "band.yaml").exists()


def test_a_grid_too_small_for_a_ring_is_said(options, tmp_path):
    found = measure_model(plan(options, rings=12, size=(32, 48)), tmp_path / "s")
    empty = found["coefficients"].index(0)
    assert found["sets"]["source"]["power"][0][empty] is None
    assert any("no frequency in ring" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--against", "nigth"), "night"),
        (("--corrupt", "fogg"), "fog"),
        (("--corrupt", "fog", "--severity", 6), "severity 6"),
        (("--rings", 40), "32"),
        (("--intervene", 2), "trained run"),
        (("--backbone", "test_vit"), "one run"),
    ],
)
def test_wrong_options_are_named(options, tmp_path, capsys, arguments, named):
    file = write_yaml(tmp_path / "x.yaml", {**options, "adapter": "none"})
    del_rate = "train.adapter_lr=null"
    assert run("spectrum", file, del_rate, *arguments, "--out", tmp_path / "s") == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_suggested_options_are_taken_by_a_configuration(options):
    ring = RingVerdict(*[Estimate(0.0, 0.0, 0.0)] * 2, Estimate(2.0, 2.0, 2.0), True)
    verdict = Verdict([ring], 0.177, 0.884, (0.4, 1.6), None)
    suggested = yaml.safe_load(yaml.safe_dump(suggest_options(verdict)))
    config = parse_config({**options, **suggested})
    assert (config.adapter.band.low, config.adapter.band.high) == (0.177, 0.884)
    assert (config.intervene.low_gain, config.intervene.high_gain) == ((0.4, 1.6), None)
    assert suggest_options(verdict._replace(low=None, high=None)) == {}


def test_the_band_is_measured_before_training_and_kept(options, tmp_path, monkeypatch):
    from causalseg.jobs.spectrum import auto

    verdict = Verdict([], None, 0.53, None, (0.5, 1.5))
    monkeypatch.setattr(auto, "judge_sources", lambda *_: verdict)
    causal = "adapter={name: causal_lora, rank: 2, band: auto}"
    config = parse_config(options, [causal, "run.best=null"])
    folder = train_run(config)
    stored = load_config(folder.config).adapter.band
    assert (stored.auto, stored.low, stored.high) == (True, None, 0.53)
    assert load_run(folder.path).adapter.options.band.high == 0.53
    # Resumed with the same file, it is not measured again.
    monkeypatch.setattr(auto, "judge_sources", None)
    longer = config.with_options("train", steps=2).with_options("run", resume=True)
    assert load_config(train_run(longer).config).adapter.band == stored


def test_measuring_the_band_looks_at_the_frozen_backbone(options, tmp_path):
    """Every method gets the same band, whatever its initialisation."""
    bands = []
    for name in ("causal_lora", "causal_tune"):
        adapter = f"adapter={{name: {name}, rank: 2, band: auto}}"
        here = f"run.out={tmp_path / name}"
        folder = train_run(parse_config(options, [adapter, here]))
        band = load_config(folder.config).adapter.band
        assert band.auto
        assert not band.is_open
        bands.append((band.low, band.high))
    assert bands[0] == bands[1]


def test_a_band_cannot_be_measured_on_few_images(options):
    data = {**DATA, "sources": [{**SCENES, "count": 4, "first": 1000}]}
    with pytest.raises(DataError, match="10 training images"):
        train_run(
            parse_config({**options, "data": data}, ["adapter={name: causal_lora, band: auto}"])
        )


@pytest.mark.parametrize(
    ("adapter", "named"),
    [
        ("{name: causal_lora, band: {auto: true, low: 0.1}}", "leave both out"),
        ("{name: causal_lora, band: auto, split: {low: 1}}", "band=auto"),
        ("{name: causal_tune, band: auto, transform: haar}", "haar"),
    ],
)
def test_what_a_measured_band_cannot_be_used_with_is_refused(options, adapter, named):
    with pytest.raises(ConfigError, match=named):
        parse_config(options, [f"adapter={adapter}"])
