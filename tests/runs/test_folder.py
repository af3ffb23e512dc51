"""The run folder's path."""

from causalseg.runs.folder import RunFolder


def test_the_home_folder_may_be_abbreviated(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunFolder("~/runs/x").config == tmp_path / "runs" / "x" / "config.yaml"
