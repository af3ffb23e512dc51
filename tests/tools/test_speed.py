"""Benchmarks: what they compute from times is right, and the page says what was measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import measure
import memory
import scaling
import speed
from measure import Target

ROOT = Path(__file__).parents[2]


def test_a_ratio_is_the_median_within_rounds_and_knows_its_target():
    times = {"ours": [1.0, 9.0, 3.0], "base": [2.0, 3.0, 6.0]}
    assert measure.ratio(times, "ours", "base") == 0.5
    rows = [{"case": "ours", "/base": 0.5}]
    targets = [Target("ours", "/base", 0.4), Target("ours", "/base", 0.5), Target("x", "/base", 1)]
    assert [row["held"] for row in measure.check(rows, targets)] == [False, True]


def test_every_run_is_timed_once_a_round_and_the_first_is_not_kept():
    calls = []
    runs = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    times = measure.interleave(runs, rounds=2)
    assert calls == ["a", "b"] * 3
    assert [len(each) for each in times.values()] == [2, 2]


def test_the_exponent_of_a_power_is_exact():
    assert scaling.fit_exponent([1, 4, 16], [3, 24, 192]) == pytest.approx(1.5)


def test_the_peak_counts_what_exists_at_once():
    with memory.PeakBytes() as mode:
        x = torch.zeros(1000)
        y = x + 1
        x = x.view(10, 100)  # the same storage
        del x, y
        torch.ones(500)
    assert mode.peak == 8000
    assert mode.now == 0


def test_the_page_has_the_figures_of_the_file(tmp_path):
    page, file = tmp_path / "speed.md", tmp_path / "bench.json"
    page.write_text(f"before\n{speed.START}\nold\n{speed.END}\nafter\n")
    steps = [
        {"case": "head only", "/floor": 0.4},
        {"case": "causal_tune", "ms": 2000, "/lora": 0.9, "/floor": 1.07},
    ]
    target = {"case": "causal_tune", "figure": "/floor", "limit": 1.15, "value": 1.07, "held": True}
    sizes = {"batch 1": 1.5, "batch 4": 3.0}
    sizes |= {f"{name}, checkpointing": 1.0 for name in sizes}
    benchmarks = {
        "step": {"about": "A step.", "rows": steps, "targets": [target]},
        "memory": {"about": "", "rows": [{"case": "ViT-S, lora", **sizes}], "targets": []},
    }
    machine = dict.fromkeys(("cpu", "cores", "device", "precision", "torch", "python"), "x")
    file.write_text(json.dumps({"machine": machine, "benchmarks": benchmarks}))
    text = speed.speed_page(page, file)
    assert text.startswith("before\n")
    assert text.endswith(f"{speed.END}\nafter\n")
    assert "takes 1.07 of the floor" in text
    assert "| step | causal_tune | /floor | 1.07 | 1.15 | held |" in text
    assert "| ViT-S, lora | 1.00 + 0.50 × images | 1.00 + 0.00 × images |" in text
    assert "| head only | 0.4 | – | – |" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA card")
@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_the_script_for_cards_says_that_there_is_none(tmp_path):
    script = ROOT / "benchmarks" / "gpu.sh"
    done = subprocess.run(
        ["sh", script, tmp_path / "out"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: torch finds no CUDA card")
    assert not (tmp_path / "out").exists()
