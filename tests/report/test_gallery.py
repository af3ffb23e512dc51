"""Pictures of a report: which are shown, how they look, and what broken ones say."""

import numpy as np
import pytest
from PIL import Image

from causalseg.errors import RunError
from causalseg.report.gallery import build_example, list_pictures
from causalseg.report.page import write_report
from causalseg.report.read import read_runs
from report.runs import NAMES, PALETTE, add_picture, html_of, images_of, make_two, text_of

COLOURS = dict(zip(NAMES, PALETTE, strict=True))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    return html_of(make_two(folder), folder)


def folders_of(runs):
    return [run.pictures / "day" for run in runs]


def test_pictures_are_small_and_errors_are_red_on_gray(page):
    photos, labels = images_of(page, "jpeg"), images_of(page, "png")
    assert len(photos) == 2 * (1 + 2)  # two examples: the image and the errors of both runs
    assert len(labels) == 2 * (1 + 2)
    assert all(picture.shape[:2] == (24, 400) for picture in (*photos, *labels))
    colours = {tuple(colour) for colour in labels[1].reshape(-1, 3).tolist()}
    assert colours == {(0, 0, 0), tuple(PALETTE[0]), tuple(PALETTE[1])}
    errors = photos[1].astype(int)
    assert np.abs(errors[20, 20] - 160).max() <= 4
    assert np.abs(errors[20, 380] - [225, 45, 45]).max() <= 12
    assert errors[1, 20].max() <= 4  # not labelled
    assert text_of(page).count("errors: 50.0 % wrong") == 4
    assert 'alt="Truth of image0: road 75 %"' in page
    assert 'alt="Predicted in image0: sky 50 %, road 38 %"' in page
    assert 'alt="Errors in image0: 50.0 % of the labelled pixels"' in page


def test_captions_say_miou_and_whether_it_is_the_best_median_or_worst_of_the_run(tmp_path):
    run = make_two(tmp_path)[0]
    for i in range(2, 6):
        add_picture(run, "day", f"image{i}")
    values = read_runs([run])[0].image_mious("day")
    ranked = sorted(values.values())
    text = text_of(html_of([run], tmp_path))
    for place, role in ((0, ", worst"), (1, " "), (3, ", median"), (5, ", best")):
        assert f"prediction: mIoU {ranked[place]:.1f}{role}" in text


def test_a_comparison_of_nothing_shared_shows_all(two, tmp_path):
    for run, name in zip(two, ("image0", "image1"), strict=True):
        for file in (run.pictures / "day").glob(f"{name}_*.png"):
            file.unlink()
    assert list_pictures(folders_of(two)) == ["image1", "image0"]
    assert text_of(html_of(two, tmp_path)).count("This run kept no such image.") == 2


def test_a_comparison_shows_complete_images_that_all_runs_have(two):
    add_picture(two[1], "day", "bonn/a")
    (two[0].pictures / "day" / "image0_prediction.png").unlink()
    assert list_pictures(folders_of(two)) == ["image1"]
    assert list_pictures(folders_of(two[:1])) == ["image1"]
    assert "bonn/a" in list_pictures(folders_of(two[1:]))


def test_what_is_predicted_as_no_class_is_black_and_wrong(two):
    folder = two[0].pictures / "day"
    Image.fromarray(np.full((48, 800), 3, np.uint8)).save(folder / "image0_prediction.png")
    example, ids = build_example([folder], "image0", COLOURS)
    assert ids == {0, 3}
    assert example.runs[0].wrong == 100
    assert example.runs[0].labels.alt == "Predicted in image0: no labelled pixels"


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("image", "no picture", "cannot read the pictures of image0"),
        ("image", Image.new("RGB", (10, 10)), "pictures of image0 differ in size"),
        ("truth", Image.new("L", (800, 48), 9), "image0 hold class 9, but there are 3 classes"),
    ],
)
def test_broken_pictures_are_one_clear_error(two, tmp_path, kind, content, message):
    file = two[0].pictures / "day" / f"image0_{kind}.png"
    if isinstance(content, str):
        file.write_text(content)
    else:
        content.save(file)
    with pytest.raises(RunError, match=message):
        write_report(two, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
