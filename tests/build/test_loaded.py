"""What `causalseg.load` returns: inputs of any kind, uncertainty, files, ensembles, threads."""

import io
import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

import causalseg
from causalseg.engine.uncertainty import entropy
from causalseg.errors import ConfigError, DataError, MissingFileError
from causalseg.jobs.train import train_run


@pytest.fixture
def path(tiny):
    return train_run(tiny("train.steps=1")).path


@pytest.fixture
def file(folder):
    return folder / "images" / "000.png"


def test_an_image_of_any_kind_gives_the_same(path, file):
    model = causalseg.load(path)
    expected = model.predict(file)
    with Image.open(file) as picture:
        pixels = np.array(picture.convert("RGB"))
    planes = torch.from_numpy(pixels).movedim(-1, 0)
    kinds = [str(file), file.read_bytes(), Image.fromarray(pixels), pixels, planes]
    kinds += [planes / 255, (pixels / 255).astype(np.float64)]
    for made in model.predict(kinds):
        assert np.array_equal(made.labels, expected.labels)
        assert np.allclose(made.confidence, expected.confidence, atol=1e-5)
        assert np.array_equal(made.image, pixels)
    assert expected.labels.shape == pixels.shape[:2]
    logits = causalseg.load_segmenter(path).logits((planes / 255)[None])
    assert logits.shape[1] == len(model.classes.names)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 5, 2), np.uint8), r"\(4, 5, 2\)"),
        (np.zeros((0, 5, 3), np.uint8), "no image"),
        (np.full((4, 5, 3), 300, np.int64), "int64 from 300"),
        (np.full((4, 5, 3), np.nan), "nan"),
        (torch.zeros(4, 5, 3), r"\(4, 5, 3\)"),
        (torch.full((3, 4, 5), 2.0), "from 2 to 2"),
        (b"", "cannot read"),
        (7, "int is no image"),
    ],
)
def test_what_is_no_image_is_refused(path, image, message):
    with pytest.raises(DataError, match=message):
        causalseg.load(path).predict(image)


def test_odd_arrays_and_broken_pictures(path, file, tmp_path):
    model = causalseg.load(path)
    pixels = np.array(Image.open(io.BytesIO(file.read_bytes())).convert("RGB"))
    flipped = model.predict(np.ascontiguousarray(pixels[:, :, ::-1]))
    assert np.array_equal(model.predict(pixels[:, :, ::-1]).labels, flipped.labels)
    half = torch.from_numpy(pixels).movedim(-1, 0).to(torch.bfloat16) / 256
    assert model.predict(half).labels.shape == pixels.shape[:2]
    (tmp_path / "cut.png").write_bytes(file.read_bytes()[:90])
    with Image.open(tmp_path / "cut.png") as cut, pytest.raises(DataError, match="that was given"):
        model.predict(cut)
    with pytest.raises(ConfigError, match="here there is cpu"):
        causalseg.load(path, device="gpu")
    with pytest.raises(ConfigError, match="opacity"):
        flipped.overlay(50)


