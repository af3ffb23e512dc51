"""Georeferenced TIFFs: window by window, in their place, without the pixels that hold nothing."""

import json

import numpy as np
import pytest
import rasterio

import causalseg
from causalseg.errors import DataError
from causalseg.jobs.predict import predict_run
from causalseg.jobs.raster import is_raster
from causalseg.jobs.train import train_run

KINDS = ("predictions", "overlays", "confidence", "shares")
PLACE = rasterio.Affine(0.3, 0, 451_000, 0, -0.3, 4_612_000)
pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # rasterio's own


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (3, 150, 210), dtype=np.uint8)


@pytest.fixture
def run(tiny):
    windows = "eval={mode: slide, window: [64, 96], stride: [32, 48]}"
    return train_run(tiny("train.steps=3", "train.lr=0.05", windows)).path


def write(file, pixels, mask=None):
    count, height, width = pixels.shape
    about = {"count": count, "height": height, "width": width, "dtype": pixels.dtype}
    with rasterio.open(file, "w", crs="EPSG:32633", transform=PLACE, **about) as target:
        target.write(pixels)
        if mask is not None:
            target.write_mask(mask)


def test_every_pixel_is_predicted_once_and_in_its_place(run, pixels, tmp_path):
    mask = np.full(pixels.shape[1:], 255, np.uint8)
    mask[100:, :50] = 0
    write(tmp_path / "a.tif", pixels, mask)
    assert is_raster(tmp_path / "a.tif")
    assert predict_run(run, tmp_path / "a.tif", tmp_path / "out", kinds=KINDS) == (1, 0)
    assert predict_run(run, tmp_path / "a.tif", tmp_path / "out", kinds=KINDS) == (0, 1)
    with rasterio.open(tmp_path / "out/predictions/a.tif") as made:
        ids, band = made.read(1), made.dtypes[0]
        assert (made.crs.to_epsg(), made.transform, made.nodata) == (32633, PLACE, 255)
    assert (ids.shape, band) == ((150, 210), "uint8")
    assert (ids[mask == 0] == 255).all()
    assert (ids[mask > 0] < 3).all()
    corner = causalseg.load(run).predict(np.moveaxis(pixels[:, :64, :96], 0, -1))
    assert np.array_equal(ids[:48, :72], corner.labels[:48, :72])  # the middle of the overlap
    with rasterio.open(tmp_path / "out/overlays/a.tif") as made:
        assert made.count == 3
        assert np.array_equal(
            made.read()[:, :48, :72], np.moveaxis(np.array(corner.overlay()), -1, 0)[:, :48, :72]
        )
    shares = json.loads((tmp_path / "out/shares/a.json").read_text())
    counts = np.bincount(ids[mask > 0], minlength=3) / (mask > 0).sum()
    assert shares == pytest.approx(
        {n: c for n, c in zip(["flat", "thing", "sky"], counts, strict=True) if c}
    )


def test_a_small_one_is_one_window_and_a_plain_tiff_is_an_image(run, pixels, tmp_path, folder):
    write(tmp_path / "small.tif", pixels[:, :40, :50])
    predict_run(run, tmp_path / "small.tif", tmp_path / "out")
    with rasterio.open(tmp_path / "out/predictions/small.tif") as made:
        expected = causalseg.load(run).predict(np.moveaxis(pixels[:, :40, :50], 0, -1))
        assert np.array_equal(made.read(1), expected.label_ids())
    expected.overlay().save(tmp_path / "plain.tif")
    assert not is_raster(tmp_path / "plain.tif")
    predict_run(run, tmp_path / "plain.tif", tmp_path / "out")
    assert (tmp_path / "out/predictions/plain.png").is_file()


def test_what_cannot_be_read_is_named_and_leaves_nothing(run, pixels, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    write(photos / "deep.tif", pixels.astype(np.uint16))
    write(photos / "cut.tif", pixels)
    content = (photos / "cut.tif").read_bytes()
    (photos / "cut.tif").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="2 of 2 images") as caught:
        predict_run(run, photos, tmp_path / "out")
    assert "three of uint8 are needed" in str(caught.value)
    assert "cut.tif" in str(caught.value)
    assert not list((tmp_path / "out").rglob("*.tif"))
    (photos / "stub.tif").write_bytes(b"II*\0\x01")
    assert not is_raster(photos / "stub.tif")


@pytest.mark.parametrize(("ids", "ignore"), [([0, 1, 2], [65535]), ([0, 1, 255], [])])
def test_no_data_is_no_class_and_fits_the_file(tiny, pixels, tmp_path, ids, ignore):
    pair = "{images: images, labels: labels, id_map: {0: 0, 1: 1, 2: 2}}"
    classes = f"data.classes={{names: [flat, thing, sky], ids: {ids}, ignore: {ignore}}}"
    options = (classes, f"data.domains={{here: {pair}}}", f"data.sources=[{pair}]")
    run = train_run(tiny("train.steps=1", *options)).path
    write(tmp_path / "a.tif", pixels[:, :40, :50], np.zeros((40, 50), np.uint8))
    predict_run(run, tmp_path / "a.tif", tmp_path / "out")
    with rasterio.open(tmp_path / "out/predictions/a.tif") as made:
        assert made.dtypes[0] == "uint16"
        assert made.nodata == 65535
        assert (made.read(1) == 65535).all()
