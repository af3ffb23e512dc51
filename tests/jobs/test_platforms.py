"""Commands import where the modules of POSIX do not exist."""

import subprocess
import sys

import pytest

# Libraries choose by platform, and psutil needs `resource` on Linux: only our own imports fail.
CODE = """
import builtins
original = builtins.__import__
def refuse(name, globals=None, *rest, **named):
    is_ours = (globals or {}).get("__name__", "").startswith("causalseg")
    if is_ours and name in ("fcntl", "resource"):
        raise ImportError(name)
    return original(name, globals, *rest, **named)
builtins.__import__ = refuse
import torch
import causalseg.jobs.train, causalseg.jobs.predict, causalseg.jobs.compare.study
from causalseg.engine.meter import peak_memory
assert peak_memory(torch.device("cpu")) >= 0
"""


@pytest.mark.slow
def test_commands_import_without_modules_of_posix():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
