"""Several workers in one folder: who takes which cell, one that is killed, workers under SLURM."""

import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest

from causalseg.errors import RunError
from causalseg.jobs.compare.study import run_study
from causalseg.jobs.compare.workers import join_workers
from causalseg.jobs.train import train_run
from causalseg.report.comparison import read_study
from causalseg.report.comparison_page import comparison_to_markdown
from causalseg.runs.folder import RunFolder, locked
from command_line import run

CELLS = [("none", 0), ("tuned", 0), ("none", 1), ("tuned", 1)]


def files_of(folder):
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def scores_of(comparison):
    """All that a table says but time and memory."""
    rows = [
        (row.method, row.seeds, {seed: each.eval for seed, each in row.results.items()}, row.change)
        for row in comparison.rows
    ]
    return comparison.reference, rows


def test_a_cell_that_another_worker_has_is_left_to_it_and_named(plan, caplog):
    study = plan(names=("none",))
    (cell,) = study.cells
    caplog.set_level("INFO", "causalseg")
    for claimed in ((cell.run.path.parent, ".seed0"), (cell.run.path,)):
        caplog.clear()
        with locked(*claimed):
            assert run_study(study) == (None, [])
        assert caplog.messages[-1] == "run by other workers: none seed 0"
    with locked(cell.run.path), pytest.raises(RunError, match="seed0 is in use by process"):
        train_run(cell.config)
    assert not cell.run.log.exists()


def test_only_workers_of_the_same_comparison_are_in_a_folder(plan):
    study = plan(names=("none",))
    other = plan("train.lr=0.5", names=("none",))
    same = plan("run.threads=2", "train.workers=1", names=("none",))
    with (
        join_workers(study.out, study.cells, study.reference) as first,
        join_workers(same.out, same.cells, same.reference) as second,
    ):
        assert (first, second) == (0, 1)
        with pytest.raises(RunError, match=rf"another comparison runs in .*process {os.getpid()}"):
            run_study(other)
    with join_workers(other.out, other.cells, other.reference) as first:
        assert first == 0


def test_rows_have_the_order_of_the_command_whatever_is_finished_first(plan):
    study = plan()
    train_run(study.cells[1].config)
    run_study(study._replace(cells=study.cells[1:]))
    assert [method.name for method in plan().methods] == ["none", "tuned"]
    assert plan().reference == "none"


def wait_for(condition):
    deadline = time.monotonic() + 300
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


@pytest.mark.slow
def test_three_workers_of_which_one_is_killed_make_the_table_of_one(plan, command, tmp_path):
    out = tmp_path / "out"
    line = command("--seeds", "0,1", "train.steps=60", "run.save_every=1")
    workers = [
        subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(3)
    ]
    checkpoint = wait_for(lambda: next(out.glob("*/seed?/last.ckpt"), None))
    killed = checkpoint.parent
    owners = (killed.with_name(f".{killed.name}.owner"), killed / ".owner")
    worker, training = (int(re.search(r"\d+", file.read_text())[0]) for file in owners)
    os.kill(worker, signal.SIGKILL)
    os.killpg(training, signal.SIGKILL)
    told = {process.pid: process.communicate(timeout=500)[0] for process in workers}
    codes = {process.pid: process.returncode for process in workers}
    assert codes == {**dict.fromkeys(codes, 0), worker: -signal.SIGKILL}, told
    for name, seed in CELLS:
        cell = out / name / f"seed{seed}"
        events = RunFolder(cell).read_log()
        assert [e["step"] for e in events if e["event"] == "train"] == list(range(1, 61))
        starts = [e["step"] for e in events if e["event"] == "start"]
        assert len(starts) == 1 + (cell == killed)
        assert all(first < second for first, second in pairwise(starts))
        done = [text.count(f"{name} seed {seed}: finished") for text in told.values()]
        assert sum(done) == 1
    together = read_study(out / "results")
    assert together.missing == []
    assert (out / "compare.md").read_text().endswith(comparison_to_markdown(together))

    before = files_of(out / "results")
    alone = plan("train.steps=60", "run.save_every=1", seeds=(0, 1))
    assert run_study(alone)[0] == together
    assert files_of(out / "results") == before
    out.rename(tmp_path / "together")
    for cell in alone.cells:
        train_run(cell.config)
    assert scores_of(run_study(alone)[0]) == scores_of(together)


SBATCH = """#!{python}
import os, shlex, subprocess, sys
script = open(sys.argv[1]).read()
head = script.split("\\nexec ")[0].splitlines()
lines = [shlex.split(line)[1] for line in head if line.startswith("#SBATCH ")]
options = dict(line.removeprefix("--").partition("=")[::2] for line in lines)
known = {{"time", "cpus-per-task", "job-name", "array", "ntasks", "gpus-per-task", "chdir"}}
if unknown := options.keys() - known - {{"signal", "requeue", "open-mode"}}:
    sys.exit(f"sbatch: unrecognized option {{unknown}}")
first, last = map(int, options["array"].split("-"))
tasks = []
for index in range(first, last + 1):
    own = {{"SLURM_ARRAY_TASK_ID": str(index), "SLURM_JOB_ID": str(7 + index)}}
    own |= {{"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_NAME": options["job-name"]}}
    own |= {{"SLURM_NODELIST": "node[1-2]", "SLURM_NTASKS_PER_NODE": "3"}}
    task = subprocess.Popen(["bash", sys.argv[1]], cwd=options["chdir"], env=os.environ | own)
    tasks.append(task)
sys.exit(max(task.wait() for task in tasks))
"""


@pytest.mark.slow
def test_an_array_of_slurm_runs_every_cell_once(command, tmp_path, monkeypatch):
    stub, script = tmp_path / "bin" / "sbatch", tmp_path / "job.sh"
    stub.parent.mkdir()
    stub.write_text(SBATCH.format(python=sys.executable))
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}:{os.environ['PATH']}")
    asked = command("--seeds", "0", "--jobs", "2", f"--slurm={script}")[3:]
    assert run(*asked) == 0
    assert not (tmp_path / "out").exists()
    text = script.read_text()
    for part in ("--array=0-1", "--gpus-per-task=1", "--signal=B:TERM@120", "--requeue"):
        assert f"#SBATCH {part}\n" in text
    subprocess.run(["sbatch", script], check=True, timeout=500)
    comparison = read_study(tmp_path / "out" / "results")
    assert (comparison.missing, len(comparison.rows)) == ([], 2)
    for name in ("none", "tuned"):
        events = RunFolder(tmp_path / "out" / name / "seed0").read_log()
        assert [e["event"] for e in events].count("start") == 1


def test_the_script_has_the_command_without_its_own_options(config, tmp_path, capsys):
    script, out = tmp_path / "job.sh", tmp_path / "a folder"
    grid = "adapter.rank=2,4"
    line = ["sweep", config, "adapter=lora", "run.accelerator=cpu", "--grid", grid, "--out", out]
    assert run(*line, "--slurm", script, "--jobs=3") == 0
    assert f"sbatch {script}" in capsys.readouterr().out
    text = script.read_text()
    assert "gpus-per-task" not in text
    assert "#SBATCH --array=0-2\n" in text
    (start,) = re.findall("^exec (.*)", text, re.MULTILINE)
    assert start.endswith(f"adapter=lora run.accelerator=cpu --grid {grid} --out '{out}'")
