"""eval.json: its schema holds what is written, and refuses what is not."""

import json

import numpy as np
import pytest

from causalseg.data.classes import ClassList
from causalseg.engine.prediction import label_ids
from causalseg.errors import RunError
from causalseg.runs.folder import RunFolder
from causalseg.runs.scores import Scores, read_scores, write_scores
from causalseg.writing import write_text
from fabricated import make_confusions, make_domain, make_scores


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "run")
    content = make_scores({"day": make_domain(make_confusions(0.8, 5, 0))})
    write_scores(run, Scores.model_validate(content))
    return run


def test_what_is_written_is_read_again(run):
    written = run.eval.read_text()
    scores = read_scores(run)
    assert scores.version == 2
    assert scores.domains["day"].images == 5
    assert "overrides" not in json.loads(written)
    write_scores(run, scores)
    assert run.eval.read_text() == written


def test_how_images_were_predicted_is_read_from_earlier_versions(run):
    content = json.loads(run.eval.read_text())
    how = {"mode": "whole", "resized_to": [10, 20], "flip": False, "scales": [1.0]}
    run.checksums.unlink()  # earlier versions wrote none
    run.eval.write_text(json.dumps({**content, "version": 1, "inference": how}))
    inference = read_scores(run).inference
    assert inference.size == (10, 20)
    assert inference.describe() == "whole images resized to 20 × 10 px"


MISFIT = "counts of domain 'day' do not fit its 3 classes"


def day(content):
    return content["domains"]["day"]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda c: c.update(version=3), "version"),
        (lambda c: c.pop("version"), "version"),
        (lambda c: day(c).update(miou=101.0), "domains.day.miou"),
        (lambda c: day(c).update(mioo=1.0), "domains.day.mioo"),
        (lambda c: day(c)["per_image"].update(counts=["1 x"]), "per_image.counts.0"),
        (lambda c: c["mean"].update(over=["fog"]), "'fog', which was not scored"),
        (lambda c: day(c)["per_image"]["counts"].pop(), MISFIT),
        (lambda c: day(c)["per_image"]["counts"].__setitem__(0, "1 2 3"), MISFIT),
        (lambda c: day(c)["confusion"].__setitem__(0, "1 2 3 4 5"), MISFIT),
        (lambda c: day(c)["confusion"].pop(), MISFIT),
    ],
)
def test_another_content_or_counts_of_other_classes_are_refused_by_their_place(run, change, place):
    content = json.loads(run.eval.read_text())
    change(content)
    run.eval.write_text(json.dumps(content))
    with pytest.raises(RunError, match=f"{place}.*causalseg eval"):
        read_scores(run)


def test_none_of_the_classes_has_the_label_id_that_is_ignored():
    classes = ClassList(("a", "b"), ((0, 0, 0), (1, 1, 1)), (7, 9), (0,))
    assert label_ids(np.array([[0, 1, 2]]), classes).tolist() == [[7, 9, 0]]


def test_a_file_in_place_of_a_folder_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_text(tmp_path / "file" / "within" / "a.txt", "text")
