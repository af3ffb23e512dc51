"""Several processes train and score as one does; when one ends, all end, and the run can go on."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from causalseg.config.load import parse_config
from causalseg.config.run import RunConfig
from causalseg.engine.devices import make_fabric
from causalseg.errors import ConfigError
from causalseg.jobs.train import train_run
from causalseg.runs.folder import RunFolder
from conftest import SMALL_MASK2FORMER
from killed import assert_equal, train_and_kill, weights

RESUME, FSDP = "run.resume=true", "run.strategy=fsdp"
LONGEST = 900  # seconds on a busy machine; gloo would wait for half an hour
CAUSALSEG = [sys.executable, "-m", "causalseg"]
# Breaks the third step off in one process; such a script is what the processes are started from.
BROKEN_OFF = """
import os, signal, sys
import torch
from causalseg.cli import main
from causalseg.engine import train

set_step, what = train.set_step, os.environ["BREAK"]

def break_off(groups, step, options):
    if step == 2 and what == os.environ.get("LOCAL_RANK", "0"):
        os.kill(os.getpid(), signal.SIGKILL)
    if step == 2 and what == "full":
        torch.save = fail
    set_step(groups, step, options)

def fail(content, path):
    raise OSError(28, "No space left on device")

train.set_step = break_off
main()
"""


@pytest.fixture
def options(tiny_options):
    """Crops with unequal numbers of labelled pixels, and steps large enough to tell."""
    tiny_options["train"] |= {"batch": 4, "lr": 0.01, "augment": {"scale": [0.5, 2.0]}}
    return tiny_options


@pytest.fixture
def alone(options, tmp_path):
    """Make the configuration of one process; two parts of a step are what two processes have."""
    where = f"run.out={tmp_path / 'alone'}"
    return lambda *more: parse_config(options, [where, "train.accumulate=2", *more])


@pytest.fixture
def start(options, tmp_path):
    """Start two processes that train; the output is that of both."""
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(options))

    def start(out, *more, launch=CAUSALSEG, on=("run.devices=2",)):
        command = [*launch, "train", str(file), f"run.out={tmp_path / out}", *on]
        command += ["run.accelerator=cpu", *more]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, text=True, **pipes)

    return start


@pytest.fixture
def together(start, tmp_path):
    """Train on two processes."""

    def train(out, *more, **how):
        process = start(out, *more, **how)
        output, _ = process.communicate(timeout=LONGEST)
        assert process.returncode == 0, output
        return RunFolder(tmp_path / out)

    return train


@pytest.fixture
def broken_off(start, tmp_path, monkeypatch):
    """Train on two processes that end in the third step: one is killed, or the disk is full."""
    script = tmp_path / "main.py"
    script.write_text(BROKEN_OFF)

    def train(out, what, *more):
        monkeypatch.setenv("BREAK", what)
        process = start(out, *more, launch=[sys.executable, str(script)])
        output, _ = process.communicate(timeout=LONGEST)  # the output ends when both have ended
        assert process.returncode != 0
        assert "Traceback" not in output
        run = RunFolder(tmp_path / out)
        assert torch.load(run.checkpoint, weights_only=True)["step"] == 2
        assert not run.head.exists()
        return run, output

    return train


def assert_close(first, second):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.allclose(value, second[key], atol=1e-5), key


def losses(run):
    return [event["loss"] for event in run.read_log() if event["event"] == "train"]


def shapes(content):
    """The tensors in a checkpoint by their shape, and everything around them."""
    if isinstance(content, torch.Tensor):
        return tuple(content.shape)
    if isinstance(content, dict):
        return {key: shapes(value) for key, value in content.items()}
    return [shapes(each) for each in content] if isinstance(content, list | tuple) else content


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ["adapter={name: causal_tune, num_tokens: 4, rank: 2}", "train.clip=0.1"],
        ["adapter=[{name: lora, rank: 2}, {name: rein, num_tokens: 4}]"],
        ["adapter=full"],
        [
            *("train.ema={momentum: 0.25, start: 0.25}", "run.best=here.miou", "run.patience=5"),
            *("data.mean_over=[there]", "eval.every=2"),
        ],
        ["head={name: linear, class_weights: auto}", "intervene={p: 0.5}"],
        [SMALL_MASK2FORMER.replace("}", ", class_weights: auto}"), "consistency={rings: 2}"],
    ],
    ids=["causal_tune", "chain", "full", "average", "balanced", "mask2former"],
)
def test_two_processes_equal_one_with_two_parts(alone, together, more):
    run, other = train_run(alone(*more)), together("together", *more)
    assert (other.best / "best.json").is_file() == ("run.best=here.miou" in more)
    assert_close(run, other)
    assert losses(run) == pytest.approx(losses(other), rel=1e-5)


@pytest.mark.parametrize("head", ["none", "auto"], ids=["plain", "weights"])
def test_parts_of_a_step_change_nothing_where_nothing_is_drawn(alone, tmp_path, head):
    options = (f"head={{name: linear, class_weights: {head}}}", "train.clip=0.1")
    whole = train_run(alone(*options, "train.accumulate=1", f"run.out={tmp_path / 'whole'}"))
    for count in (2, 4):
        out = f"run.out={tmp_path / str(count)}"
        run = train_run(alone(*options, f"train.accumulate={count}", out))
        assert_close(whole, run)
        assert losses(whole) == pytest.approx(losses(run), rel=1e-5)


@pytest.mark.slow
def test_sharded_training_equals_unsharded_and_goes_on_from_any_checkpoint(
    alone, together, broken_off, tmp_path
):
    straight, sharded = train_run(alone()), together("sharded", FSDP)
    assert_close(straight, sharded)
    first, second = (torch.load(r.checkpoint, weights_only=True) for r in (straight, sharded))
    assert shapes(first["model"]) == shapes(second["model"])
    assert shapes(first["optimizer"]["state"]) == shapes(second["optimizer"]["state"])

    begun, _ = broken_off("begun", "1", FSDP)
    assert_close(straight, train_run(alone(RESUME, f"run.out={begun.path}")))
    train_and_kill(alone(f"run.out={tmp_path / 'begun_alone'}"), 3)
    assert_close(straight, together("begun_alone", FSDP, RESUME, "train.accumulate=1"))


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_when_a_process_is_killed_all_end_and_the_run_goes_on_bit_for_bit(
    together, broken_off, rank
):
    _, output = broken_off("killed", rank)
    assert output.count("another process of this run has ended") == 1
    assert_equal(weights(together("killed", RESUME)), weights(together("straight")))


@pytest.mark.slow
def test_a_full_disk_ends_all_processes_with_one_message(broken_off):
    _, output = broken_off("full", "full")
    assert output.count("error:") == 1
    assert "last.ckpt: No space left on device. What was there before is untouched" in output


@pytest.mark.slow
def test_two_nodes_of_torchrun_equal_one_process_and_score_the_same(alone, start, tmp_path):
    run = train_run(alone())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    torchrun += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    nodes = [
        start("nodes", on=["run.nodes=2"], launch=[*torchrun, f"--node-rank={i}", *CAUSALSEG[1:]])
        for i in range(2)
    ]
    outputs = [node.communicate(timeout=LONGEST)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert_close(run, RunFolder(tmp_path / "nodes"))


@pytest.mark.slow
def test_two_processes_score_exactly_as_one(alone):
    run = train_run(alone())
    one = run.read_json(run.eval)
    command = [*CAUSALSEG, "eval", str(run.path), "run.devices=2", "run.accelerator=cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST)
    assert done.returncode == 0, done.stderr
    assert run.read_json(run.eval)["domains"] == one["domains"]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["run.devices=3"], r"train.batch = 4 does not divide over .* 3 processes"),
        (["train.accumulate=3"], r"train.accumulate = 3 parts each: make it a multiple of 3"),
        ([FSDP], "run.strategy = fsdp needs several processes"),
        (["run.strategy=ddp"], "run.strategy = ddp needs several processes"),
    ],
)
def test_what_does_not_fit_the_processes_is_refused_before_they_start(alone, more, text):
    config = alone("train.accumulate=1", "run.accelerator=cpu", *more)
    with pytest.raises(ConfigError, match=text):
        train_run(config)
    assert not Path(config.run.out).exists()


def test_other_processes_than_configured_are_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="started 2 processes, .* 1 x 1 asks for 1: set run.dev"):
        make_fabric(RunConfig(accelerator="cpu"))