def test_a_missing_file_or_run_is_named(path, tmp_path):
    with pytest.raises((MissingFileError, DataError), match=r"nothing\.png"):
        causalseg.load(path).predict(tmp_path / "nothing.png")
    with pytest.raises(MissingFileError, match="nowhere"):
        causalseg.load(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no run"):
        causalseg.load()


def test_images_of_one_size_are_predicted_together_and_keep_their_order(path, monkeypatch):
    model, sizes = causalseg.load(path), []
    logits = type(model.models[0]).logits

    def watched(self, images):
        sizes.append(len(images))
        return logits(self, images)

    monkeypatch.setattr(type(model.models[0]), "logits", watched)
    images = [torch.rand(3, *size) for size in ((32, 48), (32, 48), (48, 32), (32, 48))]
    together = model.predict(images)
    assert sizes == [2, 1, 1]
    for image, made in zip(images, together, strict=True):
        alone = model.predict(image)
        assert np.array_equal(made.labels, alone.labels)
        assert np.allclose(made.confidence, alone.confidence, atol=1e-5)


def test_maps_follow_their_formulas(path, file):
    model = causalseg.load(path)
    made = model.predict(file)
    image = torch.from_numpy(made.image).movedim(-1, 0).float() / 255
    with torch.no_grad():
        scores = model._score(model.models[0], image[None])[0]
    p = scores.double().softmax(0)
    k = len(p)
    assert np.allclose(made.confidence, p.amax(0), atol=1e-5)
    assert np.allclose(made.scores("entropy"), -(p * p.log()).sum(0) / math.log(k), atol=1e-5)
    assert np.allclose(made.scores("energy"), -scores.exp().sum(0).log(), atol=1e-4)
    with pytest.raises(ConfigError, match="mutual_information needs several runs"):
        made.scores("mutual_information")
    certain = torch.tensor([1.0, 0.0])[:, None, None]
    even = torch.tensor([0.5, 0.5])[:, None, None]
    assert [float(entropy(x)) for x in (certain, even)] == pytest.approx([0, 1])


def test_an_ensemble_averages_probabilities_and_says_where_it_disagrees(path, tiny, file, tmp_path):
    other = train_run(tiny("train.steps=1", "run.seed=1", f"run.out={tmp_path / 'other'}")).path
    alone = [causalseg.load(each).predict(file) for each in (path, other)]
    both = causalseg.load(path, other).predict(file)
    same = causalseg.load(path, path).predict(file)
    assert np.array_equal(same.labels, alone[0].labels)
    assert same.scores("mutual_information").max() < 1e-6
    assert both.scores("mutual_information").max() > 1e-4
    assert both.confidence.mean() <= max(each.confidence.mean() for each in alone) + 1e-6


def test_runs_of_other_classes_are_no_ensemble(path, tiny, tmp_path):
    model = causalseg.load(path)
    other = causalseg.load(path).models[0]
    object.__setattr__(other.classes, "names", tuple(reversed(other.classes.names)))
    with pytest.raises(ConfigError, match="different classes"):
        causalseg.LoadedModel([model.models[0], other], model.config)


def test_shares_pictures_and_files(path, file, tmp_path):
    made = causalseg.load(path).predict(file)
    shares = made.shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    name = next(iter(shares))
    assert shares[name] == np.mean(made.labels == made.classes.names.index(name))
    assert np.array_equal(np.array(made.overlay(opacity=0)), made.image)
    kinds = ["predictions", "colours", "confidence", "shares"]
    files = made.save(tmp_path, "street", kinds)
    assert [each.relative_to(tmp_path).as_posix() for each in files] == [
        "predictions/street.png",
        "colours/street.png",
        "confidence/street.png",
        "shares/street.json",
    ]
    assert np.array_equal(np.array(Image.open(files[0])), made.label_ids())
    palette = np.array(made.classes.palette, np.uint8)
    assert np.array_equal(np.array(Image.open(files[1])), palette[made.labels])
    assert np.abs(np.array(Image.open(files[2])) / 255 - made.confidence).max() < 0.5 / 255 + 1e-6
    assert json.loads(files[3].read_text()) == shares
    with pytest.raises(ConfigError, match="did you mean 'overlays'"):
        made.save(tmp_path, kinds=["overlay"])


def test_threads_with_images_of_different_sizes_do_not_disturb_each_other(path):
    model = causalseg.load(path)
    rng = np.random.default_rng(0)
    sizes = [(48, 64), (64, 48), (33, 70), (80, 31)] * 4
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    expected = model.predict(images)
    with ThreadPoolExecutor(4) as pool:
        for made, alone in zip(pool.map(model.predict, images), expected, strict=True):
            assert np.array_equal(made.labels, alone.labels)
