"""A run knows the weight file it was made with, by its checksum."""

import hashlib

import pytest
import timm
import torch
from safetensors.torch import save_file

from causalseg.config.load import load_config
from causalseg.errors import WeightsError
from causalseg.jobs.eval import eval_run
from causalseg.jobs.train import train_run


def write_weights(path, seed):
    torch.manual_seed(seed)
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), path)


@pytest.fixture
def run(tiny, tmp_path):
    """A finished run and its weight file."""
    file = tmp_path / "backbone.safetensors"
    write_weights(file, seed=0)
    return train_run(tiny(f"backbone.weights={file}")), file


def test_a_run_notes_the_checksum_and_goes_on_with_its_own_file_only(run, tiny):
    folder, file = run
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert load_config(folder.config).backbone.sha256 == sha256
    resume = (f"backbone.weights={file}", "run.resume=true", "train.steps=6")
    write_weights(file, seed=1)
    with pytest.raises(WeightsError, match=r"checksum is .* backbone\.sha256 says"):
        train_run(tiny(*resume))
    write_weights(file, seed=0)
    train_run(tiny(*resume))
    assert [e["step"] for e in folder.read_log() if e["event"] == "train"][-1] == 6


def test_a_run_is_scored_with_its_own_file_unless_told_otherwise(run):
    folder, file = run
    eval_run(folder.path)
    write_weights(file, seed=1)
    with pytest.raises(WeightsError, match="give the file that the run was made with"):
        eval_run(folder.path)
    eval_run(folder.path, ["backbone.sha256=null"])
