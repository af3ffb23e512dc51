"""A tiny comparison: its configuration, methods, plan and command."""

import sys

import pytest

from causalseg.jobs.compare.methods import read_methods
from causalseg.jobs.compare.study import plan_study
from command_line import write_yaml


@pytest.fixture
def config(tiny_options, tmp_path):
    """A configuration file without adapter, two steps long."""
    del tiny_options["adapter"]
    tiny_options["train"]["steps"] = 2
    return write_yaml(tmp_path / "tiny.yaml", tiny_options)


@pytest.fixture
def methods(tmp_path):
    small = {"name": "causal_tune", "num_tokens": 4, "rank": 2}
    content = {"tuned": {"adapter": small}, "none": {"adapter": "none"}}
    return write_yaml(tmp_path / "methods.yaml", content)


@pytest.fixture
def plan(config, methods, tmp_path):
    """Plan a study of `none` and `tuned` below tmp_path/out."""

    def plan(*overrides, names=("none", "tuned"), seeds=(0,), reference=None):
        chosen = read_methods(names, methods)
        return plan_study(config, overrides, chosen, seeds, reference, tmp_path / "out")

    return plan


@pytest.fixture
def command(config, methods, tmp_path):
    """Return the command that runs this study in a process of its own."""
    line = [sys.executable, "-m", "causalseg", "compare", config, "--methods", methods]
    line += ["--adapters", "none,tuned", "--out", tmp_path / "out"]
    return lambda *more: [*map(str, line), *more]
