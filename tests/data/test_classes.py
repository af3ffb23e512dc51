"""Class lists: read from files, checked, and given colours."""

import json

import pytest

from causalseg.data.catalogue.camvid import CAMVID11
from causalseg.data.classes import ClassList, distinct_colours, read_classes
from causalseg.errors import DataError, MissingFileError


def test_classes_are_read_without_the_ignored_ones(tmp_path):
    path = tmp_path / "classes.json"
    palette = [*CAMVID11.palette, (0, 0, 0)]
    content = {"names": [*CAMVID11.names, "void"], "palette": palette, "ignore_ids": [11]}
    path.write_text(json.dumps({**content, "note": "not read"}))
    assert read_classes(path) == CAMVID11


def test_an_ignored_class_in_the_middle_leaves_its_label_id_unused(tmp_path):
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({"names": ["road", "void", "car"], "ignore_ids": [1, 255]}))
    classes = read_classes(path)
    assert (classes.names, classes.ids, classes.ignore) == (("road", "car"), (0, 2), (1, 255))


def test_generated_colours_differ_and_do_not_depend_on_the_count():
    assert len(set(distinct_colours(64))) == 64
    assert distinct_colours(64)[:5] == distinct_colours(5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        ('{"names": []}', "names: "),
        ('{"names": ["a", "a"]}', "'a'"),
        ('{"names": ["a", "b"], "palette": [[0, 0, 0]]}', "2"),
        ('{"names": ["a"], "palette": [[0, 0]]}', "palette.0.2: "),
        ('{"names": ["a"], "palette": [[0, 0, 300]]}', r"0\.\.255"),
        ('{"names": ["a"], "ignore_ids": [0]}', "1 to 255"),
        ('{"names": ["a"], "ignore_ids": ["x"]}', "ignore_ids.0: "),
    ],
)
def test_a_broken_classes_file_is_named_with_its_fault(tmp_path, text, message):
    path = tmp_path / "classes.json"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"classes\.json: .*{message}"):
        read_classes(path)


def test_a_missing_classes_file_is_named(tmp_path):
    with pytest.raises(MissingFileError, match="nowhere"):
        read_classes(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("palette", "ids", "message"),
    [
        (((0, 0, 0),), (), "'palette'"),
        (distinct_colours(2), (0, 1, 2), "'ids'"),
        (distinct_colours(2), (0, 255), "255"),
    ],
)
def test_class_lists_that_do_not_fit_together_are_refused(palette, ids, message):
    with pytest.raises(DataError, match=message):
        ClassList(("a", "b"), palette, ids)


def test_a_byte_order_mark_is_no_fault(tmp_path):
    file = tmp_path / "classes.json"
    file.write_bytes(b"\xef\xbb\xbf" + b'{"names": ["a", "b"]}')
    assert read_classes(file).names == ("a", "b")
