"""Settings end to end on fabricated trees: trained, scored domain by domain, checked beforehand."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from causalseg.config.load import parse_config
from causalseg.data.catalogue import LAYOUTS
from causalseg.jobs.eval import eval_run
from causalseg.jobs.train import train_run
from causalseg.runs.folder import RunFolder
from command_line import run as command
from published_trees import PAIRS

pytestmark = pytest.mark.slow  # every test trains several runs

SPLITS = {
    "cityscapes": ("train", "val"),
    "acdc": ("night_val", "snow_val", "fog_val", "rain_val"),
    "gtav": ("train",),
    "bdd100k": ("val",),
    "mapillary_v1": ("val",),
    "idd_lite": ("val",),
}
IDS = {"cityscapes": (7, 23, 26), "gtav": (7, 23, 26), "mapillary_v1": (13, 27, 55)}
TINY = (
    "backbone={name: test_vit, weights: random}",
    "head=linear",
    "adapter={name: causal_tune, num_tokens: 4, rank: 2}",
    "train={crop: [32, 32], steps: 2, workers: 0}",
    "eval={mode: whole, pictures: 1}",
    "run={precision: 32-true, threads: 1}",
)


@pytest.fixture
def root(tmp_path):
    """All data sets in small: blocks of road, sky and car (or the ids 0, 1, 2)."""
    rng = np.random.default_rng(0)
    for name, splits in SPLITS.items():
        for pair in (pair for split in splits for pair in PAIRS[name][split]):
            ids = np.kron(rng.choice(IDS.get(name, (0, 1, 2)), (3, 4)), np.ones((16, 16)))
            image = np.repeat(8 * ids[..., None], 3, -1)
            for file, pixels in zip(pair, (image, ids), strict=True):
                path = tmp_path / "data" / name / file
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path / "data"


def train(root, setting, *overrides):
    own = (*TINY, f"data.root={root}", f"run.out={root.parent / 'run'}", *overrides)
    return train_run(parse_config({"setting": setting}, own))


def scores_of(run):
    return json.loads(run.eval.read_text())["domains"]


@pytest.mark.parametrize("batch", [1, 2])
def test_cityscapes_to_acdc_has_a_row_for_every_condition(root, batch):
    run = train(root, "citys2acdc", f"train.batch={batch}")
    scores = scores_of(run)
    assert list(scores) == ["night", "snow", "fog", "rain"]
    for name, scored in scores.items():
        assert scored["images"] == len(PAIRS["acdc"][f"{name}_val"])
        assert scored["split"] == f"acdc {name}_val"
        assert (scored["size"], scored["resized_to"]) == ([48, 64], [540, 960])
    report = run.report.read_text()
    assert "acdc night_val" in report
    assert "960 × 540" in report


@pytest.mark.slow
def test_gta_to_three_cities_is_scored_apart_and_again_on_others(root):
    run = train(root, "gta2cbm")
    images = {name: scored["images"] for name, scored in scores_of(run).items()}
    assert images == {"cityscapes": 1, "bdd100k": 1, "mapillary": 1}
    scored = ("setting=citys2acdc", f"data.root={root}", "data.only=[fog, rain]")
    assert command("eval", run.path, *scored, "--name", "acdc") == 0
    again = RunFolder(run.path, "acdc")
    assert list(scores_of(again)) == ["fog", "rain"]
    assert json.loads(again.eval.read_text())["mean"]["over"] == ["fog", "rain"]
    run = eval_run(run.path, ["data.only=[bdd100k]"], ["fog", "gaussian_noise"], [2])
    scores = scores_of(run)
    assert list(scores) == ["bdd100k", "bdd100k_fog", "bdd100k_gaussian_noise"]
    fog = {"name": "fog", "severity": 2, "clean": "bdd100k"}
    assert scores["bdd100k_fog"]["corruption"] == fog
    mean = json.loads(run.eval.read_text())["mean"]
    assert mean["over"] == ["bdd100k_fog", "bdd100k_gaussian_noise"]


def test_a_coarser_data_set_is_scored_by_its_own_classes(root):
    run = train(root, "citys2acdc", "data.domains={idd: {layout: idd_lite, split: val}}")
    scores = scores_of(run)["idd"]
    assert len(scores["iou"]) == len(scores["classes"]["names"]) == 7
    assert "idd_lite val" in run.report.read_text()


@pytest.mark.slow
def test_sources_are_drawn_by_weight_by_rare_classes_and_from_memory(root):
    sources = (
        "data.sources=[{layout: cityscapes, split: train, weight: 3, resize: [40, 50]},"
        " {layout: gtav, split: train, weight: 1}]"
    )
    train(root, "citys2acdc", sources, "data.cache=memory", "data.only=[fog]")
    rare = "data.rare_classes={min_pixels: 10}"
    train(root, "citys2acdc", rare, "data.only=[fog]", f"run.out={root.parent / 'rare'}")
    style = "train.augment={class_mix: 0.5, corrupt: {names: [fog, night]}}"
    train(root, "citys2acdc", style, "data.only=[fog]", f"run.out={root.parent / 'style'}")


@pytest.fixture
def complete(monkeypatch):
    """As if the small trees were all that is published."""
    for name, pairs in PAIRS.items():
        old = LAYOUTS[name].splits
        splits = {split: replace(old[split], count=len(pairs[split])) for split in pairs}
        monkeypatch.setitem(LAYOUTS, name, replace(LAYOUTS[name], splits=splits))


def test_data_check_walks_a_setting_and_names_what_cannot_be_used(root, complete, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert command("data", "check", "citys2acdc", "--root", root, "--sheet", sheet) == 0
    output = capsys.readouterr().out
    assert "no pixel of" in output  # the trees have few classes
    assert "all files can be read" in output
    with Image.open(sheet) as picture:
        assert picture.size[0] > 300
    _, label = PAIRS["acdc"]["fog_val"][0]
    (root / "acdc" / label).write_bytes(b"cut off")
    assert command("data", "check", "citys2acdc", "--root", root) == 2
    said = capsys.readouterr().err
    assert "domain fog" in said
    assert label in said
    assert command("data", "check", "cityscapes", "--root", root / "cityscapes") == 0
    assert "road" in capsys.readouterr().out
    assert command("data", "check", "city2acdc", "--root", root) == 2
    assert "did you mean 'citys2acdc'" in capsys.readouterr().err
