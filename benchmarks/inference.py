"""What sliding windows cost: peak memory of a large image, and windows in batches.

    python benchmarks/inference.py [--threads 1] [--rounds 5] [--quick] [--json FILE]

Memory: a random image of 4000 x 3000 in windows of 518, stride 345, DINOv2 ViT-S/14 with random
weights, 19 classes, windows in batches of the default. Each head is run in a process of its own,
which tells the most memory it ever held; the scores alone take 0.91 GB. `--quick` takes 800 x 600.

Speed: CPU time, which does not count what other processes take, of the linear head on windows of
512 with patches of 16. The batches take turns, and each ratio is the median over rounds of the
ratio within a round: a machine that changes its speed changes both sides. Below 1 a batch is faster
than one window at a time.
"""

import argparse
import json
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from causalseg.build.model import build_segmenter
from causalseg.config.inference import InferenceConfig
from causalseg.config.load import parse_config
from causalseg.engine.infer import predict
from causalseg.model import Segmenter

LIMIT = 4.0  # GB
HEADS = ("linear", "mask2former")
BATCHES = (1, 2, 4, 8)
LARGE, SMALL = (3000, 4000), (600, 800)  # height, width
PATCH_16 = ("backbone.patch=16", "train.crop=[512, 512]", "head=linear")


def build(*overrides: str) -> tuple[Segmenter, InferenceConfig]:
    """Build a ViT-S with random weights and 19 classes, and its inference."""
    options = {
        "backbone": {"name": "dinov2_vits14", "weights": "random"},
        "adapter": "none",
        "data": {"classes": "cityscapes19", "sources": [], "domains": {}},
    }
    config = parse_config(options, overrides)
    return build_segmenter(config).eval(), config.inference


def measure_memory(head: str, size: tuple[int, int], threads: int) -> dict[str, Any]:
    """Predict one image in this process and return the most memory it ever held."""
    torch.set_num_threads(threads)
    model, inference = build(f"head={head}")
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    before = peak_gb()
    start = time.perf_counter()
    scores = predict(model, image, inference)
    seconds = time.perf_counter() - start
    return {
        "head": head,
        "size": size,
        "window": inference.window,
        "stride": inference.stride,
        "windows_at_once": inference.windows_at_once,
        "seconds": round(seconds, 1),
        "scores_gb": round(4 * scores.numel() / 1e9, 3),
        "before_gb": round(before, 3),
        "peak_gb": round(peak_gb(), 3),
    }


def peak_gb() -> float:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


def measure_speed(rounds: int, num_windows: int) -> list[dict[str, Any]]:
    """Time each number of windows at once on a strip of ``num_windows`` windows side by side."""
    model, inference = build(*PATCH_16, "eval.stride=[512, 512]")
    height, width = inference.window
    image = torch.rand(3, height, num_windows * width, generator=torch.Generator().manual_seed(0))
    times: dict[int, list[float]] = {count: [] for count in BATCHES}
    for round_number in range(rounds + 1):
        for count in BATCHES:
            batched = inference.model_copy(update={"windows_at_once": count})
            start = time.process_time()
            predict(model, image, batched)
            if round_number:  # the first round warms up
                times[count].append((time.process_time() - start) / num_windows)
    return [
        {
            "windows_at_once": count,
            "cpu_seconds_a_window": round(statistics.median(times[count]), 3),
            "/one": round(
                statistics.median(a / b for a, b in zip(times[count], times[1], strict=True)), 3
            ),
        }
        for count in BATCHES
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a small image, one round")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads")
    print("\nhead          image        seconds  scores GB  before GB  peak GB")
    memory, size = [], SMALL if options.quick else LARGE
    for head in HEADS:  # first of all: a new process starts with the peak of its parent
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            row = pool.submit(measure_memory, head, size, options.threads).result()
        memory.append(row)
        verdict = "within" if row["peak_gb"] <= LIMIT else "ABOVE"
        print(
            f"{head:12s}  {size[1]} x {size[0]:<5d} {row['seconds']:8.1f} {row['scores_gb']:10.2f} "
            f"{row['before_gb']:10.2f} {row['peak_gb']:8.2f}  {verdict} the limit of {LIMIT:g} GB",
            flush=True,
        )
    speed = measure_speed(1 if options.quick else options.rounds, max(BATCHES))
    print("\nwindows at once  CPU s a window  /one at a time")
    for row in speed:
        print(
            f"{row['windows_at_once']:15d} {row['cpu_seconds_a_window']:15.3f} {row['/one']:15.3f}"
        )
    if options.json:
        about = {"torch": torch.__version__, "threads": options.threads, "limit_gb": LIMIT}
        options.json.write_text(
            json.dumps({**about, "memory": memory, "speed": speed}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
