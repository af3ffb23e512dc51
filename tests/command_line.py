"""The command line as a user calls it, in this process."""

import sys
from pathlib import Path

import pytest
import yaml

from causalseg import cli


def run(*arguments: object) -> int:
    """Call it; returns its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["causalseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
            raise SystemExit(0)
    return caught.value.code or 0


def write_yaml(file: Path, content: dict) -> Path:
    file.write_text(yaml.safe_dump(content))
    return file
