"""Class balance in a run: counted once before the first step, kept with the head, resumed."""

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import Subset

from causalseg.build import data as build_data
from causalseg.build.model import load_run
from causalseg.errors import DataError
from causalseg.jobs.eval import eval_run
from causalseg.jobs.train import train_run
from causalseg.runs.folder import RunFolder

BALANCED = ("class_weights: auto", "logit_adjustment: {tau: 0.5}")


def head(*options):
    return f"head={{name: linear, {', '.join(options)}}}"


def labelled_pixels(folder):
    labels = [np.asarray(Image.open(file)) for file in (folder / "labels").iterdir()]
    return np.bincount(np.stack(labels).ravel(), minlength=3).tolist()


@pytest.fixture
def counted(monkeypatch):
    """The data that was counted, a call each."""
    calls, original = [], build_data.count_pixels

    def count(data, *args):
        calls.append(data)
        return original(data, *args)

    monkeypatch.setattr(build_data, "count_pixels", count)
    return calls


@pytest.mark.parametrize("workers", [0, 2])
def test_the_labelled_pixels_of_the_sources_are_kept_with_the_head(tiny, folder, workers):
    run = train_run(tiny(head("class_weights: auto"), f"train.workers={workers}"))
    assert load_file(run.head)["balance.pixels"].tolist() == labelled_pixels(folder)


def test_they_are_counted_once_even_if_rare_classes_are_drawn(tiny, counted):
    run = train_run(tiny(head(*BALANCED), "data.rare_classes={min_pixels: 1}"))
    assert len(counted) == 1
    assert load_file(run.head)["balance.pixels"].sum() > 3


def test_nothing_is_counted_or_saved_without_need(tiny, counted):
    run = train_run(tiny())
    assert all(isinstance(data, Subset) for data in counted)  # a sample, to find missing classes
    assert set(load_file(run.head)) == {"classifier.weight", "classifier.bias"}


def test_a_run_is_used_without_its_sources(tiny, folder):
    run = train_run(tiny(head("logit_adjustment: {tau: 0.5, at: inference}")))
    pixels = labelled_pixels(folder)
    before = run.read_json(run.eval)["domains"]
    eval_run(run.path)
    assert run.read_json(run.eval)["domains"] == before
    folder.rename(folder.with_name("gone"))
    assert load_run(run.path).head.balance.pixels.tolist() == pixels


def test_sources_without_a_labelled_pixel_are_refused_before_a_file_is_written(tiny, folder):
    for file in (folder / "labels").iterdir():
        Image.new("L", (64, 48), 255).save(file)
    config = tiny(head("class_weights: auto"))
    with pytest.raises(DataError, match="no pixel of the sources has a class"):
        train_run(config)
    assert not RunFolder(config.run.out).path.exists()
