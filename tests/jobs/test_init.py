"""`run.init`: a training that begins with the weights of another run."""

import shutil

import pytest
import torch

import causalseg
from causalseg.errors import ConfigError, MissingFileError, WeightsError
from causalseg.jobs.train import train_run
from causalseg.runs.packed import pack_run

STILL = ("train.steps=1", "train.lr=1e-12", "train.adapter_lr=1e-12", "train.weight_decay=0")


def weights(run):
    model = causalseg.load_segmenter(run.path)
    return {name: dict(part.state_dict()) for name, part in model.trainable().items()}


def is_near(one, other):
    return all(torch.allclose(one[key], other[key], atol=1e-6) for key in one)


@pytest.fixture
def first(tiny):
    return train_run(tiny("train.steps=2", "train.lr=0.1", "train.adapter_lr=0.1"))


def test_adapter_and_head_are_taken_from_a_folder_or_a_packed_run(first, tiny, tmp_path, caplog):
    pack_run(first, str(tmp_path / "x.zip"))
    before = weights(first)
    for index, place in enumerate((first.path, tmp_path / "x.zip")):
        options = [f"run.init={place}", f"run.out={tmp_path / str(index)}", "run.seed=5"]
        after = weights(train_run(tiny(*STILL, *options)))
        assert is_near(before["head"], after["head"])
        assert is_near(before["adapter"], after["adapter"])
    fresh = weights(train_run(tiny(*STILL, f"run.out={tmp_path / 'fresh'}", "run.seed=5")))
    assert not is_near(before["head"], fresh["head"])


def test_with_other_classes_the_head_is_new_and_trains(first, tiny, folder, tmp_path):
    other = ["data.classes=[road, sky]", "data.ignore=2", f"run.init={first.path}"]
    still = train_run(tiny(*STILL, *other, f"run.out={tmp_path / 'still'}"))
    assert is_near(weights(first)["adapter"], weights(still)["adapter"])
    assert weights(still)["head"]["classifier.bias"].shape == (2,)
    longer = train_run(tiny(*other, "train.lr=0.01", f"run.out={tmp_path / 'longer'}"))
    before, after = weights(still)["head"], weights(longer)["head"]
    assert not is_near(before, after)
    assert all(value.isfinite().all() for value in after.values())


def test_a_resumed_run_does_not_begin_again(first, tiny, tmp_path):
    options = [f"run.init={first.path}", f"run.out={tmp_path / 'second'}"]
    second = train_run(tiny(*options))
    before = weights(second)
    shutil.rmtree(first.path)
    second.head.unlink()
    again = weights(train_run(tiny(*options, "run.resume=true")))
    assert all(torch.equal(before["head"][key], again["head"][key]) for key in before["head"])


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["run.init=nowhere"], MissingFileError, "nowhere"),
        (["adapter.rank=3"], WeightsError, "rank"),
        (
            ["adapter=none", "data.classes=[road, sky]", "data.ignore=2"],
            ConfigError,
            "nothing else",
        ),
        (["backbone.name=vit_tiny_patch16_224"], ConfigError, "backbone"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_written(
    first, tiny, tmp_path, overrides, error, message
):
    out = tmp_path / "second"
    with pytest.raises(error, match=message):
        train_run(tiny(f"run.init={first.path}", f"run.out={out}", *overrides))
    assert not out.exists()
