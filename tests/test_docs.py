"""What README, docs and examples show is true: commands parse, configurations load, code runs."""

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from causalseg import cli
from causalseg.config.load import parse_config
from causalseg.jobs.compare.methods import read_methods
from causalseg.jobs.train import train_run

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
# onnx_predict needs an exported file: tests/jobs/test_export.py makes one.
EXAMPLES = sorted(set(ROOT.glob("examples/*.py")) - {ROOT / "examples" / "onnx_predict.py"})
CONFIGS = sorted(file for file in ROOT.glob("configs/*.yaml") if "methods" not in file.stem)
OVERRIDABLE = ("train", "eval", "predict", "show")


def blocks(page, language):
    """Return the code blocks of a page in one language; "" are the unmarked ones."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def shown(language, pages=tuple(PAGES)):
    return [
        pytest.param(text, id=f"{page.name}-{index}")
        for page in pages
        for index, text in enumerate(blocks(page, language))
    ]


def shown_commands():
    """All `causalseg ...` lines in code blocks, and inline commands that have an argument."""
    commands = []
    for page in PAGES:
        lines = [line for text in blocks(page, "") for line in text.splitlines()]
        lines += re.findall(r"`(causalseg \w+ [^`]+)`", page.read_text())
        commands += [(page.name, line) for line in lines if line.startswith("causalseg ")]
    return [pytest.param(line, id=f"{name}-{line[:60]}") for name, line in commands]


def anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.slow
@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_runs_without_a_warning(file, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", file],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = {
        "attach_to_your_vit": "detached, they are restored: True",
        "train_on_a_folder": "3 predictions",
        "your_own_model": "logits: (4, 19, 96, 128)",
    }
    assert expected[file.stem] in done.stdout


@pytest.mark.parametrize("line", shown_commands())
def test_a_shown_command_is_understood_and_its_options_are_valid(line):
    command, bound, *_ = cli.app.parse_args(
        shlex.split(line, comments=True)[1:], exit_on_error=False, print_error=False
    )
    if command.__name__ not in (*OVERRIDABLE, "evaluate"):
        return
    config = Path(str(bound.args[0]))
    if config.parts[0] == "configs":
        assert (ROOT / config).is_file()
    base = ROOT / config if config.parts[0] == "configs" else CONFIGS[0]
    overrides = [part for part in bound.args[1:] if isinstance(part, str)]
    if command.__name__ in ("evaluate", "predict"):  # which take runs and images, too
        overrides = [part for part in overrides if "=" in part]
    parse_config(yaml.safe_load(base.read_text()), overrides)


@pytest.mark.parametrize("text", shown("yaml"))
def test_a_shown_configuration_is_valid(text):
    assert parse_config(yaml.safe_load(text)).data.domains


@pytest.mark.parametrize(
    "override",
    re.findall(
        r"`((?:backbone|adapter|head|data|train|eval|run)[.\w]*=[^`]+)`",
        # Not those of results, which may be of an earlier version.
        "\n".join(page.read_text() for page in PAGES if not page.name.startswith("compare")),
    ),
)
def test_a_shown_override_is_valid(override):
    base = next(file for file in CONFIGS if "causal" in file.stem)
    assert parse_config(yaml.safe_load(base.read_text()), shlex.split(override)).data.domains


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_shipped_configuration_is_valid_and_short(file):
    text = file.read_text()
    config = parse_config(yaml.safe_load(text))
    assert len(text.splitlines()) <= 20
    if not file.stem.startswith("compare_"):  # its runs have folders of their own
        assert config.run.out == f"runs/{file.stem}"


def test_python_in_the_readme_runs_and_restores_the_vit(tiny, folder, tmp_path, monkeypatch):
    train_run(tiny("train.steps=1", f"run.out={tmp_path}/runs/roads"))
    Image.new("RGB", (50, 40)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names, (text,) = {}, blocks(ROOT / "README.md", "python")
    exec(compile(ast.parse(text), "README.md", "exec"), names)
    with Image.open("overlay.png") as overlay:
        assert overlay.size == (50, 40)
    assert names["tokens"].shape == (1, 1 + 16 * 22, 384)
    assert not any(block._forward_hooks for block in names["vit"].blocks)


def test_python_imports_that_are_shown_exist():
    for page in PAGES:
        shown_imports = re.findall(
            r"^ *from (causalseg[\w.]*) import (.+)$", page.read_text(), re.M
        )
        for module, names in shown_imports:
            for name in names.split(", "):
                assert hasattr(importlib.import_module(module), name), f"{page.name}: {name}"


def test_the_first_two_lines_of_usage_are_the_two_targets():
    usage = (ROOT / "README.md").read_text().split("## Usage")[1]
    lines = [line for line in usage.splitlines() if line and not line.startswith("```")]
    assert lines[0].startswith("make quickstart ")
    assert lines[1].startswith("make test ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_exist(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert heading in map(anchor, headings), target


def test_make_targets_that_are_shown_exist():
    makefile = (ROOT / "Makefile").read_text()
    text = "\n".join(page.read_text() for page in PAGES)
    targets = set(re.findall(r"(?:`|^ *)make ([\w-]+)", text, re.MULTILINE))
    assert {"quickstart", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_methods_files_define_methods():
    for file in ROOT.glob("configs/*methods*.yaml"):
        assert read_methods((), file)


def test_the_citation_is_yaml_and_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["authors"] == [{"name": "The causalseg authors"}]
    assert "2512.16567" in str(citation["references"])
