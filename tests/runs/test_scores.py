"""eval.json: its schema holds what is written, and refuses what is not."""

import json

import pytest
import torch

from causalseg.data.classes import ClassList
from causalseg.errors import RunError
from causalseg.jobs.eval import label_ids
from causalseg.runs.folder import RunFolder
from causalseg.runs.scores import Scores, describe_inference, read_scores, write_scores
from causalseg.writing import write_text
from fabricated import make_confusions, make_domain, make_scores


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "run")
    write_scores(run, make_scores({"day": make_domain(make_confusions(0.8, 5, 0))}))
    return run


def test_what_is_written_is_read_again(run):
    scores = read_scores(run)
    assert scores == json.loads(run.eval.read_text())
    assert scores["version"] == 2
    assert "overrides" not in scores
    assert scores["domains"]["day"]["images"] == 5


def test_how_images_were_predicted_is_read_from_earlier_versions(run):
    content = json.loads(run.eval.read_text())
    how = {"mode": "whole", "resized_to": [10, 20], "flip": False, "scales": [1.0]}
    run.eval.write_text(json.dumps({**content, "version": 1, "inference": how}))
    scores = read_scores(run)
    assert scores["inference"]["size"] == [10, 20]
    assert describe_inference(how) == describe_inference(scores["inference"])


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda c: c.update(version=3), "version"),
        (lambda c: c.pop("version"), "version"),
        (lambda c: c["domains"]["day"].update(miou=101.0), "domains.day.miou"),
        (lambda c: c["domains"]["day"].update(mioo=1.0), "domains.day.mioo"),
        (lambda c: c["domains"]["day"]["per_image"].update(counts=["1 x"]), "per_image.counts.0"),
    ],
)
def test_another_content_is_refused_by_its_place(run, change, place):
    content = json.loads(run.eval.read_text())
    change(content)
    run.eval.write_text(json.dumps(content))
    with pytest.raises(RunError, match=f"{place}.*causalseg eval"):
        read_scores(run)


def test_what_is_no_text_is_one_clear_error(run):
    run.eval.write_bytes(b"\xff\xfe{")
    with pytest.raises(RunError, match="not valid JSON"):
        read_scores(run)


def test_none_of_the_classes_has_the_label_id_that_is_ignored():
    classes = ClassList(("a", "b"), ((0, 0, 0), (1, 1, 1)), (7, 9), (0,))
    assert label_ids(torch.tensor([[0, 1, 2]]), classes).tolist() == [[7, 9, 0]]


def test_the_schema_names_every_score():
    schema = Scores.model_json_schema()
    named = schema["$defs"]["DomainScores"]["properties"]
    assert {"miou", "miou_all", "fwiou", "boundary_iou", "calibration", "confusion"} <= named.keys()
    assert schema["properties"]["version"]["enum"] == [1, 2]


def test_a_file_in_place_of_a_folder_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_text(tmp_path / "file" / "within" / "a.txt", "text")
