"""The limits on sizes and names hold where they are exceeded, and the offender is named."""

import pytest

from check_sizes import check_file, check_package


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("\n" * 401, "401 lines, 400 allowed"),
        ("def long():\n" + "    pass\n" * 60, "long: 61 lines, 60 allowed"),
        (f"def wide({', '.join('abcdefghij')}): ...", "wide: 10 parameters, 9 allowed"),
    ],
)
def test_what_is_too_large_is_named(tmp_path, text, finding):
    (line,) = check_file(tmp_path / "a.py", text)
    assert finding in line


def test_a_public_class_with_a_name_in_use_is_named_and_a_private_one_is_not(tmp_path):
    files = [tmp_path / "a.py", tmp_path / "b.py"]
    files[0].write_text("class Twice: ...\nclass Path: ...\nclass _Own: ...\n")
    files[1].write_text("class Twice: ...\nclass _Own: ...\n")
    twice, library = check_package(files, ["pathlib"])
    assert "Twice" in twice
    assert "a.py" in twice
    assert "b.py" in twice
    assert "Path" in library
    assert "pathlib" in library
