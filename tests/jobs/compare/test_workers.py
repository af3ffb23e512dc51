"""Several workers in one folder: who takes which cell, one that is killed."""

import os
import re
import signal
import subprocess
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
